"""Find the final answer where a reply marks it (tag, box, mark, section), and separate it from the thinking."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from chiron.conversation.markup import boxed, own_turn, split_thinking
from chiron.evaluation.answers.options import strip_markup
from chiron.text import unify_newlines


class ReplyFormat(StrEnum):
    """Format of a reply. Detected from the reply unless the user names it."""

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
    r"^[ #>\-]{0,10}(?:(?:so|therefore|thus|hence),? )?(?:the |my |our )?final answer(?P<is> is)?[ ]?:[ \n]*(?P<content>[^\n]*)",
    re.IGNORECASE | re.MULTILINE,
)
_SECTION = re.compile(
    r"^(?:#{1,6} ?(?:\d{1,2}\. ?)?(?P<heading>final (?:response|answer|conclusion|diagnosis)|conclusion|answer|response)"
    r"|(?P<line>final response|conclusion))"
    r"[ ]?:?[ ]?(?P<content>[^\n]*)$",
    re.IGNORECASE | re.MULTILINE,
)
_THINKING_SECTION = re.compile(r"^#{1,6} ?(?:thinking|thought process)[ ]?:?$", re.IGNORECASE | re.MULTILINE)
_REASONING_SECTION = re.compile(r"^#{0,6} ?(?:finding )?reasoning(?: paths?| process| steps?)?[ ]?:?$", re.IGNORECASE | re.MULTILINE)
_STEP = re.compile(r"^[ #>\-]{0,10}step ?\d{1,3}", re.IGNORECASE | re.MULTILINE)
_HEADED_STEP = re.compile(r"^[ >\-]{0,6}#{1,6} ?step ?\d{1,3}[ ]?[:.)\-]?", re.IGNORECASE | re.MULTILINE)
_RULE_OF = {ReplyFormat.TAGGED: Rule.TAG, ReplyFormat.BOXED: Rule.BOXED, ReplyFormat.CHIRON: Rule.FINAL_MARK}


@dataclass(frozen=True, slots=True)
class Unwrapped:
    """A reply without its model's format."""

    answer: str
    """Content of the tag, box, mark or final-answer section; otherwise the whole reply without the thinking."""
    after: str
    """The text after a tag, box or mark, where the model may correct itself."""
    rule: Rule | None
    """``TAG``, ``BOXED`` or ``FINAL_MARK``; ``None`` if ``answer`` is prose."""
    family: ReplyFormat | None
    """``None`` if the format was not detected."""
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
    found = list(_found(spoken)) or ([] if spoken.strip() else list(_found(thought)))
    wanted = _RULE_OF.get(family) if family else None
    if found:
        source = spoken if spoken.strip() else thought
        last = max((f for f in found if f.rule is wanted), key=lambda f: f.start, default=None) or max(found, key=lambda f: f.start)
        return Unwrapped(last.content, source[last.end :], last.rule, family or _family(last.rule, spoken))
    sections = [m for m in _SECTION.finditer(spoken) if m["content"].strip() or spoken[m.end() :].strip()]
    if sections:
        section = sections[-1]
        detected = ReplyFormat.HUATUO_O1 if "response" in (section["heading"] or section["line"]).lower() else ReplyFormat.MEDREASON
        content = section["content"] + spoken[section.end() :]
        if not (_REASONING_SECTION.search(spoken) or _THINKING_SECTION.search(spoken)):
            return Unwrapped(content.strip(), "", None, family)
        return Unwrapped(content.strip(), "", None, family or detected)
    if section_of_thinking := _THINKING_SECTION.search(spoken):
        return Unwrapped(spoken[: section_of_thinking.start()].strip(), "", None, family or ReplyFormat.HUATUO_O1)
    if steps := [*_HEADED_STEP.finditer(spoken)]:
        return Unwrapped(spoken[steps[-1].end() :].rstrip(), "", None, family or ReplyFormat.CHIRON, unfinished=True)
    return Unwrapped(spoken.strip(), "", None, family)


def _family(rule: Rule, text: str) -> ReplyFormat | None:
    if rule is Rule.TAG:
        return ReplyFormat.TAGGED
    if rule is Rule.BOXED:
        return ReplyFormat.BOXED
    if _REASONING_SECTION.search(text):
        return ReplyFormat.MEDREASON
    return ReplyFormat.CHIRON if _STEP.search(text) else None


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
        content = _paragraph(text[opened.end() :])
        yield _Found(Rule.TAG, opened.start(), len(text), content)


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


def _paragraph(text: str) -> str:
    return text.strip().split("\n\n", 1)[0]
