"""Screen cases for identifying text and replace ids by pseudonyms."""

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from chiron.cases.case import Case
from chiron.errors import DiskError, InputError
from chiron.importing.phi_detector import find_identifying
from chiron.importing.phi_patterns import PhiKind


def screen(case: Case, known: Collection[str] = ()) -> list[str]:
    """Return kind and place of each identifying text, such as ``date in findings[2], line 3``, but never the text itself."""
    found_text = []
    for field, text in _texts(case):
        marks = find_identifying(text, known)
        if field in {"id", "patient"}:
            # Ids normally contain numbers, so only names and emails count.
            marks = tuple(m for m in marks if m.kind in {PhiKind.NAME, PhiKind.EMAIL})
        found_text += sorted({f"{m.kind} in {field}, line {m.line}" for m in marks})
    return found_text


def longest_text(case: Case) -> tuple[str, str]:
    """Return the name of the field with the longest text, and the text."""
    return max(_texts(case), key=lambda found: len(found[1]))


def _texts(case: Case) -> Iterator[tuple[str, str]]:
    yield "id", case.id
    yield "question", case.question
    yield "answer", case.answer
    yield "history", case.history
    for number, text in enumerate(case.findings, start=1):
        yield f"findings[{number}]", text
    for field in ("age", "sex", "title", "modality", "body_system"):
        if (value := getattr(case, field)) is not None:
            yield field, value
    for key, value in case.meta.items():
        yield from _named(str(key), "", value)


def _named(key: str, above: str, value: Any, depth: int = 0) -> Iterator[tuple[str, str]]:
    """Yield a field's name and its values. A name that may identify someone is not used in messages."""
    shown = "a field" if find_identifying(key) else key
    field = f"{above}.{shown}" if above else shown
    yield f"the name of {field}", key
    yield from _strings(field, value, depth)


def _strings(field: str, value: Any, depth: int = 0) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield field, value
    elif isinstance(value, dict) and depth < 20:
        for key, inner in value.items():
            yield from _named(str(key), field, inner, depth + 1)
    elif isinstance(value, list | tuple) and depth < 20:
        for number, inner in enumerate(value, start=1):
            yield from _strings(f"{field}[{number}]", inner, depth + 1)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        # Programs that read a numeric column turn the number 44556671 into 44556671.0.
        yield field, str(value).removesuffix(".0")


_PLAIN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,79}")


class Pseudonyms:
    """Pseudonyms from HMAC-SHA256 with a salt, cut to 64 bits: a million ids collide with probability 1 in 37 million."""

    def __init__(self, salt: bytes) -> None:
        """Set the salt: at least 16 random bytes."""
        self._salt = salt

    def name(self, kind: str, value: str) -> str:
        """Return a pseudonym such as ``case-5f1d0c9a77e2b613``. ``kind`` separates a patient and a study with the same number."""
        return f"{kind}-{hmac.new(self._salt, f'{kind}:{value}'.encode('utf-8', 'replace'), hashlib.sha256).hexdigest()[:16]}"


def load_pseudonyms(path: Path) -> Pseudonyms:
    """Read the salt file, or create one that only its owner can read.

    Raises:
        InputError: the file holds no valid salt.
        DiskError: the file cannot be read or created.
    """
    try:
        try:
            text = path.read_text("ascii").strip()
        except FileNotFoundError:
            text = secrets.token_hex(32)
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
                file.write(text + "\n")
        salt = bytes.fromhex(text)
    except ValueError:
        salt = b""
    except OSError as error:
        raise DiskError(f"salt {path} cannot be read or made: {error.strerror}") from error
    if len(salt) < 16:
        raise InputError(f"{path} does not contain a salt (at least 32 hexadecimal digits): delete it for new pseudonyms")
    return Pseudonyms(salt)


def folder_name(case_id: str) -> str:
    """Return a case's folder name under ``images/``: the id if it is a plain file name, else a hash of it."""
    if _PLAIN.fullmatch(case_id):
        return case_id
    return f"id-{hashlib.sha256(case_id.encode('utf-8', 'replace')).hexdigest()[:16]}"
