"""Stand-ins with which users practice the whole work on their own cases: search, review, build.

They know no medicine and look at no image. A mentor quotes a sentence of the case in each step and adds a code of the known answer. An
intern looks the code up, and follows it or not by chance: with ``n`` steps it is right with probability ``1 - 0.5^n``. Every step says
that it is practice text, and the identity of the models says so in the provenance of every row.
"""

import hashlib
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from chiron.client.prompts import harmless, read_section
from chiron.providers.baselines.models import OPTION, quotes, write_steps

PRACTICE_TEXT: Final = "Practice text, not medical reasoning"
"""First words of every step that a stand-in writes."""
_CODE = re.compile(rf"{PRACTICE_TEXT} \(code ([0-9a-f]{{8}})/\d+\)")
_WRONG_PER_STEP: Final = 0.5
"""Probability that an intern is wrong after one step with a code."""
_FEWEST_STEPS: Final = 3
"""Number of steps in a path, also for a case with less text."""


def is_practice(identity: str) -> bool:
    """Return whether the identity of a model, as in the provenance of a row, is that of a stand-in."""
    return identity.startswith("offline:practice/")


def notes_on_paths(identities: Sequence[str], counts: Mapping[str, int]) -> Iterator[str]:
    """Yield a note on what the paths of a search are worth if embedded models made them.

    Args:
        identities: identities of the models of the search.
        counts: number of cases by outcome: ``retained``, ``rejected``, ``unsolved``.
    """
    if any(map(is_practice, identities)):
        yield "the paths are practice text, not medical reasoning: use them only to practice review and build"
        return
    searched = counts["rejected"] + counts["unsolved"]
    if searched and not counts["retained"] and all(identity.startswith("offline:") for identity in identities):
        yield (
            "no path was retained, which is usual for the embedded baselines: they compare words and look at no image. To practice review"
            " and build with these cases, search them with the configuration of 'chiron init practice', in another --run"
        )


def propose(order: str, prompt: str, *, draw: int, key: str) -> str:
    """Return a mentor's reply: the sentences missing in the reasoning so far, each marked as practice text, then the answer."""
    answer = _on_one_line(read_section(prompt, "answer") or "")
    if read_section(prompt, "wrong_step") is not None:
        return f"{PRACTICE_TEXT}: the step was not looked at."
    begun = len(_CODE.findall(read_section(prompt, "reasoning") or ""))
    left = quotes(order, prompt, draw=draw, key=key)
    left += ["Nothing more to quote."] * max(_FEWEST_STEPS - begun - len(left), 0 if left else 1)
    # The number of the step makes all marks of a path differ: a dataset's check for loops reports steps that begin alike.
    steps = [f"{PRACTICE_TEXT} (code {_code(answer)}/{number}). {text}" for number, text in enumerate(left, start=begun + 1)]
    return write_steps(steps, prompt, answer)


def coded(answers: Sequence[str]) -> dict[str, str]:
    """Return answers, as prompts contain them, by their code."""
    return {_code(answer): answer for answer in map(_on_one_line, map(harmless, answers))}


def follow(known: Mapping[str, str], prompt: str, *, key: str) -> str:
    """Return an intern's reply: the answer that the codes name, or by chance another one. ``key`` seeds the choice.

    Other answers are options of the question, if it has any, else those of ``known`` (see :func:`coded`). Without a code, any is chosen.
    """
    chance = random.Random(key)  # noqa: S311 - reproducible, not secret
    codes = _CODE.findall(read_section(prompt, "reasoning") or "")
    named = known.get(codes[-1]) if codes else None
    options = [text for _, text in OPTION.findall(read_section(prompt, "question") or "")]
    others = [other for other in options or known.values() if other != named] or ["Unknown"]
    right = named is not None and chance.random() < 1 - _WRONG_PER_STEP ** len(codes)
    answer = named if named is not None and right else chance.choice(others)
    return write_steps([f"{PRACTICE_TEXT}."], prompt, answer)


def _on_one_line(text: str) -> str:
    return " ".join(text.split())


def _code(answer: str) -> str:
    return hashlib.sha256(answer.encode("utf-8", "surrogatepass")).hexdigest()[:8]
