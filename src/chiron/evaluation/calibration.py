"""Calibration of the confidence that a model states in its replies: expected calibration error and Brier score."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from chiron.conversation.markup import own_turn, said
from chiron.evaluation.items import ItemResult
from chiron.evaluation.read_runs import REAL, Evaluated
from chiron.evaluation.tables.formats import EMPTY, Cell, Grid, cell

_BINS = 10
_STATED = re.compile(
    r"\bconfidence(?:\s+(?:level|score))?(?:\s+(?:is|of)\b)?[\s*_]*[:=]?[\s*_]*(\d{1,3}(?:\.\d{1,6})?)\s{0,2}(%|/\s?100?\b)?", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Calibration:
    """How well stated confidence predicts whether an answer is right."""

    of: int
    """Number of answers with a stated confidence."""
    ece: float
    """Expected calibration error with ten bins of equal width (C. Guo et al., ICML 2017): 0 is perfect."""
    brier: float
    """Mean squared difference of confidence and rightness (G. Brier, 1950): 0 is perfect, 0.25 is that of always 0.5."""


def stated_confidence(reply: str) -> float | None:
    """Read the last confidence that a reply states after its thinking, as ``Confidence: 80 %``, ``0.8``, ``80``, ``8/10`` or ``80/100``.

    Returns:
        A share in [0, 1]; ``None`` if there is none, or if it is not clear (a bare 1 could be 1 or 1 %).
    """
    found = _STATED.findall(own_turn(said(reply)))
    if not found:
        return None
    number, unit = found[-1]
    value = float(number)
    if unit:
        value /= 10 if unit.replace(" ", "") == "/10" else 100
    elif value > 1:
        value /= 100
    elif number == "1":
        return None
    return value if value <= 1 else None


def calibration(pairs: Sequence[tuple[float, bool]]) -> Calibration:
    """Measure the calibration of (confidence, whether the answer is right).

    Raises:
        ValueError: there are no pairs.
    """
    if not pairs:
        raise ValueError("no answer has a stated confidence")
    bins: dict[int, list[tuple[float, bool]]] = {}
    for pair in pairs:
        bins.setdefault(min(int(pair[0] * _BINS), _BINS - 1), []).append(pair)
    ece = sum(abs(sum(confidence - right for confidence, right in part)) for part in bins.values()) / len(pairs)
    return Calibration(len(pairs), ece, sum((confidence - right) ** 2 for confidence, right in pairs) / len(pairs))


def calibration_grids(models: Sequence[Evaluated]) -> list[Grid]:
    """Build the table of the models and benchmarks whose replies state a confidence; none if no reply does."""
    benchmarks = dict.fromkeys(r.benchmark for m in models for r in m.results)
    rows: dict[str, dict[str, Cell]] = {}
    for model in models:
        for benchmark in benchmarks:
            results = [r for r in model.results if r.benchmark == benchmark and r.control == REAL]
            if pairs := _pairs(results):
                rows.setdefault(model.name, {})[benchmark] = _cell(calibration(pairs), len(results))
    if not rows:
        return []
    shown = [b for b in benchmarks if any(b in row for row in rows.values())]
    notes = (
        "ECE: expected calibration error, ten bins of equal width. Brier: mean squared error of the confidence. 0 is perfect.",
        "n: answers whose reply states a confidence. The others, and answers that could not be read, are left out.",
    )
    cells = tuple((name, tuple(row.get(b, EMPTY) for b in shown)) for name, row in rows.items())
    return [Grid("Calibration of stated confidence", ("model", *shown), cells, notes)]


def _pairs(results: Sequence[ItemResult]) -> list[tuple[float, bool]]:
    stated = [(stated_confidence(r.reply), r) for r in results if r.reply is not None and r.verdict in {"right", "wrong"}]
    return [(confidence, r.right) for confidence, r in stated if confidence is not None]


def _cell(found: Calibration, asked: int) -> Cell:
    return cell(f"ECE {found.ece:.3f}", f"Brier {found.brier:.3f}", f"n {found.of:,} of {asked:,}")
