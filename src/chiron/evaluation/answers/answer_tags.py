"""Find the final answer where a reply marks it (tag, box, mark, section), and separate it from the thinking."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from chiron.conversation.markup import boxed, own_turn, split_thinking, without_tokens
from chiron.text import compatible, unify_newlines


class ReplyFormat(StrEnum):
    """Format of a model's replies, if the user names it.

    Formats with a mark: that mark is searched first. Formats with sections: the final section is the answer. Others: prose.
    """

    CHIRON = "chiron"
    """``### Step n:`` ... ``### The final answer is: X``; the last one counts."""
    TAGGED = "tagged"
    """``<think>..</think><answer>X</answer>``: Med-R1, MedVLM-R1, ChestX-Reasoner."""
    BOXED = "boxed"
    r"""``\boxed{X}``: InternVL3, and other models when asked for it."""
    HUATUO_O1 = "huatuo_o1"
    """``## Thinking`` ... ``## Final Response``."""
    MEDREASON = "medreason"
    """Sections of reasoning, then a conclusion or final answer under its own heading."""
    BARE = "bare"
    """A single letter, at the start or on the last line."""
    FREE = "free"
    """Prose."""


class Rule(StrEnum):
    """The rule that found the answer, from the most explicit to none."""

    TAG = "tag"
    BOXED = "boxed"
    FINAL_MARK = "final-answer mark"
    DECLARATION = "declaration"
    BARE_LETTER = "bare letter"
    OPTION_TEXT = "option text"
    UNPARSED = "unparsed"


_TAG = re.compile(r"<(?P<close>/)?(?:(?:final[_ ]?|my[_ ]?|selected[_ ]?)?(?:answer|choice|option)|conclusion|solution)>", re.IGNORECASE)
_BRACE = re.compile(r"\\[{}]|\\{1,2}f?(?:boxed|box) ?\{|[{}]")
_MARK = re.compile(
    r"^[ #>\-]{0,10}(?:(?:so|therefore|thus|hence),? )?(?:the |my |our )?final answer(?: is)?[ ]?:[ \n]*(?P<content>[^\n]*)",
    re.IGNORECASE | re.MULTILINE,
)
_SECTION = re.compile(
    r"^(?:#{1,6} ?(?:\d{1,2}\. ?)?(?:final (?:response|answer|conclusion|diagnosis)|conclusion|answer|response)"
    r"|final response|conclusion)"
    r"[ ]?:?[ ]?(?P<content>[^\n]*)$",
    re.IGNORECASE | re.MULTILINE,
)
_THINKING_SECTION = re.compile(r"^#{1,6} ?(?:thinking|thought process)[ ]?:?$", re.IGNORECASE | re.MULTILINE)
_REASONING_SECTION = re.compile(r"^#{0,6} ?(?:finding )?reasoning(?: paths?| process| steps?)?[ ]?:?$", re.IGNORECASE | re.MULTILINE)
_HEADED_STEP = re.compile(r"^[ >\-]{0,6}#{1,6} ?step ?\d{1,3}[ ]?[:.)\-]?", re.IGNORECASE | re.MULTILINE)
RULE_OF = {ReplyFormat.TAGGED: Rule.TAG, ReplyFormat.BOXED: Rule.BOXED, ReplyFormat.CHIRON: Rule.FINAL_MARK}
"""The rule of each format that marks its answer."""
_SECTIONED = frozenset({ReplyFormat.HUATUO_O1, ReplyFormat.MEDREASON})


@dataclass(frozen=True, slots=True)
class Unwrapped:
    """A reply without its model's format."""

    answer: str
    """Content of the tag, box, mark or final-answer section; otherwise the whole reply without the thinking."""
    rule: Rule | None = None
    """``TAG``, ``BOXED`` or ``FINAL_MARK``; ``None`` if ``answer`` is prose."""
    after: str = ""
    """The text after a tag, box or mark, where the model may correct itself."""
    sectioned: bool = False
    """Whether the thinking has a section of its own, so that the whole of ``answer`` is the answer."""
    unfinished: bool = False
    """The reply has step headings but no final-answer mark; ``answer`` is the text after the last heading. A step weighs options, so only a
    declaration, or a last line of its own, is read as an answer.
    """


@dataclass(frozen=True, slots=True)
class _Found:
    rule: Rule
    start: int
    end: int
    content: str


def unwrap(reply: str, family: ReplyFormat | None = None) -> Unwrapped:
    r"""Find the last tag, box or mark with content; else the final-answer section; else everything except the thinking.

    Text inside the thinking is not an answer. Its tags, boxes and marks count only if nothing else is left, because the reply was cut off
    while thinking or did not close it.

    Args:
        reply: the model's reply.
        family: the format whose mark is searched first; other formats are used if it has none.
    """
    thinking = split_thinking(unify_newlines(reply))
    spoken, thought = strip_markup(own_turn(boxed(thinking.said))), strip_markup(boxed(thinking.thought))
    source = spoken if spoken.strip() else thought
    if found := list(_found(source)):
        wanted = [f for f in found if f.rule is RULE_OF.get(family)] if family else []
        last = max(wanted or found, key=lambda f: f.start)
        return Unwrapped(last.content, last.rule, source[last.end :])
    named = family in _SECTIONED
    sections = [m for m in _SECTION.finditer(spoken) if m["content"].strip() or spoken[m.end() :].strip()]
    if sections:
        detected = family is None and bool(_REASONING_SECTION.search(spoken) or _THINKING_SECTION.search(spoken))
        return Unwrapped((sections[-1]["content"] + spoken[sections[-1].end() :]).strip(), sectioned=named or detected)
    if section_of_thinking := _THINKING_SECTION.search(spoken):
        return Unwrapped(spoken[: section_of_thinking.start()].strip(), sectioned=named or family is None)
    if steps := [*_HEADED_STEP.finditer(spoken)]:
        return Unwrapped(spoken[steps[-1].end() :].rstrip(), sectioned=named, unfinished=True)
    return Unwrapped(spoken.strip(), sectioned=named)


def _found(text: str) -> Iterator[_Found]:
    for found in (*_tags(text), *_boxes(text), *_marks(text)):
        if re.search(r"\w", found.content):
            yield found


def _tags(text: str) -> Iterator[_Found]:
    opened: re.Match[str] | None = None
    for tag in _TAG.finditer(text):
        if opened:
            yield _Found(Rule.TAG, opened.start(), tag.end() if tag["close"] else tag.start(), text[opened.end() : tag.start()].strip())
        opened = None if tag["close"] else tag
    if opened:
        yield _Found(Rule.TAG, opened.start(), len(text), text[opened.end() :].strip().split("\n\n", 1)[0])


def _boxes(text: str) -> Iterator[_Found]:
    """Yield the boxes in one pass over the braces, so that deeply nested boxes stay linear."""
    open_braces: list[tuple[bool, int, int]] = []
    for brace in _BRACE.finditer(text):
        if brace[0] in {"\\{", "\\}"}:
            continue
        if brace[0] != "}":
            open_braces.append((brace[0] != "{", brace.start(), brace.end()))
        elif open_braces:
            boxed, start, inside = open_braces.pop()
            if boxed:
                yield _Found(Rule.BOXED, start, brace.end(), text[inside : brace.start()].strip())
    if cut := next((b for b in reversed(open_braces) if b[0]), None):  # the reply was cut off inside its box
        line = text[cut[2] :].split("\n", 1)[0]
        yield _Found(Rule.BOXED, cut[1], cut[2] + len(line), line.strip())


def _marks(text: str) -> Iterator[_Found]:
    for mark in _MARK.finditer(text):
        yield _Found(Rule.FINAL_MARK, mark.start(), mark.end(), mark["content"].strip())


# A single capital, <B>, is an option's letter and not a tag.
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
# In "\u9009B" and "A\u548cB" the letter is a separate word.
_LETTER_IN_CJK = re.compile(r"(?<=[\u3400-\u9fff])(?=[A-Z](?![A-Za-z0-9]))|(?<=(?<![A-Za-z0-9])[A-Z])(?=[\u3400-\u9fff])")
# Without any of these there is nothing to remove, as in most options.
_MARKS = re.compile(r"[<\[`*_\\$]|[^\x00-\x7f]")


def strip_markup(reply: str) -> str:
    """Normalize ``reply``: NFKC, single blanks, no emphasis, no LaTeX styling. Linear in its length."""
    text = compatible(reply)
    if not _MARKS.search(text):
        return _tidy(text)
    text = _tidy(_HTML.sub("", without_tokens(text.translate(_SHAPES))))
    if not text.isascii():
        text = _LETTER_IN_CJK.sub(" ", text)
    text = _FENCE.sub("", text).replace("*", "").replace("`", "").replace("__", "")
    text = _UNDERSCORE.sub("", text)
    for _ in range(2):  # \textbf{\text{B}} is the deepest nesting
        text = _STYLE.sub(r"\1", text)
    text = _SPACING.sub(" ", _ARROWS.sub("->", text))
    return _tidy(_DELIMITERS.sub("", text).replace("\\%", "%"))


def _tidy(text: str) -> str:
    lines = _BLANK.sub(" ", text).replace(" \n", "\n").replace("\n ", "\n")
    return _BLANK_LINES.sub("\n\n", lines).strip()
