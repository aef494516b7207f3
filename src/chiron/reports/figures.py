"""Geometry of the two figures, in SVG user units. The template draws them, so no markup is made here."""

import math
from collections import Counter
from dataclasses import dataclass

WIDTH, HEIGHT = 440, 200
LEFT, RIGHT, TOP, BOTTOM = 40, 12, 16, 40
_SLOTS = 12
_MARGIN, _SIDE = 14, 128
_GRID = 24
"""Scores are k/n with n = interns times temperatures; multiples of 1/24 represent n = 2, 3, 4, 6, 8 and 12 exactly."""


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark on an axis."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Bar:
    """Cases with a MICS-Score in one interval: retained ones at the bottom, the others stacked on top."""

    x: float
    width: float
    retained_y: float
    retained_height: float
    others_y: float
    others_height: float
    total: int
    words: str


@dataclass(frozen=True, slots=True)
class Histogram:
    """Distribution of MICS-Scores."""

    bars: tuple[Bar, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    threshold_x: float | None
    words: str


@dataclass(frozen=True, slots=True)
class Bubble:
    """Cases with the same baseline and MICS-Score."""

    x: float
    y: float
    radius: float
    words: str


@dataclass(frozen=True, slots=True)
class CornerTick:
    """A tick on both axes."""

    x: float
    y: float
    label: str


@dataclass(frozen=True, slots=True)
class Uplift:
    """MICS-Score plotted against baseline."""

    bubbles: tuple[Bubble, ...]
    ticks: tuple[CornerTick, ...]
    better: int
    same: int
    worse: int
    words: str


def histogram(scores: Counter[tuple[float, bool]], threshold: float | None) -> Histogram:
    """Compute twelve bars: exactly 0, ten intervals open below and closed above, exactly 1.

    A case is retained *above* the threshold, so closed upper ends put the threshold line between the right bars.
    """
    counts = [[0, 0] for _ in range(_SLOTS)]
    for (score, retained), number in scores.items():
        counts[_slot(score)][0 if retained else 1] += number
    top, step = _scale(max((sum(pair) for pair in counts), default=0))
    floor, room = HEIGHT - BOTTOM, HEIGHT - BOTTOM - TOP
    width = (WIDTH - LEFT - RIGHT) / _SLOTS

    bars = []
    for slot, (below, above) in enumerate(counts):
        low, high = room * below / top, room * above / top
        words = f"{_interval(slot)}: {below} retained, {above} not"
        bars.append(Bar(LEFT + slot * width + 2, width - 4, floor - low, low, floor - low - high, high, below + above, words))
    # Interval edges are between bars; 0 and 1 have bars of their own.
    x_ticks = [Tick(LEFT + width / 2, "0"), *(Tick(LEFT + (1 + 10 * edge) * width, f"{edge:.1f}") for edge in (0.2, 0.4, 0.6, 0.8))]
    x_ticks.append(Tick(LEFT + (_SLOTS - 0.5) * width, "1"))
    y_ticks = [Tick(floor - room * value / top, f"{value:,}") for value in range(0, top + 1, step)]
    line = LEFT + (1 + 10 * threshold) * width if threshold is not None and 0 <= threshold < 1 else None
    words = "; ".join(bar.words for bar in bars if bar.total) or "no case has a score yet"
    return Histogram(tuple(bars), tuple(x_ticks), tuple(y_ticks), line, words)


def uplift(pairs: Counter[tuple[float, float]]) -> Uplift:
    """Compute a bubble for every pair of baseline and MICS-Score; its area is proportional to the number of cases."""
    cells: Counter[tuple[float, float]] = Counter()
    better = same = worse = 0
    for (baseline, score), number in pairs.items():
        cells[round(baseline * _GRID) / _GRID, round(score * _GRID) / _GRID] += number
        if abs(score - baseline) < 1e-9:
            same += number
        elif score > baseline:
            better += number
        else:
            worse += number
    most = max(cells.values(), default=1)
    bubbles = [
        Bubble(*_place(baseline, score), max(2.5, 12 * math.sqrt(number / most)), f"{number} with {baseline:.2f}, then {score:.2f}")
        for (baseline, score), number in sorted(cells.items())
    ]
    words = f"the score is above the baseline in {better}, the same in {same}, below it in {worse}"
    return Uplift(tuple(bubbles), tuple(CornerTick(*_place(v, v), f"{v:g}") for v in (0.0, 0.5, 1.0)), better, same, worse, words)


def _place(baseline: float, score: float) -> tuple[float, float]:
    """Return a pair's position in the square figure, with a margin of one bubble: x to the right, y upward."""
    return LEFT + _MARGIN + baseline * _SIDE, HEIGHT - BOTTOM - _MARGIN - score * _SIDE


def _slot(score: float) -> int:
    if score <= 0:
        return 0
    return _SLOTS - 1 if score >= 1 else min(10, max(1, math.ceil(score * 10 - 1e-9)))


def _interval(slot: int) -> str:
    if slot in {0, _SLOTS - 1}:
        return "exactly 0" if slot == 0 else "exactly 1"
    return f"above {(slot - 1) / 10:.1f} up to {slot / 10:.1f}"


def _scale(most: int) -> tuple[int, int]:
    """Return a round axis maximum and the tick step: at most five ticks, whole numbers."""
    step = 1
    while most > 4 * step:
        step = step * 5 // 2 if str(step).startswith("2") else step * 2
    return max(step * math.ceil(most / step), 1), step
