"""Registry of checks: title, purpose, and the limit above which a dataset is refused."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from chiron.mmrp.checks import contradiction, conversation, final_answer, given_away, image_marks, steps, values
from chiron.mmrp.checks.finding import Finding
from chiron.mmrp.row import MmrpRow

LookAtRow = Callable[[MmrpRow], Iterator[Finding]]


@dataclass(frozen=True, slots=True)
class Check:
    """A check of the dataset."""

    name: str
    title: str
    """Title for display."""
    limit: float
    """Tolerated share of rows with an error or warning of this check; above it, the dataset is refused."""
    look: LookAtRow | None = None
    """Function that checks a single row; ``None`` if the check needs the whole dataset."""


_ALL: Final = (
    Check("unreadable_images", "Images that nobody can open", 0.0),
    Check("image_marks", "Image marks that do not fit the images", 0.0, image_marks.look),
    Check("conversation", "Turns out of order, empty, or in text that no file can hold", 0.0, conversation.look),
    Check("values", "A difficulty that is not from 0 to 1, or a depth that is not a number", 0.0, values.look),
    Check("duplicates", "The same row again: an id, or words and images", 0.01),
    Check("near_duplicates", "Nearly the same words with nearly the same images", 0.10),
    Check("shared_images", "The same image under several patients", 0.05),
    Check("overlap", "Images or questions of a benchmark", 0.0),
    Check("given_away", "The answer stands in the question", 0.02, given_away.look),
    Check("contradiction", "Reasoning against the findings: side, size or number", 0.02, contradiction.look),
    Check("steps", "Empty steps, or steps that go round in circles", 0.01, steps.look),
    Check("final_answer", "No final answer, or another than the known one", 0.05, final_answer.look),
)
CHECKS: Final[Mapping[str, Check]] = MappingProxyType({check.name: check for check in _ALL})
"""Checks by name, in display order."""


def look_at(row: MmrpRow) -> Iterator[Finding]:
    """Yield the findings of all checks of a single row."""
    for check in _ALL:
        if check.look is not None:
            yield from check.look(row)
