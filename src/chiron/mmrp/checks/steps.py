"""Detect reasoning without steps, with empty steps, or with loops."""

from collections import Counter
from collections.abc import Iterator
from itertools import chain, combinations
from typing import Final

from chiron.conversation.reasoning import Defect, parse_reasoning
from chiron.mmrp.checks.check import Check, Finding
from chiron.mmrp.row import MmrpRow
from chiron.text import normalize_words

_RUN: Final = 8
"""Length of a word sequence that, if repeated, is a loop. Repeating shorter ones is normal."""
_TIMES: Final = 3
_SAME: Final = 0.9
"""Jaccard index of words from which two steps of at least ``_RUN`` words count as the same."""


def look(row: MmrpRow) -> Iterator[Finding]:
    """Yield faults of a row's reasoning. Missing reasoning is a fault only in part 3 (chains of thought)."""
    if not row.reasoning.strip():
        if row.part == "cot":
            yield Finding("steps", row.id, "a chain of thought without reasoning")
        return
    reasoning = parse_reasoning(row.reasoning)
    if Defect.NO_STEPS in reasoning.defects and row.part == "cot":
        yield Finding("steps", row.id, "the reasoning is not divided into steps")
    if Defect.EMPTY_STEP in reasoning.defects:
        yield Finding("steps", row.id, "a step is empty")
    if repetition := _repetition(reasoning.steps or (row.reasoning,)):
        yield Finding("steps", row.id, repetition)


def _repetition(steps: tuple[str, ...]) -> str | None:
    words = [normalize_words(step).split() for step in steps]
    held = [frozenset(step) for step in words]
    for (i, a), (j, b) in combinations(enumerate(held, start=1), 2):
        long = min(len(words[i - 1]), len(words[j - 1])) >= _RUN
        if words[i - 1] == words[j - 1] or (long and len(a & b) >= _SAME * len(a | b)):
            return f"step {j} repeats step {i}"
    runs = Counter(chain.from_iterable(zip(*(step[at:] for at in range(_RUN)), strict=False) for step in words))
    if runs:
        run, times = runs.most_common(1)[0]
        if times >= _TIMES:
            return f"'{' '.join(run)}' occurs {times} times"
    return None


CHECKS = (Check("steps", "Empty or repeated steps", 0.01, look),)
