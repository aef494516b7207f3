"""Find text that may identify a patient; report its position and kind, but never the text itself.

Detection is incomplete. It knows the common forms of names, dates, places and numbers (the HIPAA safe harbor identifiers that occur in
free text) and the names and numbers that the source gives. It avoids false alarms on radiology terms: vertebral levels, sequences,
fractions, measurements, ages and durations.
"""

import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

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
    found = [*_by_form(text), *_known(text, known)]
    ends = [i for i, character in enumerate(text) if character == "\n"] if found else []
    return tuple(
        PhiMatch(kind, start, end, 1 + sum(e < start for e in ends))
        for start, end, kind in sorted(set(found), key=lambda f: (f[0], f[1], f[2]))
    )


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
