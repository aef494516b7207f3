"""Reasoning as text: ``### Step 1: ...`` lines and ``### The final answer is: ...``, the published models' format.

Models stray from it. What can be read all the same is read; what cannot is a named defect.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

_THINKING = re.compile(r"^\s*<think(?:ing)?>.*?</think(?:ing)?>\s*", re.DOTALL | re.IGNORECASE)
_UNCLOSED_THINKING = re.compile(r"^.*?</think(?:ing)?>\s*", re.DOTALL | re.IGNORECASE)
_SPACES = re.compile(r"[ \t]+")
_FENCE = re.compile(r"^\s*```[\w-]*\s*$")
# Bounded, so that a line of fifty thousand hashes is read as fast as any other.
_LEAD = r"^ ?(?P<lead>[#>*_\- \u2022]{0,16})"
_STEP = re.compile(
    _LEAD + r"(?:reasoning[ \t]+)?step[ \t]*(?:no\.?|number)?[ \t]*#?(?P<number>\d{1,3})(?P<close>[ \t]*[*_]{0,3})"
    r"(?P<mark>[ \t]*[:.)\u2013\u2014\uff1a\-]|(?=[ \t]*$))?[ \t]*[*_]{0,3}[ \t]*(?P<text>.*)$",
    re.IGNORECASE,
)
_FINAL = re.compile(
    _LEAD + r"(?:so,?[ \t]+|therefore,?[ \t]+|thus,?[ \t]+)?(?:the[ \t]+|my[ \t]+)?"
    r"(?:(?P<final>final[ \t]+)(?:answer|diagnosis|conclusion)|answer|conclusion)(?P<is>[ \t]+is)?"
    r"[ \t]*[*_]{0,3}(?P<mark>[ \t]*[:\uff1a\u2013\u2014\-])?[ \t]*[*_]{0,3}[ \t]*(?P<text>.*)$",
    re.IGNORECASE,
)
_BOXED = re.compile(r"^\$*\\boxed\{(?:\\text\{)?(.*?)\}?\}\$*\.?$")
_EMPHASIS = re.compile(r"\*\*|__")


class Defect(StrEnum):
    """What is wrong with a piece of reasoning."""

    EMPTY = "empty"
    NO_STEPS = "no_steps"
    EMPTY_STEP = "empty_step"
    RESTARTED_NUMBERING = "restarted_numbering"
    NO_FINAL_ANSWER = "no_final_answer"
    EMPTY_FINAL_ANSWER = "empty_final_answer"


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Steps and, if it came to one, a final answer."""

    steps: tuple[str, ...]
    """The text of each step without its mark, in order, none of them empty."""
    answer: str | None
    """The final answer without its mark."""
    defects: tuple[Defect, ...] = ()
    """In the order in which they were met. ``EMPTY_STEP`` and ``RESTARTED_NUMBERING`` were mended."""


def parse_reasoning(text: str) -> Reasoning:
    """Read reasoning in the published form, or near it: other heading levels, bold, no colon, thinking tags, numbers that start again.

    Of several final answers the last one counts. Text before the first step is dropped: it is a greeting or a plan.
    """
    text = _without_thinking(text).replace("\r\n", "\n").replace("\r", "\n")
    steps: list[list[str]] = []
    numbers: list[int] = []
    answers: list[list[str]] = []
    current: list[str] | None = None
    for raw in text.split("\n"):
        line = _SPACES.sub(" ", raw)
        if _FENCE.match(line):
            continue
        if (final := _FINAL.match(line)) and _is_final_mark(final):
            current = [final["text"]]
            answers.append(current)
        elif (step := _STEP.match(line)) and _is_step_mark(step):
            current = [step["text"]]
            steps.append(current)
            numbers.append(int(step["number"]))
        elif current is not None:
            current.append(line)
    return _assemble(text, steps, numbers, answers)


def _assemble(text: str, steps: list[list[str]], numbers: list[int], answers: list[list[str]]) -> Reasoning:
    defects: list[Defect] = []
    if not text.strip():
        defects.append(Defect.EMPTY)
    texts = [_tidy("\n".join(lines)) for lines in steps]
    if not texts:
        defects.append(Defect.NO_STEPS)
    if any(not t for t in texts):
        defects.append(Defect.EMPTY_STEP)
    if any(later <= earlier for earlier, later in pairwise(numbers)):
        defects.append(Defect.RESTARTED_NUMBERING)
    answer = None
    if not answers:
        defects.append(Defect.NO_FINAL_ANSWER)
    else:
        answer = next((a for lines in reversed(answers) if (a := _answer(lines))), None)
        if answer is None:
            defects.append(Defect.EMPTY_FINAL_ANSWER)
    return Reasoning(tuple(t for t in texts if t), answer, tuple(defects))


def render_steps(steps: tuple[str, ...], *, first: int = 1) -> str:
    """Steps in the published form, a heading each, numbered from ``first``."""
    return "\n".join(f"### Step {number}: {text}" for number, text in enumerate(steps, start=first))


def render_reasoning(steps: tuple[str, ...], answer: str) -> str:
    """A whole path in the published form."""
    body = render_steps(steps)
    return f"{body}\n### The final answer is: {answer}" if body else f"### The final answer is: {answer}"


def continue_from(prefix: tuple[str, ...], reasoning: Reasoning) -> tuple[str, ...]:
    """The whole path of a model that was asked to go on from ``prefix``.

    A model that says the prefix over again before it goes on is understood: its copy is dropped.
    """
    new = reasoning.steps
    if prefix and len(new) >= len(prefix) and all(_same(a, b) for a, b in zip(prefix, new, strict=False)):
        new = new[len(prefix) :]
    return prefix + new


def _without_thinking(text: str) -> str:
    shorter = _THINKING.sub("", text)
    # Some templates swallow the opening tag.
    return _UNCLOSED_THINKING.sub("", shorter) if re.search(r"</think(?:ing)?>", shorter, re.IGNORECASE) else shorter


def _is_step_mark(match: re.Match[str]) -> bool:
    """Running text such as "Step 2 shows a mass" is no mark; a heading, bold or a colon makes it one."""
    return bool(match["lead"].strip() or match["mark"] is not None or match["close"].strip())


def _is_final_mark(match: re.Match[str]) -> bool:
    """A line such as "The final answer is X" is one; a mere "answer" needs its colon."""
    if match["final"]:
        return bool(match["mark"] or match["is"] or match["lead"].strip())
    return bool(match["mark"])


def _answer(lines: list[str]) -> str:
    """The first paragraph after the mark, as one line, without emphasis."""
    text = "\n".join(lines).strip()
    paragraph = re.split(r"\n\s*\n", text, maxsplit=1)[0]
    line = _EMPHASIS.sub("", " ".join(paragraph.split())).strip().strip("*_ ")
    boxed = _BOXED.match(line)
    return (boxed[1] if boxed else line).strip()


def _tidy(text: str) -> str:
    """A step as one paragraph: no heading inside it may look like another step."""
    text = " ".join(text.split())
    if text.count("**") % 2:  # the mark's own bold was opened before the number and closed after the title
        text = text.replace("**", "", 1)
    return text.strip().removesuffix("---").strip()


def _same(a: str, b: str) -> bool:
    return " ".join(re.findall(r"\w+", a.lower())) == " ".join(re.findall(r"\w+", b.lower()))
