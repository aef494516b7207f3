"""Whether a path is true, which only a drawn world can say: a path is pure if every step of it says what is drawn."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from chiron.conversation.reasoning import parse_reasoning
from chiron.evaluation.answering import Answered
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


def purity(run: Path, data: Data, *, first: int | None = None) -> Purity:
    """Of a finished run's retained paths, of all cases or of the ``first`` so many (``evaluations`` are of all of them even so)."""
    truth = {casting.case.id: set(steps_of(casting.attributes)) for casting in data.seen[:first]}
    lines = [json.loads(line) for line in (run / "paths.jsonl").read_text("utf-8").splitlines()]
    counted = [line for line in lines if line["case_id"] in truth]
    pure = sum(is_pure(line["reasoning"], truth[line["case_id"]]) for line in counted)
    return Purity(len(truth), len(counted), pure, _evaluations(run))


def perception(answered: Sequence[Answered], data: Data) -> dict[str, float]:
    """By attribute, the share of evaluated cases in whose answer it is said right; one that is not said counts as wrong."""
    attributes = {c.case.id: c.attributes for c in (*data.seen_evaluated, *data.held_out_evaluated)}
    said = [(attributes[a.case.id], set(parse_reasoning(a.reply or "").steps)) for a in answered]
    return {name: sum(steps_of(true)[k] in steps for true, steps in said) / len(said) for k, name in enumerate(ATTRIBUTES)}


def is_pure(reasoning: str, truth: set[str]) -> bool:
    """Whether every attribute is said, and said right, in the reasoning."""
    said = {step for step in parse_reasoning(reasoning).steps if any(step.startswith(f"The {name} is ") for name in ATTRIBUTES)}
    return said == truth


def _evaluations(run: Path) -> int:
    from chiron.models.ledger import Ledger

    with Ledger.read(run / "ledger.sqlite") as ledger:
        return sum(s.calls for s in ledger.spending() if s.role == "intern")
