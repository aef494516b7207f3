"""Names reduced to what their spellings have in common, so that ``Müller``, ``MUELLER``, ``Muller`` and ``Müllers`` are one."""

import re
import unicodedata

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
