"""A reply without its dress: full-width letters, Markdown, HTML, LaTeX and end-of-text tokens are taken off; tags and boxes stay."""

import re

from chiron.conversation.markup import without_tokens
from chiron.text import compatible

# A capital alone, <B>, is an option's letter.
_HTML = re.compile(r"</?(?:(?-i:[biup])|em|strong|br|span|div|code|center|mark)(?: [^<>]{0,120})?/?>", re.IGNORECASE)
_BLANK = re.compile(r"[^\S\n]+")
_BLANK_LINES = re.compile(r"\n{3,}")
_FENCE = re.compile(r"^```[\w-]{0,20}$", re.MULTILINE)
# A single underscore inside a word (final_answer) is part of it.
_UNDERSCORE = re.compile(r"(?<![^\W_])_(?=\S)|(?<=\S)_(?![^\W_])")
_STYLE = re.compile(
    r"\\(?:text(?:bf|it|rm|tt|sf|normal)?|math(?:bf|rm|it|sf|tt)|operatorname|emph|underline|mbox) ?\{((?:[^{}]|\{[^{}]{0,60}\}){0,300})\}"
)
_SPACING = re.compile(r"\\(?:q?quad|[,;:! ]|left|right|displaystyle|bf|rm)(?![A-Za-z])")
_ARROWS = re.compile(r"\\(?:Right|right|Longright|longright|implies|to)(?:arrow)?(?![A-Za-z])")
_DELIMITERS = re.compile(r"\\[()\[\]]|\$")
_SHAPES = str.maketrans({
    "\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u3010": "[", "\u3011": "]", "\u300c": '"', "\u300d": '"',
    "\u3002": ".", "\u3001": ",",
})  # fmt: skip


# In "\u9009B" and "A\u548cB" the letter is a word of its own.
_LETTER_IN_CJK = re.compile(r"(?<=[\u3400-\u9fff])(?=[A-Z](?![A-Za-z0-9]))|(?<=(?<![A-Za-z0-9])[A-Z])(?=[\u3400-\u9fff])")


def plain(reply: str) -> str:
    """``reply`` in compatibility form (NFKC), one blank between words, no emphasis, no LaTeX styling. Linear in its length."""
    text = _tidy(_HTML.sub("", without_tokens(compatible(reply).translate(_SHAPES))))
    if not text.isascii():
        text = _LETTER_IN_CJK.sub(" ", text)
    text = _FENCE.sub("", text).replace("*", "").replace("`", "").replace("__", "")
    text = _UNDERSCORE.sub("", text)
    for _ in range(2):  # \textbf{\text{B}} is as deep as they go
        text = _STYLE.sub(r"\1", text)
    text = _SPACING.sub(" ", _ARROWS.sub("->", text))
    return _tidy(_DELIMITERS.sub("", text).replace("\\%", "%"))


def _tidy(text: str) -> str:
    lines = _BLANK.sub(" ", text).replace(" \n", "\n").replace("\n ", "\n")
    return _BLANK_LINES.sub("\n\n", lines).strip()
