"""A suite: the columns of one published table, each with the benchmark, protocol and split that make its figures comparable."""

from dataclasses import dataclass

from chiron.errors import InputError
from chiron.evaluation.config import EvaluationConfig

BERTSCORE, MICS = "bertscore_f1", "mics_score"
"""How the names of scores begin that need an encoder, or interns and a judge."""


@dataclass(frozen=True)
class Column:
    """One column: a benchmark under one protocol, and what is reported of its answers."""

    title: str
    """Heading, as in the published table."""
    benchmark: str
    protocol: str
    split: str
    """The questions, in words."""
    score: str | None = None
    """Name of the reported score of the answers; ``None`` for accuracy."""
    averaged: bool = True
    """Whether AVG averages this column."""

    @property
    def key(self) -> str:
        """Name under which published rows have this column's value: ``BENCHMARK`` or ``BENCHMARK:SCORE``."""
        return self.benchmark if self.score is None else f"{self.benchmark}:{self.score}"

    def lacks(self, chosen: EvaluationConfig, *, judged: bool, encoder: bool) -> str:
        """Name the options without which this column cannot be measured; empty if there are none.

        Args:
            chosen: names judge and interns.
            judged: whether the protocol needs a judge.
            encoder: whether there is an encoder for BERTScore.
        """
        score = self.score or ""
        needed = {
            "--judge": (judged or score.startswith(MICS)) and chosen.judge is None,
            "--interns": score.startswith(MICS) and not chosen.interns,
            "--bertscore": score.startswith(BERTSCORE) and not encoder,
        }
        return " and ".join(option for option, lacking in needed.items() if lacking)


@dataclass(frozen=True)
class Suite:
    """One published table."""

    name: str
    title: str
    """What the table is, with its source."""
    columns: tuple[Column, ...]
    notes: tuple[str, ...] = ()
    """What a reader of measured rows must know."""

    def __post_init__(self) -> None:
        """Check that every benchmark has one protocol, because a run directory has one."""
        for column in self.columns:
            if any(other.benchmark == column.benchmark and other.protocol != column.protocol for other in self.columns):
                raise InputError(f"suite '{self.name}' asks {column.benchmark} under two protocols: use one in all its columns")

    @property
    def averaged(self) -> tuple[Column, ...]:
        """The columns that AVG averages; empty for a table without AVG."""
        return tuple(column for column in self.columns if column.averaged)

    @property
    def benchmarks(self) -> dict[str, str]:
        """Protocol of each benchmark, in the order of the columns."""
        return {column.benchmark: column.protocol for column in self.columns}
