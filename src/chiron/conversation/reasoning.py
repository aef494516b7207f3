"""Parse and render reasoning: ``### Step 1: ...`` lines and ``### The final answer is: ...``, the published models' format.

Models deviate from the format. Deviations that can be repaired are repaired; all are reported as named defects.
"""

import re
from bisect import bisect_right
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from itertools import pairwise
from typing import Final

from chiron.conversation.markup import own_turn, split_thinking
from chiron.text import fold, trim, unify_newlines

_SYMBOLS: Final = "\u2022\u2190-\u25c0\u25c6-\u2bff\ufe0f\U0001f300-\U0001faff"
# Bounded, so that a line of fifty thousand hashes takes no longer than any other.
_LEAD: Final = rf"^ {{0,8}}(?P<lead>[#>*_\- {_SYMBOLS}]{{0,16}})(?:\d{{1,2}}[.)] [*_]{{0,3}})?"
_NUMBER: Final = r"(?:reasoning +)?step *(?:no\.?|number)? *#?(?P<number>\d{1,3}(?:\.\d{1,2}(?!\d)){0,2})(?P<close> *[*_]{0,3})"
_COLON: Final = r"(?P<mark> *[:.)\u2013\u2014\-])"
_BEHIND: Final = r" *[*_]{0,3} *"
_FINAL: Final = (
    r"(?:so,? +|therefore,? +|thus,? +)?(?:the +|my +)?(?:(?P<final>final +)(?:answer|diagnosis|conclusion)|answer|conclusion)(?P<is> +is)?"
    r" *[*_]{0,3}(?P<mark> *[:\u2013\u2014\-])?"
)
_LINE_STEP: Final = re.compile(rf"{_LEAD}{_NUMBER}(?:{_COLON}|(?= *$))?{_BEHIND}", re.IGNORECASE | re.MULTILINE)
_LINE_FINAL: Final = re.compile(rf"{_LEAD}{_FINAL}{_BEHIND}", re.IGNORECASE | re.MULTILINE)
_STYLE: Final = r"(?:(?P<hashes>#{1,6}) ?(?P<hash_bold>[*_]{2,3})?|(?P<bold>[*_]{2,3})|(?<![\w#*_]))"
_INSIDE_STEP: Final = re.compile(rf"{_STYLE}{_NUMBER}{_COLON}?{_BEHIND}", re.IGNORECASE)
_INSIDE_FINAL: Final = re.compile(rf"{_STYLE}{_FINAL}{_BEHIND}", re.IGNORECASE)
_QUOTES: Final = frozenset("\"'`\u2018\u2019\u201c\u201d\u00ab\u2039([{<")
_BOUNDARIES: Final = frozenset(".!?:;)*_-\u2013\u2014>\u3002\n")
_NOT_AN_ANSWER: Final = re.compile(r"(?:not|un\w+|still|to|that|in|as|what|given|based|yet|therefore)\b", re.IGNORECASE)
_TAG_AT_END: Final = re.compile(r"<(?:final[_ ]?)?answer>(?=[^<>]{1,600}</(?:final[_ ]?)?answer>\s*$)", re.IGNORECASE)
_BOX_AT_END: Final = re.compile(r"^ ?(?=\$*\\boxed\{[^\n]{1,400}\}\$*\.?\s*\Z)", re.MULTILINE)
_OPENING: Final = re.compile(r"<(?:final[_ ]?)?(?:answer|response|output|conclusion)>\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Mark:
    """Position of a mark, in characters."""

    start: int
    end: int
    """Start of the text of the step or answer."""
    number: tuple[int, ...] = ()
    """``(1,)`` for step 1, ``(1, 2)`` for step 1.2; empty for a final answer."""


def find_marks(text: str) -> list[Mark]:
    """Return all marks of ``text`` in order, in linear time.

    Marks at the start of a line count in any style. Inside a line, marks with hashes count unless they are quoted. Plain and bold marks
    inside a line count if their numbers fit, and if they precede all other marks or the reply has at most one line with a mark.
    """
    folded = fold(text)
    steps, finals = _at_line_starts(folded)
    taken = sorted((mark.start, mark.end) for mark in (*steps, *finals))
    loose: list[Mark] = []
    for found in _INSIDE_STEP.finditer(folded):
        if _within(found.start(), taken) or not _begins(found, folded):
            continue
        mark = Mark(found.start(), found.end(), _numbers(found))
        if found["hashes"] and (found["mark"] or len(found["hashes"]) > 1):
            steps.append(mark)
        elif (found["mark"] and (":" in found["mark"] or found["bold"])) or (found["bold"] and found["close"].strip()):
            loose.append(mark)
    steps.sort(key=lambda mark: mark.start)
    steps += _fitting(loose, steps)
    finals += _finals_inside(folded, taken, bool(finals))
    marks = sorted((*steps, *finals), key=lambda mark: mark.start)
    return _without_wrapper(marks, folded)


def _at_line_starts(folded: str) -> tuple[list[Mark], list[Mark]]:
    steps, finals = list[Mark](), list[Mark]()
    at = 0
    for line in folded.split("\n"):
        if (final := _LINE_FINAL.match(folded, at)) and _is_final(final):
            finals.append(Mark(at, final.end()))
        elif (step := _LINE_STEP.match(folded, at)) and (step["lead"].strip() or step["mark"] is not None or _bare(step, folded)):
            steps.append(Mark(at, step.end(), _numbers(step)))
        at += len(line) + 1
    return steps, finals


def _bare(step: re.Match[str], folded: str) -> bool:
    """Return whether a mark is bold or alone on its line. Running text such as "Step 2 shows a mass" is not a mark."""
    return bool(step["close"].strip()) or folded[step.end() : step.end() + 1] in {"", "\n"}


def _is_final(found: re.Match[str]) -> bool:
    """Return whether a line is a final-answer mark. "The final answer is X" is one; "answer" alone needs a colon."""
    if found["final"]:
        return bool(found["mark"] or found["is"] or found["lead"].strip())
    return bool(found["mark"])


def _numbers(found: re.Match[str]) -> tuple[int, ...]:
    return tuple(int(part) for part in found["number"].split("."))


def _within(place: int, taken: list[tuple[int, int]]) -> bool:
    at = bisect_right(taken, (place, len(taken) + 2**62)) - 1
    return at >= 0 and place < taken[at][1]


def _begins(found: re.Match[str], folded: str) -> bool:
    """Return whether text inside a line may be a mark. It must not be quoted, and must follow a sentence's end or have its own style."""
    before = folded[max(0, found.start() - 8) : found.start()]
    if before and before[-1] in _QUOTES:
        return False
    if found["hashes"] or found["bold"]:
        return True
    before = before.rstrip(" ")
    return not before or before[-1] in _BOUNDARIES


def _fitting(loose: list[Mark], steps: list[Mark]) -> list[Mark]:
    """Return the plain marks inside lines that continue the numbering."""
    kept: list[Mark] = []
    last: tuple[int, ...] | None = None
    place = 0
    for mark in loose:
        while place < len(steps) and steps[place].start < mark.start:
            last, place = steps[place].number, place + 1
        if place and len(steps) > 1:
            break
        behind = steps[place] if place < len(steps) else None
        if (last is None or _follows(last, mark.number)) and (behind is None or behind.number > mark.number):
            kept.append(mark)
            last = mark.number
    return kept


def _follows(last: tuple[int, ...], number: tuple[int, ...]) -> bool:
    # 1.2 may follow 1, 1.1 and 0.9
    return number > last if len(number) > 1 else number == (last[0] + 1,)


def _finals_inside(folded: str, taken: list[tuple[int, int]], found_others: bool) -> list[Mark]:
    """Return the final-answer marks inside lines: plain ones if there are no others, and a tag or else a box at the end."""
    inside = [found for found in _INSIDE_FINAL.finditer(folded) if not _within(found.start(), taken) and _begins(found, folded)]
    finals = [found for found in inside if _is_styled_final(found)]
    if not found_others and not finals:
        finals = [found for found in inside if _is_plain_final(found, folded)]
    if tag := _TAG_AT_END.search(folded, max(0, len(folded) - 1000)):
        finals.append(tag)
    elif not found_others and not finals and (box := _BOX_AT_END.search(folded, max(0, len(folded) - 500))):
        finals.append(box)
    return [Mark(found.start(), found.end()) for found in finals]


def _is_styled_final(found: re.Match[str]) -> bool:
    declares = found["mark"] or found["is"]
    return bool(declares or found["final"]) if found["hashes"] else bool(found["bold"] and found["final"] and declares)


def _is_plain_final(found: re.Match[str], folded: str) -> bool:
    if found["mark"] and ":" in found["mark"]:
        return True
    return bool(found["final"] and found["is"]) and not _NOT_AN_ANSWER.match(folded, found.end())


def _without_wrapper(marks: list[Mark], folded: str) -> list[Mark]:
    """Extend the first mark over a tag right before it: the tag opens the reply, and is neither a preamble nor an answer."""
    if not marks:
        return marks
    first = marks[0]
    begins = next((tag.start() for tag in _OPENING.finditer(folded, 0, first.start) if tag.end() >= first.start), None)
    return marks if begins is None else [Mark(begins, first.end, first.number), *marks[1:]]


_SPACES = re.compile(r"[ \t]+")
_FENCE = re.compile(r"^\s*```[\w-]*\s*$")
_BOXED = re.compile(r"^\$*\\boxed\{(?:\\text\{)?(.*?)\}?\}\$*\.?$")
_TAG = re.compile(r"^<(?:final[_ ]?)?answer>|</(?:final[_ ]?)?(?:answer|response|output|conclusion)>$", re.IGNORECASE)
_EMPHASIS = re.compile(r"\*\*|__")


class Defect(StrEnum):
    """Format errors of reasoning."""

    EMPTY = "empty"
    NO_STEPS = "no_steps"
    MISSING_FIRST_STEP = "missing_first_step"
    EMPTY_STEP = "empty_step"
    RESTARTED_NUMBERING = "restarted_numbering"
    NO_FINAL_ANSWER = "no_final_answer"
    EMPTY_FINAL_ANSWER = "empty_final_answer"


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Steps and, if there is one, a final answer."""

    steps: tuple[str, ...]
    """Non-empty text of each step without its mark, in order."""
    answer: str | None
    """The final answer without its mark."""
    defects: tuple[Defect, ...] = ()
    """``EMPTY_STEP`` and ``RESTARTED_NUMBERING`` were repaired. ``MISSING_FIRST_STEP``: dropped text may have been a step."""


@lru_cache(maxsize=1)  # several checks in a row parse the reasoning of one row
def parse_reasoning(text: str, *, after: int = 0) -> Reasoning:
    """Parse reasoning in the published format, or a similar one.

    Thinking, harmony channels and chat tokens are removed. Accepted deviations: heading levels, bold, a missing colon, several marks on one
    line, substeps (``Step 1.1``, one step each), and restarted numbers. The last of several final answers counts.

    Text before the first step is dropped, since it is a greeting or a plan. If the first number shows that steps are missing there, this is
    reported as a defect.

    Args:
        text: a model's reply.
        after: number of steps that the model was shown, so that it may continue with the next number.
    """
    body = _body(text)
    marks = find_marks(body)
    contents = [body[mark.end : following.start] for mark, following in pairwise([*marks, Mark(len(body), len(body))])]
    steps = [(mark, _tidy(content)) for mark, content in zip(marks, contents, strict=True) if mark.number]
    answers = [_answer(content) for mark, content in zip(marks, contents, strict=True) if not mark.number]
    defects: list[Defect] = []
    if not trim(body):
        defects.append(Defect.EMPTY)
    if not steps:
        defects.append(Defect.NO_STEPS)
    elif trim(body[: marks[0].start]).strip("#*_>- ") and steps[0][0].number[0] > after + 1:
        defects.append(Defect.MISSING_FIRST_STEP)
    if any(not content for _, content in steps):
        defects.append(Defect.EMPTY_STEP)
    if any(later.number <= earlier.number for (earlier, _), (later, _) in pairwise(steps)):
        defects.append(Defect.RESTARTED_NUMBERING)
    answer = next((found for found in reversed(answers) if found), None)
    if answer is None:
        defects.append(Defect.EMPTY_FINAL_ANSWER if answers else Defect.NO_FINAL_ANSWER)
    return Reasoning(tuple(content for _, content in steps if content), answer, tuple(defects))


def _body(text: str) -> str:
    """Return the lines of the model's answer text without code fences."""
    thinking = split_thinking(unify_newlines(text))
    said = _lines(thinking.said)
    if thinking.unclosed and not trim(said):
        # A model that forgot to close its thinking put its answer there. A model that was cut off gave no answer.
        inside = _lines(thinking.thought)
        return inside if any(not mark.number for mark in find_marks(inside)) else said
    if thinking.steps:
        marks = find_marks(said)
        if marks and not any(mark.number for mark in marks):  # the steps are in <reasoning>, and the final answer follows it
            return f"{_lines(thinking.steps)}\n{said}"
    return said


def _lines(text: str) -> str:
    return "\n".join(_SPACES.sub(" ", line) for line in own_turn(text).split("\n") if not _FENCE.match(line))


def render_steps(steps: tuple[str, ...], *, first: int = 1) -> str:
    """Render steps in the published format, one heading each, numbered from ``first``."""
    return "\n".join(f"### Step {number}: {text}" for number, text in enumerate(steps, start=first))


def render_reasoning(steps: tuple[str, ...], answer: str) -> str:
    """Render a whole path in the published format."""
    body = render_steps(steps)
    return f"{body}\n### The final answer is: {answer}" if body else f"### The final answer is: {answer}"


def reward_question(question: str, unit: str) -> str:
    """Return the first turn to a process reward model, in InternVL's form: the question and the first unit of the solution.

    Each further unit is a turn of its own. The model answers each with ``+`` or ``-``.
    """
    return f"### Question:\n{question}\n\n### Solution Process:\n{unit}"


def continue_from(prefix: tuple[str, ...], reasoning: Reasoning) -> tuple[str, ...]:
    """Return the whole path of a model that was asked to continue ``prefix``.

    If the model repeats the prefix, its copy is dropped.
    """
    new = reasoning.steps
    if prefix and len(new) >= len(prefix) and all(_same(a, b) for a, b in zip(prefix, new, strict=False)):
        new = new[len(prefix) :]
    return prefix + new


def _answer(content: str) -> str:
    """Return the first paragraph after the mark, as one line, without emphasis, box or tag."""
    paragraph = re.split(r"\n\s*\n", content.strip(), maxsplit=1)[0]
    line = _EMPHASIS.sub("", " ".join(paragraph.split())).strip().strip("*_ ")
    line = _TAG.sub("", trim(line)).strip()
    boxed = _BOXED.match(line)
    return trim(boxed[1] if boxed else line)


def _tidy(text: str) -> str:
    """Return a step as one paragraph, without headings that look like another step."""
    text = trim(" ".join(text.split()))
    if text.count("**") % 2:  # the mark's bold opens before the number and closes after the title
        text = text.replace("**", "", 1)
    return text.strip().removesuffix("---").strip()


def _same(a: str, b: str) -> bool:
    return " ".join(re.findall(r"\w+", a.lower())) == " ".join(re.findall(r"\w+", b.lower()))
