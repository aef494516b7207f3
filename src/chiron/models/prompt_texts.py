"""Prompts as texts: files in a package, the user's own in place of some, hashed into ``run.json``, filled in one pass."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template

from chiron.errors import InputError


@dataclass(frozen=True)
class PromptKind:
    """The prompts of one job."""

    package: str
    """Whose folder ``prompts/`` holds ``NAME.txt``."""
    placeholders: Mapping[str, frozenset[str]]
    """What each must ask for, by name."""
    optional: frozenset[str] = frozenset()
    """Of these, what a user's own text may leave out."""

    def load(self, replacements: Mapping[str, Path] | None = None) -> dict[str, str]:
        """The package's texts, with the user's own files in place of some.

        Raises:
            InputError: an unknown name, a file that cannot be read, or one that lacks a placeholder.
        """
        texts = {name: (files(self.package) / "prompts" / f"{name}.txt").read_text("utf-8") for name in self.placeholders}
        for name, path in (replacements or {}).items():
            if name not in texts:
                raise InputError(f"no prompt is called '{name}': there are {', '.join(self.placeholders)}")
            try:
                text = path.read_text("utf-8")
            except (OSError, ValueError) as error:
                raise InputError(f"prompt '{name}': {path} cannot be read ({error})") from error
            self._check(name, text, path)
            texts[name] = text
        return texts

    def _check(self, name: str, text: str, path: Path) -> None:
        try:
            found = set(Template(text).get_identifiers())
            Template(text).substitute(dict.fromkeys(found, ""))
        except ValueError as error:
            raise InputError(f"prompt '{name}': {path}: {error}; write $$ for a dollar sign") from error
        wanted = self.placeholders[name]
        if missing := wanted - found - self.optional:
            raise InputError(f"prompt '{name}': {path} lacks ${', $'.join(sorted(missing))}")
        if unknown := found - wanted:
            raise InputError(f"prompt '{name}': {path} asks for ${', $'.join(sorted(unknown))}; it may use ${', $'.join(sorted(wanted))}")


def hashes(texts: Mapping[str, str]) -> dict[str, str]:
    """SHA-256 (hex) of each text; they stand in ``run.json``."""
    return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in sorted(texts.items())}


def fill(text: str, **values: str) -> str:
    """``text`` with its placeholders filled, in one pass: a ``$answer`` inside a value stays what it is."""
    return Template(text).substitute(values).strip()
