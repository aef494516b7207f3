"""Tables and figures of calibration: of the confidence that a model states in its replies, and of the votes of several samples."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from chiron.conversation.markup import own_turn, said
from chiron.errors import InputError
from chiron.evaluation.items import ItemResult
from chiron.evaluation.read_runs import REAL, Evaluated
from chiron.evaluation.samples import CalibrationRecord, calibration_of, votes
from chiron.evaluation.statistics import Share
from chiron.evaluation.tables.formats import Cell, Grid, cell, grid_of
from chiron.extras import install_command
from chiron.io import write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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


@dataclass(frozen=True)
class Calibrated:
    """The calibration of one model on one benchmark."""

    kind: str
    """``stated confidence`` or ``votes``."""
    model: str
    benchmark: str
    record: CalibrationRecord
    n: int
    """Number of pairs of confidence and correctness."""
    of: int
    """Number of answers."""


_KINDS = {
    "stated confidence": "n: answers whose reply states a confidence. Unread answers are left out.",
    "votes": "The confidence is the share of samples with the most frequent answer. n: items.",
}


def calibrations(models: Sequence[Evaluated]) -> list[Calibrated]:
    """Compute the calibration of stated confidence and of votes, wherever there is any, in the order of the runs."""
    found = []
    for kind, pairs_of in {"stated confidence": _stated, "votes": votes}.items():
        for model in models:
            for benchmark in dict.fromkeys(r.benchmark for r in model.results):
                results = [r for r in model.results if r.benchmark == benchmark and r.control == REAL]
                pairs = pairs_of(results)
                if (record := calibration_of(pairs)) is not None:
                    found.append(Calibrated(kind, model.name, benchmark, record, len(pairs), len(results)))
    return found


def calibration_grids(models: Sequence[Evaluated]) -> list[Grid]:
    """Build the tables of stated confidence and of votes, where there are any."""
    found = calibrations(models)
    measures = "ECE: expected calibration error, ten bins of equal width. Brier: mean squared error of the confidence. 0 is perfect."
    return [
        grid_of(f"Calibration of {kind}", "model", cells, (measures, note))
        for kind, note in _KINDS.items()
        if (cells := {(c.model, c.benchmark): _cell(c) for c in found if c.kind == kind})
    ]


def _cell(found: Calibrated) -> Cell:
    record = found.record
    return cell(f"ECE {record['ece']:.3f}", f"Brier {record['brier']:.3f}", f"n {found.n:,} of {found.of:,}")


def draw_calibration(models: Sequence[Evaluated], path: Path) -> None:
    """Draw a reliability diagram and an abstention curve for each benchmark, with one line per model.

    Args:
        models: from :func:`chiron.evaluation.read_runs.read_evaluations`.
        path: output file: ``.svg``, ``.png`` or ``.pdf``.

    Raises:
        InputError: there is no confidence, the suffix is not supported, or matplotlib is not installed.
        DiskError: the file cannot be written.
    """
    found = calibrations(models)
    if not found:
        raise InputError("no calibration to draw: ask every item several times (--samples K), or let replies state a confidence")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError(f"a figure needs matplotlib ({error}): {install_command('eval')}") from error
    panels = list(dict.fromkeys((c.benchmark, c.kind) for c in found))
    colors = {model: f"C{n % 10}" for n, model in enumerate(dict.fromkeys(c.model for c in found))}
    figure = Figure(figsize=(9, 3.8 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), 2, squeeze=False)
    for (benchmark, kind), (reliability, abstention) in zip(panels, axes, strict=True):
        for c in found:
            if (c.benchmark, c.kind) == (benchmark, kind):
                _draw(reliability, abstention, c, colors[c.model])
        reliability.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle="--")
        reliability.set(xlabel="confidence")
        reliability.set_title(f"{benchmark}, {kind}: reliability", loc="left", fontsize=10)
        abstention.set(xlabel="answered share of items")
        abstention.set_title("abstention: accuracy of the answered items", loc="left", fontsize=10)
        for place in (reliability, abstention):
            place.set(xlim=(0, 1.03), ylim=(0, 1.03), ylabel="accuracy")
            place.grid(color="0.9", linewidth=0.6)
            place.legend(loc="lower right" if place is abstention else "upper left", fontsize=8)
    write_figure(figure, path)


def _draw(reliability: "Axes", abstention: "Axes", calibrated: Calibrated, color: str) -> None:
    """Draw one model. Bars are Wilson's intervals, and a point is larger the more answers its bin has."""
    name, bins, points = calibrated.model, calibrated.record["bins"], calibrated.record["abstention"]
    x, y = [b["confidence"] for b in bins], [b["accuracy"] for b in bins]
    intervals = [Share(round(b["accuracy"] * b["n"]), b["n"]).interval for b in bins]
    below = [max(0.0, value - low) for value, (low, _) in zip(y, intervals, strict=True)]
    above = [max(0.0, high - value) for value, (_, high) in zip(y, intervals, strict=True)]
    label = f"{name}, ECE {calibrated.record['ece']:.3f}"
    reliability.errorbar(x, y, yerr=[below, above], color=color, linewidth=1, elinewidth=0.7, label=label)
    most = max(b["n"] for b in bins)
    reliability.scatter(x, y, s=[8 + 72 * b["n"] / most for b in bins], color=color, zorder=3)
    coverage, right = [p["coverage"] for p in points], [p["accuracy"] for p in points]
    abstention.plot(coverage, right, color=color, marker="o", markersize=3, label=name)


def _stated(results: list[ItemResult]) -> list[tuple[float, bool]]:
    stated = [(stated_confidence(r.reply), r) for r in results if r.reply is not None and r.verdict in {"right", "wrong"}]
    return [(confidence, r.right) for confidence, r in stated if confidence is not None]
