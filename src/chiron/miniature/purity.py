"""Whether a path is true, which only a drawn world can say: a path is pure if every step of it says what is drawn."""

import json
from dataclasses import dataclass
from pathlib import Path

from chiron.mics.reasoning import parse_reasoning
from chiron.miniature.data import Data
from chiron.miniature.lessons import ATTRIBUTES, steps_of


@dataclass(frozen=True, slots=True)
class Purity:
    """Of the retained paths of a run."""

    cases: int
    """Cases that were searched."""
    retained: int
    pure: int
    evaluations: int
    """Of all prefixes of all cases, asked to find them."""

    @property
    def share(self) -> float:
        """Pure of the retained."""
        return self.pure / self.retained if self.retained else 0.0

    @property
    def evaluations_a_pure_path(self) -> float | None:
        """What a pure path costs; ``None`` if there is none."""
        return self.evaluations / self.pure if self.pure else None


def purity(run: Path, data: Data) -> Purity:
    """Of a finished run's retained paths."""
    truth = {casting.case.id: set(steps_of(casting.attributes)) for casting in data.seen}
    lines = [json.loads(line) for line in (run / "paths.jsonl").read_text("utf-8").splitlines()]
    pure = sum(is_pure(line["reasoning"], truth[line["case_id"]]) for line in lines)
    return Purity(len(data.seen), len(lines), pure, _evaluations(run))


def is_pure(reasoning: str, truth: set[str]) -> bool:
    """Whether every attribute is said, and said right, in the reasoning."""
    said = {step for step in parse_reasoning(reasoning).steps if any(step.startswith(f"The {name} is ") for name in ATTRIBUTES)}
    return said == truth


def _evaluations(run: Path) -> int:
    from chiron.models.ledger import Ledger

    with Ledger.read(run / "ledger.sqlite") as ledger:
        return sum(s.calls for s in ledger.spending() if s.role == "intern")
