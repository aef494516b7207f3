"""Parse and render reasoning: ``### Step 1: ...`` lines and ``### The final answer is: ...``, the published models' format.

Models deviate from the format. Deviations that can be repaired are repaired; all are reported as named defects.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from chiron.conversation.markup import own_turn, split_thinking
from chiron.conversation.step_marks import Mark, find_marks
from chiron.text import trim, unify_newlines

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
