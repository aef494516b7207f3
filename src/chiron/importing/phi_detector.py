"""Free text that may say who a patient is: where it stands and of what kind it is, and never what it says.

A net, and it has holes: it knows the forms in which reports name people, days, places and numbers (the identifiers of HIPAA's safe
harbour that occur in free text), and whatever the source itself gives as a name or number. It is made to leave radiology alone:
vertebral levels, sequences, fractions, measurements, ages and durations are no dates and no numbers of anybody.
"""

import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from chiron.importing.phi_patterns import PATTERNS, PhiKind, harmless

_STROKES = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "æ": "a", "œ": "o", "\u0131": "i", "ð": "d", "þ": "th"})
_UMLAUT = re.compile(r"([aou])e")


def fold(text: str) -> str:
    """Text without case, accents and the ``e`` of an umlaut that is spelled out.

    The spelled-out umlaut goes from both sides of a comparison: which ``ue`` is an umlaut, and which is not, cannot be known.
    """
    if not text.isascii():
        decomposed = unicodedata.normalize("NFKD", text.casefold())
        text = "".join(c for c in decomposed if not unicodedata.combining(c)).translate(_STROKES)
    return _UMLAUT.sub(r"\1", text.casefold())


def spellings(word: str) -> tuple[str, ...]:
    """A word of a text as it is compared with known names: folded, and without the ``s`` of a genitive."""
    folded = fold(word)
    return (folded, folded[:-1]) if len(folded) >= 4 and folded.endswith("s") else (folded,)


@dataclass(frozen=True, slots=True)
class PhiMatch:
    """A piece of text that may identify somebody."""

    kind: PhiKind
    start: int
    """Offset in characters."""
    end: int
    """Offset in characters, exclusive."""
    line: int
    """Line of the text, from 1."""


def find_identifying(text: str, known: Collection[str] = ()) -> tuple[PhiMatch, ...]:
    """Every piece of ``text`` that may identify somebody, in order.

    Args:
        text: free text of any length; the time taken grows with its length and no faster.
        known: names and numbers of this patient, as the source gives them elsewhere; found as whole words in any case and spelling.
    """
    found = [*_by_form(text), *_known(text, known)]
    ends = [i for i, character in enumerate(text) if character == "\n"] if found else []
    return tuple(
        PhiMatch(kind, start, end, 1 + sum(e < start for e in ends))
        for start, end, kind in sorted(set(found), key=lambda f: (f[0], f[1], f[2]))
    )


def identifiers(*values: object) -> frozenset[str]:
    """Names and numbers of somebody as words to look for: ``Smith^John`` gives ``smith`` and ``john``, ``O'Brien`` also ``obrien``.

    Words of fewer than three letters and numbers of fewer than four digits are too common to mean anybody. Of a word with digits in it
    its letters alone mean nobody either: ``MRI-0012`` is looked for whole, and as ``0012``.
    """
    return frozenset(
        word
        for token in _tokens(values)
        for word in {token, *(_PARTS.findall(token)), _BETWEEN.sub("", token)}
        if (len(word) >= 4 if any(c.isdigit() for c in word) else len(word) >= 3 and not any(c.isdigit() for c in token))
        and word not in _NO_NAMES
    )


def names(*values: object) -> frozenset[str]:
    """As :func:`identifiers`, of what is nothing but names: two letters are enough, as in ``Li^Wu``, and digits spoil no name."""
    parts = {part for token in _tokens(values) for part in _PARTS.findall(token) if part.isalpha() and len(part) >= 2}
    return identifiers(*values) | frozenset(parts - _NO_NAMES)


def named(values: Iterable[object]) -> frozenset[str]:
    """What columns or fields say of somebody, names and numbers together: text without a digit is taken to be a name."""
    said = [str(value) for value in values if isinstance(value, str | int)]
    return identifiers(*said) | names(*(value for value in said if not any(c.isdigit() for c in value)))


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
"""What stands where a name should, and words that any report has."""


def _known(text: str, known: Collection[str]) -> Iterator[tuple[int, int, PhiKind]]:
    for word in _WHOLE.finditer(text) if known else ():
        parts = [(part.group(), part.start() + word.start()) for part in _PIECES.finditer(word.group())]
        for said, start in [(word.group(), word.start())] if fold(word.group()) in known else parts:
            # Two letters are a name only where they are written as one: "Li" and "LI", but not the "do" of "do not".
            if any(form in known for form in spellings(said)) and (len(said) > 2 or said[0].isupper()):
                yield start, start + len(said), PhiKind.RECORD if any(c.isdigit() for c in said) else PhiKind.NAME


_MARKS = "\u0300-\u036f"
"""Accents that stand behind their letters, as some systems store them."""
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
    """The text with letters and accents as one character, and of each character where it is in the text; None, if it is unchanged."""
    if unicodedata.is_normalized("NFC", text):
        return text, None
    pieces: list[str] = []
    offsets: list[int] = []
    for cluster in _CLUSTER.finditer(text):
        piece = unicodedata.normalize("NFC", cluster.group())
        pieces.append(piece)
        # The characters of a cluster begin where it begins, and what follows it begins where it ends.
        offsets += [cluster.start()] * len(piece)
    return "".join(pieces), [*offsets, len(text)]
