"""Prompt texts: files of a package or the user's own, named sections, and images placed at marks in a text."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import ClassVar, Self

from chiron.cases.case import IMAGE_MARK
from chiron.client.call import ImagePart, Message, TextPart
from chiron.errors import InputError


@dataclass(frozen=True)
class PromptSet:
    """The prompt texts of one job. Each prompt is a file ``prompts/NAME.txt`` of a package, or the user's own file."""

    package: ClassVar[str]
    placeholders: ClassVar[Mapping[str, frozenset[str]]]
    """Placeholders that each prompt must contain, by prompt name."""
    optional: ClassVar[frozenset[str]] = frozenset()
    """Placeholders that a user's own text may omit."""

    texts: Mapping[str, str]
    """Texts by name; all names of ``placeholders``."""

    @classmethod
    def load(cls, replacements: Mapping[str, Path | str] | None = None) -> Self:
        """Load the package's texts, with the user's own files in place of some.

        Raises:
            InputError: unknown name, unreadable file, or missing placeholder.
        """
        texts = {name: (files(cls.package) / "prompts" / f"{name}.txt").read_text("utf-8") for name in cls.placeholders}
        for name, path in (replacements or {}).items():
            if name not in texts:
                raise InputError(f"unknown prompt '{name}'; choose one of {', '.join(cls.placeholders)}")
            try:
                texts[name] = Path(path).read_text("utf-8")
            except (OSError, ValueError) as error:
                raise InputError(f"prompt '{name}': {path} cannot be read ({error})") from error
            cls._check(name, texts[name], path)
        return cls(texts)

    @classmethod
    def _check(cls, name: str, text: str, path: Path | str) -> None:
        try:
            found = set(Template(text).get_identifiers())
            Template(text).substitute(dict.fromkeys(found, ""))
        except ValueError as error:
            raise InputError(f"prompt '{name}': {path}: {error}; write $$ for a dollar sign") from error
        wanted = cls.placeholders[name]
        if missing := wanted - found - cls.optional:
            raise InputError(f"prompt '{name}': {path} lacks ${', $'.join(sorted(missing))}: add it")
        if unknown := found - wanted:
            known = f"it may use ${', $'.join(sorted(wanted))}" if wanted else "it may use no placeholder"
            raise InputError(f"prompt '{name}': {path} contains the unknown placeholder ${', $'.join(sorted(unknown))}; {known}")

    def hashes(self, *names: str) -> dict[str, str]:
        """Return the SHA-256 (hex) of the named texts, or of all, for ``run.json``."""
        return hashes({name: self.texts[name] for name in names or self.texts})

    def fill(self, name: str, **values: str) -> str:
        return fill(self.texts[name], **values)

    def with_system(self, system: str, user: Message) -> tuple[Message, ...]:
        """Put a system prompt before the user's message.

        An empty prompt means no system message, because endpoints handle an empty one differently.
        """
        text = self.texts[system].strip()
        return (*((Message("system", (TextPart(text),)),) if text else ()), user)


def hashes(texts: Mapping[str, str]) -> dict[str, str]:
    """Return the SHA-256 (hex) of each text, for ``run.json``."""
    return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in sorted(texts.items())}


def fill(text: str, **values: str) -> str:
    """Fill the placeholders of ``text`` in one pass, so that ``$answer`` inside a value stays unchanged."""
    return Template(text).substitute(values).strip()


NAMES = (
    "question", "history", "findings", "answer", "reasoning", "known_answer", "given_answer", "title", "manner", "options",
    "wrong_step", "right_step",
)  # fmt: skip
_TAG = re.compile(rf"<(?=\s{{0,8}}/?\s{{0,8}}(?:{'|'.join(NAMES)})\b)", re.IGNORECASE)


def section(name: str, text: str) -> str:
    """Wrap ``text`` in a section. The text cannot close the section."""
    return f"<{name}>\n{harmless(text)}\n</{name}>"


def harmless(text: str) -> str:
    """Return ``text`` without anything that looks like a section mark; ``<25%`` stays unchanged."""
    return _TAG.sub("\u2039", text)


def read_section(prompt: str, name: str) -> str | None:
    """Return the content of the last section with that name, or ``None``."""
    begin = prompt.rfind(f"<{name}>\n")
    if begin < 0:
        return None
    begin += len(name) + 3
    end = prompt.find(f"\n</{name}>", begin - 1)
    return prompt[begin:end] if end >= begin else "" if end == begin - 1 else None


_HOLE = "\x00chiron:image\x00"
"""Internal image mark, used while a template is filled. Image marks in a template or in a model's text are plain text."""


def own_marks(text: str) -> str:
    """Convert the image marks of ``text`` to the internal mark that :func:`user_message` replaces."""
    return text.replace(IMAGE_MARK, _HOLE)


def user_message(body: str, pictures: Sequence[ImagePart]) -> Message:
    """Create a user's message with each picture at its mark. Pictures without a mark come first.

    A body without marks has the original form: pictures, then text. If there are fewer pictures than marks, all marks are removed.

    ``body``: its marks were converted by :func:`own_marks`. ``pictures``: in the order of the marks.
    """
    pieces = body.split(_HOLE)
    first = len(pictures) - (len(pieces) - 1)
    if len(pieces) == 1 or first < 0:
        text = "".join(pieces).strip()
        return Message("user", (*pictures, *([TextPart(text)] if text else [])))
    gaps = ["", *["\n"] * first]
    gaps[-1] += pieces[0]
    parts: list[TextPart | ImagePart] = [TextPart(gaps[0])]
    for picture, gap in zip(pictures, [*gaps[1:], *pieces[1:]], strict=True):
        parts += [picture, TextPart(gap)]
    return Message("user", tuple(part for part in parts if part != TextPart("")), inline=True)


def texts_between(message: Message, beside_image: str) -> tuple[str, ...]:
    """Return the texts before, between and after the message's images: one more than there are images.

    ``beside_image``: separator between an image and adjacent text, unless the message has its images ``inline``.
    """
    beside = "" if message.inline else beside_image
    texts = [""]
    before: TextPart | ImagePart | None = None
    for part in message.parts:
        words = part.text if isinstance(part, TextPart) else None
        if words == "":
            continue
        if before is not None:
            texts[-1] += beside if words is None or isinstance(before, ImagePart) else "\n"
        if words is None:
            texts.append("")
        else:
            texts[-1] += words
        before = part
    return tuple(texts)
