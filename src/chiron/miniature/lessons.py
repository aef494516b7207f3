"""What the small model learns before it sees a diagnosis: the textbook in words (stage 1), and images in words (stage 2).

Rows are written in the very form in which an intern is asked, so that a model of these two stages can be one: question, and reasoning that
somebody has begun. Stage 1 knows every rule and no image; stage 2 shows every combination, and but for a few worked examples of seen ones
it names no diagnosis. That both be put together for an image is what stage 3 is for, and what is measured on the combinations that it
leaves out.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np

from chiron.cases.case import Case
from chiron.mics.prompts import Prompts
from chiron.mics.reasoning import render_reasoning, render_steps
from chiron.models.call import Message, Picture
from chiron.phantom.casting import Casting
from chiron.phantom.wording import QUESTIONS
from chiron.phantom.world import COMBINATIONS, Attributes, World

DESCRIBE: Final = "What does the lesion look like?"
"""The question of stage 2; its answer has steps and no diagnosis."""
ATTRIBUTES: Final = ("side", "size", "density", "margin")
"""In the order of the steps."""


def steps_of(attributes: Attributes) -> tuple[str, ...]:
    """The four steps of a true chain."""
    return tuple(f"The {name} is {getattr(attributes, name)}." for name in ATTRIBUTES)


def chain(attributes: Attributes, answer: str) -> str:
    """A true path, in the published form."""
    return render_reasoning(steps_of(attributes), answer)


def text_rows(world: World, prompts: Prompts, *, copies: int, seed: int) -> Iterator[dict[str, Any]]:
    """Stage 1: a rule a row. What is seen is told in words, or stands in the steps so far; the rest of the steps, then the diagnosis.

    Args:
        world: whose rules.
        prompts: of the interns.
        copies: rows a rule and length of the reasoning so far (none to all four steps).
        seed: of wording and order.
    """
    rng = np.random.default_rng([seed, 1])
    for number in range(copies):
        for index, attributes in enumerate(COMBINATIONS):
            for given in range(len(ATTRIBUTES) + 1):
                steps, question = steps_of(attributes), _one(QUESTIONS, rng)
                told = [steps[k] for k in rng.permutation(len(steps))] if given < len(steps) else []
                case = Case(id="text", question=" ".join((*told, question)), answer="", images=())
                rest = render_steps(steps[given:], first=given + 1)
                answer = f"### The final answer is: {world.diagnose(attributes)}"
                said = f"{rest}\n{answer}" if rest else answer
                yield row(f"text-{number}-{index}-{given}", prompts.intern(case, (), steps[:given]), (), said)


def alignment_rows(castings: Sequence[Casting], prompts: Prompts, *, seed: int) -> Iterator[dict[str, Any]]:
    """Stage 2: a case a row, and its attributes from where somebody left off; all combinations, no diagnosis."""
    rng = np.random.default_rng([seed, 2])
    for casting in castings:
        given = int(rng.integers(1, len(ATTRIBUTES))) if rng.random() < 0.25 else 0
        steps = steps_of(casting.attributes)
        case = Case(id=casting.case.id, question=DESCRIBE, answer="", images=casting.case.images)
        messages = prompts.intern(case, _places(case), steps[:given])
        yield row(casting.case.id, messages, case.images, render_steps(steps[given:], first=given + 1))


def worked_rows(castings: Sequence[Casting], prompts: Prompts, *, seed: int) -> Iterator[dict[str, Any]]:
    """The few rows of stage 2 that go on to the diagnosis, from where somebody left off; of seen combinations only."""
    rng = np.random.default_rng([seed, 3])
    for casting in castings:
        given = int(rng.integers(len(ATTRIBUTES) + 1))
        said = chain(casting.attributes, casting.case.answer).split("\n", given)[-1]
        messages = prompts.intern(casting.case, _places(casting.case), steps_of(casting.attributes)[:given])
        yield row(casting.case.id, messages, casting.case.images, said)


def answer_row(case: Case, prompts: Prompts, said: str) -> dict[str, Any]:
    """Stage 3: a case as an intern is asked it from the beginning, and what is to be said."""
    return row(case.id, prompts.intern(case, _places(case), ()), case.images, said)


def row(name: str, messages: Sequence[Message], images: Sequence[str], said: str) -> dict[str, Any]:
    """A row to train on from what a model is asked and what it is to say."""
    turns = [{"role": m.role, "content": "\n".join("<image>" if isinstance(p, Picture) else p.text for p in m.parts)} for m in messages]
    return {"id": name, "images": list(images), "messages": [*turns, {"role": "assistant", "content": said}]}


def _places(case: Case) -> tuple[Picture, ...]:
    """A picture for each image: in a row it is but a mark."""
    return tuple(Picture(name, 0) for name in case.images)


def _one(choices: Sequence[str], rng: np.random.Generator) -> str:
    return choices[int(rng.integers(len(choices)))]
