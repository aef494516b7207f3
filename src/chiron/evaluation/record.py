"""What an evaluation keeps: a line an item in ``items.jsonl``, from which every figure can be made again."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from chiron.errors import InputError

ITEMS, RESULTS = "items.jsonl", "results.json"
"""The two derived files of an evaluation's run directory."""


class Verdict(StrEnum):
    """What an answer came to. Everything but ``right`` counts as not right, in one N."""

    RIGHT = "right"
    WRONG = "wrong"
    UNPARSED = "unparsed"
    """No answer could be taken out of the reply."""
    UNJUDGED = "unjudged"
    """The judge, asked twice, said neither yes nor no: not right, and shown."""
    UNUSABLE = "unusable"
    """The item cannot be put (a missing image, more images than the model takes): wrong, and shown."""
    PENDING = "pending"
    """Its call got no answer yet: run again. A table with pending items says so."""


@dataclass(frozen=True)
class ItemResult:
    """One item, asked once: of one benchmark, control and seed."""

    benchmark: str
    id: str
    verdict: Verdict
    protocol: str
    control: str = "none"
    """``none``, ``no-image``, ``blank``, ``swap`` or ``shuffle-options``."""
    seed: int = 0
    """Which of the seeds (samples) it is, from 0; of ``shuffle-options`` also which order."""
    kind: str = "open"
    group: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    question: str = ""
    images: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    """In the order in which they were shown."""
    answer: str = ""
    """The known one."""
    reply: str | None = None
    """What the model said, whole."""
    given: str | None = None
    """The answer taken out of it: an option's text, or words."""
    rule: str = ""
    """By which rule it was found."""
    problem: str = ""
    """Why it is unusable or pending, or lacks a further score."""
    cut_off: bool = False
    """Whether the token limit ended the reply."""
    call: str = ""
    """The ledger's key of the model's call (hex)."""
    scores: Mapping[str, float | None] = field(default_factory=dict)
    """Other metrics of this answer by name: ``judge:NAME`` (0 or 1), ``token_recall``, ``bertscore_f1``, ``mics_score``,
    ``mics_score@1`` (after the first step) ..."""

    @property
    def right(self) -> bool:
        """Whether it counts."""
        return self.verdict == Verdict.RIGHT

    def to_record(self) -> dict[str, Any]:
        """As a line of ``items.jsonl``."""
        return asdict(self)


def read_results(path: Path) -> Iterator[ItemResult]:
    """Every line of an ``items.jsonl``, one at a time.

    Raises:
        InputError: it cannot be read; names file and line.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    raw = json.loads(line)
                    raw.update(verdict=Verdict(raw["verdict"]), images=tuple(raw["images"]), options=tuple(raw["options"]))
                    yield ItemResult(**raw)
                except (ValueError, KeyError, TypeError, RecursionError, AttributeError) as error:
                    raise InputError(
                        f"{path}, line {number}: no line of an evaluation ({type(error).__name__}): run the evaluation again"
                    ) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): name a run directory that 'chiron eval' wrote") from error
