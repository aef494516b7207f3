"""Tables of calibration: of the confidence that a model states in its replies, and of the votes of several samples."""

import re
from collections.abc import Callable, Sequence

from chiron.conversation.markup import own_turn, said
from chiron.evaluation.items import ItemResult
from chiron.evaluation.read_runs import REAL, Evaluated
from chiron.evaluation.samples import calibration_of, votes
from chiron.evaluation.tables.formats import EMPTY, Cell, Grid, cell

_STATED = re.compile(
    r"\bconfidence(?:\s+(?:level|score))?(?:\s+(?:is|of)\b)?[\s*_]*[:=]?[\s*_]*(\d{1,3}(?:\.\d{1,6})?)\s{0,2}(%|/\s?100?\b)?", re.IGNORECASE
)


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


def calibration_grids(models: Sequence[Evaluated]) -> list[Grid]:
    """Build the tables of stated confidence and of votes, where there are any."""
    return [
        *_grid(
            models, "Calibration of stated confidence", _stated, "n: answers whose reply states a confidence. Unread answers are left out."
        ),
        *_grid(models, "Calibration of votes", votes, "The confidence is the share of samples with the most frequent answer. n: items."),
    ]


def _grid(
    models: Sequence[Evaluated], title: str, pairs_of: Callable[[list[ItemResult]], list[tuple[float, bool]]], note: str
) -> list[Grid]:
    benchmarks = dict.fromkeys(r.benchmark for m in models for r in m.results)
    rows: dict[str, dict[str, Cell]] = {}
    for model in models:
        for benchmark in benchmarks:
            results = [r for r in model.results if r.benchmark == benchmark and r.control == REAL]
            pairs = pairs_of(results)
            if (found := calibration_of(pairs)) is not None:
                lines = (f"ECE {found['ece']:.3f}", f"Brier {found['brier']:.3f}", f"n {len(pairs):,} of {len(results):,}")
                rows.setdefault(model.name, {})[benchmark] = cell(*lines)
    if not rows:
        return []
    shown = [b for b in benchmarks if any(b in row for row in rows.values())]
    notes = ("ECE: expected calibration error, ten bins of equal width. Brier: mean squared error of the confidence. 0 is perfect.", note)
    cells = tuple((name, tuple(row.get(b, EMPTY) for b in shown)) for name, row in rows.items())
    return [Grid(title, ("model", *shown), cells, notes)]


def _stated(results: list[ItemResult]) -> list[tuple[float, bool]]:
    stated = [(stated_confidence(r.reply), r) for r in results if r.reply is not None and r.verdict in {"right", "wrong"}]
    return [(confidence, r.right) for confidence, r in stated if confidence is not None]
