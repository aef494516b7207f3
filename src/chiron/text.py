"""Normalize text: line breaks, blanks, invisible characters, full-width letters. Used by all code that parses model output."""

import re
import unicodedata
from typing import Final

_ZERO_WIDTH: Final = "\ufeff\u200b\u2060\u180e\u00ad\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufffe"
"""Byte order marks, zero-width blanks, word joiners, soft hyphens and directional marks. They are never part of a word."""
_JOINERS: Final = "\u200c\u200d"
"""Joiners: part of words in Persian, Hindi and other languages; meaningless next to ASCII."""
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
    r"""Replace every kind of line break with ``\n``: Windows, old Mac, U+2028, U+2029, form feed."""
    return text.replace("\r\n", "\n").replace("\r", "\n").translate(_BREAKS)


def fold(text: str) -> str:
    r"""Fold a text for pattern matching without changing its length.

    Blanks and invisible characters become spaces; full-width characters become ASCII. A match in the folded text has the same position
    in the original, so extracted text keeps its original characters.
    """
    return text if text.isascii() and "\t" not in text else text.translate(_FOLDED)


def trim(text: str) -> str:
    """Strip blanks and invisible characters from both ends."""
    return text.strip(_ENDS)


def visible(text: str) -> str:
    """Remove byte order marks, zero-width characters and soft hyphens. Joiners inside non-Latin words stay."""
    return text if text.isascii() else _STRAY_JOINER.sub("", text.translate(_REMOVED))


def compatible(text: str) -> str:
    r"""Return the NFKC form without invisible characters and with ``\n`` line breaks. For comparison only, not for storage."""
    return unify_newlines(visible(text)) if text.isascii() else unicodedata.normalize("NFKC", visible(unify_newlines(text)))


def without_accents(text: str) -> str:
    """Return the text in lower case, decomposed (NFKD) and without combining characters. For comparison only."""
    if text.isascii():
        return text.lower()
    return "".join(c for c in unicodedata.normalize("NFKD", text).casefold() if not unicodedata.combining(c))


def normalize_words(text: str, keep: str = "") -> str:
    """Return the words of a text in lower case, joined by single spaces, without punctuation except the characters in ``keep``."""
    return re.sub(rf"(?:[^\w{re.escape(keep)}]|_)+", " ", unicodedata.normalize("NFKC", text).casefold()).strip()


# Remove an article only before another word: in "A" and in "Hepatitis A" the letter is the answer.
_ARTICLES = re.compile(r"\b(?:a|an|the)\s+(?=\w)")
# A plus or minus sign directly after a word is a finding ("HER2+"). Inside a word, and in "left- and right-sided", it is a hyphen.
_PLUS = re.compile(r"(?<=\w)\+(?!\w)")
_MINUS = re.compile("(?<=\\w)[-\u2010-\u2015\u2212](?!\\w|\\s+(?:and|or|to)\\b)")


def normalize_answer(answer: str) -> str:
    """Return the answer in lower case, without accents, brackets, articles and punctuation; unchanged if nothing would remain."""
    text = without_accents(answer)
    bare = _without_brackets(text)
    bare = bare if re.search(r"\w", bare) else text
    words = _MINUS.sub(" minus ", _PLUS.sub(" plus ", bare))
    return " ".join(re.sub(r"[^\w%]+", " ", _ARTICLES.sub(" ", words)).split()) or " ".join(text.split())


def _without_brackets(text: str) -> str:
    # Search only before the last closing bracket. Otherwise every opening bracket would scan to the end, in quadratic time.
    head, last, tail = text.rpartition(")")
    return re.sub(r"\([^)]*\)", " ", head + last) + tail
