"""Find text that may identify a patient, screen cases for it, and replace ids by pseudonyms.

Detection is incomplete. It knows the common forms of names, dates, places and numbers (the HIPAA safe harbor identifiers that occur in
free text) and the names and numbers that the source gives. It avoids false alarms on radiology terms: vertebral levels, sequences,
fractions, measurements, ages and durations.
"""

import hashlib
import hmac
import os
import re
import secrets
import unicodedata
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chiron.cases.case import Case
from chiron.errors import DiskError, InputError
from chiron.importing.phi_patterns import PATTERNS, PhiKind, harmless
from chiron.text import without_accents

_STROKES = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "æ": "a", "œ": "o", "\u0131": "i", "ð": "d", "þ": "th"})
_UMLAUT = re.compile(r"([aou])e")


def fold(text: str) -> str:
    """Normalize case and accents, and drop the ``e`` of spelled-out umlauts.

    Both sides of a comparison must be folded, since it is unknown which ``ue`` stands for an umlaut.
    """
    return _UMLAUT.sub(r"\1", without_accents(text).translate(_STROKES))


def spellings(word: str) -> tuple[str, ...]:
    """Return the forms of a word to compare with known names: folded, and also without a genitive ``s``."""
    folded = fold(word)
    return (folded, folded[:-1]) if len(folded) >= 4 and folded.endswith("s") else (folded,)


@dataclass(frozen=True, slots=True)
class PhiMatch:
    """Piece of text that may identify someone."""

    kind: PhiKind
    start: int
    """Offset in characters."""
    end: int
    """Offset in characters, exclusive."""
    line: int
    """Line of the text, from 1."""


def find_identifying(text: str, known: Collection[str] = ()) -> tuple[PhiMatch, ...]:
    """Find every piece of ``text`` that may identify someone, in order.

    Args:
        text: free text of any length; the running time is linear in it.
        known: the patient's names and numbers from the source; matched as whole words in any case and spelling.
    """
    found = {*_by_form(text), *_known(text, known)}
    return tuple(PhiMatch(kind, start, end, 1 + text.count("\n", 0, start)) for start, end, kind in sorted(found))


def identifiers(*values: object) -> frozenset[str]:
    """Split names and numbers into words to search for: ``Smith^John`` gives ``smith`` and ``john``, ``O'Brien`` also ``obrien``.

    Words under three letters and numbers under four digits are too common and are ignored. The letters of a word with digits are not used
    alone: ``MRI-0012`` is searched for as a whole, and as ``0012``.
    """
    return frozenset(
        word
        for token in _tokens(values)
        for word in {token, *(_PARTS.findall(token)), _BETWEEN.sub("", token)}
        if (len(word) >= 4 if any(c.isdigit() for c in word) else len(word) >= 3 and not any(c.isdigit() for c in token))
        and word not in _NO_NAMES
    )


def names(*values: object) -> frozenset[str]:
    """Do the same as :func:`identifiers` for values that are only names: two letters suffice (``Li^Wu``), and digits are ignored."""
    parts = {part for token in _tokens(values) for part in _PARTS.findall(token) if part.isalpha() and len(part) >= 2}
    return identifiers(*values) | frozenset(parts - _NO_NAMES)


def named(values: Iterable[object]) -> frozenset[str]:
    """Return the search words for values of unknown kind; text without digits is treated as a name."""
    word_text = [str(value) for value in values if isinstance(value, str | int)]
    return identifiers(*word_text) | names(*(value for value in word_text if not any(c.isdigit() for c in value)))


def _tokens(values: Collection[object]) -> Iterator[str]:
    for value in values:
        if value is not None:
            yield from (token for token in re.split(r"[\s^=,;.]+", fold(str(value))) if token)


_PARTS = re.compile(r"[^\W_]+")
_BETWEEN = re.compile(r"[\W_]+")
_NO_NAMES = frozenset(
    "anon anonymous anonymized anonymised unknown none null patient test phantom name male female the and for with without left right"
    " chest head neck brain spine knee dr mr ms md st ct us pt xa cr dx mg nm ap pa lt rt iv".split()
)
"""Placeholders for names, and words that occur in any report."""


def _known(text: str, known: Collection[str]) -> Iterator[tuple[int, int, PhiKind]]:
    for word in _WHOLE.finditer(text) if known else ():
        parts = [(part.group(), part.start() + word.start()) for part in _PIECES.finditer(word.group())]
        for word_text, start in [(word.group(), word.start())] if fold(word.group()) in known else parts:
            # Two letters are a name only if capitalized: "Li" and "LI", but not the "do" in "do not".
            if any(form in known for form in spellings(word_text)) and (len(word_text) > 2 or word_text[0].isupper()):
                yield start, start + len(word_text), PhiKind.RECORD if any(c.isdigit() for c in word_text) else PhiKind.NAME


_MARKS = "\u0300-\u036f"
"""Combining accents, which some systems store after the letter."""
_WHOLE = re.compile(rf"[\w{_MARKS}-]+")
_PIECES = re.compile(rf"(?:[^\W_]|[{_MARKS}])+")
_CLUSTER = re.compile(rf"[^{_MARKS}][{_MARKS}]*|[{_MARKS}]+")


def _by_form(text: str) -> Iterator[tuple[int, int, PhiKind]]:
    composed, offsets = _composed(text)
    for kind, pattern in PATTERNS:
        for match in pattern.finditer(composed):
            if not harmless(kind, match, composed):
                yield (match.start(), match.end(), kind) if offsets is None else (offsets[match.start()], offsets[match.end()], kind)


def _composed(text: str) -> tuple[str, list[int] | None]:
    """Return the text in composed form (NFC), and each character's offset in the original; None if unchanged."""
    if unicodedata.is_normalized("NFC", text):
        return text, None
    pieces: list[str] = []
    offsets: list[int] = []
    for cluster in _CLUSTER.finditer(text):
        piece = unicodedata.normalize("NFC", cluster.group())
        pieces.append(piece)
        # All characters of a cluster map to the start of the cluster.
        offsets += [cluster.start()] * len(piece)
    return "".join(pieces), [*offsets, len(text)]


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
