"""Geometry of line charts, in SVG user units. The template draws them, so no markup is made here."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from chiron.reports.figures import Tick

WIDTH, HEIGHT = 640, 240
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 10, 30
_MOST_POINTS = 400
"""Points of a line; more are averaged, since they are narrower than a pixel."""
_MOST = 1e200
"""Values from here on are not drawn, nor is NaN: their differences and sums would be infinite."""
_WIDE = 30.0
"""Ratio of the highest to the lowest value above which the axis is logarithmic."""

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart."""

    name: str
    number: int
    """Position among the lines, which selects its color."""
    path: str
    """Value of the ``d`` attribute; contains only numbers and letters."""
    dots: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart with a common axis for all lines."""

    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    logarithmic: bool
    averaged: bool
    """Whether points of a line are means of several values."""


def chart(series: Sequence[tuple[str, Sequence[Point], Sequence[Point]]]) -> Chart | None:
    """Lay out lines with optional dots: (name, points of the line, dots). ``None`` if there is no finite value."""
    finite = [(name, _finite(points), _finite(dots)) for name, points, dots in series]
    everything = [point for _, points, dots in finite for point in (*points, *dots)]
    if not everything:
        return None
    values = [y for _, y in everything]
    logarithmic = min(values) > 0 and max(values) > _WIDE * min(values)
    x_axis = _Axis(min(x for x, _ in everything), max(x for x, _ in everything), LEFT, WIDTH - RIGHT, logarithmic=False)
    y_axis = _Axis(min(values), max(values), HEIGHT - BOTTOM, TOP, logarithmic=logarithmic)
    lines = tuple(
        Line(
            name,
            number,
            _path([(x_axis.place(x), y_axis.place(y)) for x, y in _thinned(points)]),
            tuple((round(x_axis.place(x), 1), round(y_axis.place(y), 1)) for x, y in dots),
        )
        for number, (name, points, dots) in enumerate(finite)
    )
    averaged = any(len(points) > _MOST_POINTS for _, points, _ in finite)
    return Chart(lines, x_axis.ticks(), y_axis.ticks(), logarithmic, averaged)


@dataclass(frozen=True, slots=True)
class _Axis:
    low: float
    high: float
    begin: float
    end: float
    logarithmic: bool

    def place(self, value: float) -> float:
        low, high, at = (math.log10(v) if self.logarithmic else v for v in (self.low, self.high, value))
        return self.begin + (self.end - self.begin) * ((at - low) / (high - low) if high > low else 0.5)

    def ticks(self) -> tuple[Tick, ...]:
        if self.logarithmic:
            powers = range(math.ceil(math.log10(self.low)), math.floor(math.log10(self.high)) + 1)
            values = [10.0**power for power in powers] if len(powers) > 1 else [self.low, self.high]
        elif self.high <= self.low:
            values = [self.low]
        else:
            step = _round_step((self.high - self.low) / 5)
            first = math.ceil(self.low / step - 1e-9)
            values = [number * step for number in range(first, math.floor(self.high / step + 1e-9) + 1)]
        return tuple(Tick(round(self.place(value), 1), f"{value:.4g}") for value in values)


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)


def _finite(points: Sequence[Point]) -> list[Point]:
    return [(x, y) for x, y in points if abs(x) < _MOST and abs(y) < _MOST]


def _thinned(points: list[Point]) -> list[Point]:
    """Average neighboring points of a long line."""
    size = -(-len(points) // _MOST_POINTS)
    groups = [points[first : first + size] for first in range(0, len(points), max(1, size))]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]


def _path(points: list[Point]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) if points else ""
