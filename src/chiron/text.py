"""Text normalization: line breaks, blanks, invisible characters, full-width letters. Shared by everything that reads a model's text."""

import re
import unicodedata
from typing import Final

_ZERO_WIDTH: Final = "\ufeff\u200b\u2060\u180e\u00ad\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufffe"
"""Byte order marks, zero-width blanks, word joiners, soft hyphens, directional marks: never part of a word."""
_JOINERS: Final = "\u200c\u200d"
"""Part of words in Persian, Hindi and others; stray next to ASCII."""
_LINE_BREAKS: Final = "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
_BLANKS: Final = "\t\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
_FULL_WIDTH: Final = {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}
_STRAY_JOINER: Final = re.compile(rf"(?<![^\x00-\x7f])[{_JOINERS}]|[{_JOINERS}](?![^\x00-\x7f])")
_FOLDED: Final = str.maketrans({
    **dict.fromkeys(_ZERO_WIDTH + _JOINERS + _BLANKS, " "),
    **dict.fromkeys(_LINE_BREAKS, "\n"),
    **{chr(code): plain for code, plain in _FULL_WIDTH.items()},
})  # fmt: skip
_REMOVED: Final = str.maketrans(dict.fromkeys(_ZERO_WIDTH))
_BREAKS: Final = str.maketrans(dict.fromkeys(_LINE_BREAKS, "\n"))
_ENDS: Final = _ZERO_WIDTH + _JOINERS + _BLANKS + _LINE_BREAKS + " \r\n"


def unify_newlines(text: str) -> str:
    r"""``text`` with every line break as ``\n``: Windows and old Mac ones, U+2028, U+2029, form feeds."""
    return text.replace("\r\n", "\n").replace("\r", "\n").translate(_BREAKS)


def fold(text: str) -> str:
    r"""``text`` for pattern matching, of the same length: blanks and invisible characters as `` ``, full-width characters as ASCII.

    A match in the folded text has the same position in the original, so that what is extracted keeps its own characters.
    """
    return text if text.isascii() and "\t" not in text else text.translate(_FOLDED)


def trim(text: str) -> str:
    """``text`` without blanks and invisible characters at either end."""
    return text.strip(_ENDS)


def visible(text: str) -> str:
    """``text`` without byte order marks, zero-width characters and soft hyphens; joiners inside non-Latin words stay."""
    return text if text.isascii() else _STRAY_JOINER.sub("", text.translate(_REMOVED))


def compatible(text: str) -> str:
    r"""``text`` in compatibility form (NFKC) without invisible characters, line breaks as ``\n``. For comparing, not for keeping."""
    return unify_newlines(visible(text)) if text.isascii() else unicodedata.normalize("NFKC", visible(unify_newlines(text)))
