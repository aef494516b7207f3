"""What the small model learns before it sees a diagnosis: the textbook in words (stage 1), and images in words (stage 2).

All of it is cases in the ordinary format, of which ``chiron build`` makes rows, worded as an intern is asked, so that a model of these two
stages can be one. Stage 1 knows every rule and no image; stage 2 shows every combination, and but for a few worked examples of seen ones
it names no diagnosis. That both be put together for an image is what stage 3 is for, and what is measured on the combinations that it
leaves out.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

import numpy as np

from chiron.cases.case import Case
from chiron.conversation.reasoning import render_reasoning
from chiron.mics.prompts import Prompts
from chiron.mmrp.forms import AsInterns
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


def rule_cases(world: World, *, copies: int, seed: int) -> Iterator[Case]:
    """For stage 1: a case without images for each rule, what is seen told in words, in any order.

    Args:
        world: whose rules.
        copies: cases a rule.
        seed: of wording and order.
    """
    rng = np.random.default_rng([seed, 1])
    for number in range(copies):
        for index, attributes in enumerate(COMBINATIONS):
            steps = steps_of(attributes)
            yield Case(
                id=f"rule-{number}-{index}",
                question=QUESTIONS[int(rng.integers(len(QUESTIONS)))],
                answer=world.diagnose(attributes),
                images=(),
                findings=tuple(steps[k] for k in rng.permutation(len(steps))),
            )


def described(casting: Casting) -> Case:
    """For stage 2: a case whose findings are its attributes, one after the other."""
    return replace(casting.case, findings=steps_of(casting.attributes))


def answer_row(case: Case, prompts: Prompts, said: str) -> dict[str, Any]:
    """For what no search found: a case as an intern is asked it from the beginning, and what is to be said."""
    (dialogue,) = AsInterns(prompts).of_path(case, said)
    turns = [{"role": turn.role, "content": turn.text} for turn in dialogue.turns]
    return {"id": case.id, "case_id": case.id, "images": list(case.images), "messages": turns}
