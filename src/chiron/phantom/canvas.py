"""What every modality draws with: coordinates, soft-edged shapes, clouds and strokes.

A picture is a float32 plane of tones, shape (size, size), where 0 is black and 1 is white. Positions and lengths are fractions
of the image's width from its centre: ``x`` grows to the right of the image (the patient's left), ``y`` downwards. So the same
code draws any size, and only noise is counted in pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Plane = NDArray[np.floating]
"""Tones, coverages or coordinates of every pixel, or of a window; float32, shape (size, size)."""

_FINER: Final = 2  # strokes are drawn this much larger and then averaged, for PIL's lines are jagged


@dataclass(frozen=True, eq=False)
class Grid:
    """The coordinates of every pixel's centre."""

    size: int
    """Pixels a side."""
    x: Plane
    """From -0.5 (left of the image, the patient's right) to 0.5."""
    y: Plane
    """From -0.5 (top of the image) to 0.5."""

    def window(self, x: float, y: float, reach: float) -> tuple[slice, slice]:
        """The rows and columns within ``reach`` of a point, as far as they are in the picture."""
        rows, columns = (slice(max(0, int((c - reach + 0.5) * self.size) - 1), int((c + reach + 0.5) * self.size) + 2) for c in (y, x))
        return rows, columns


@lru_cache(maxsize=4)
def grid(size: int) -> Grid:
    """The grid of a picture of so many pixels a side; its planes are shared, so they cannot be written to."""
    line = ((np.arange(size, dtype=np.float32) + 0.5) / size - 0.5).astype(np.float32)
    x, y = np.meshgrid(line, line)
    x.flags.writeable = y.flags.writeable = False
    return Grid(size, x, y)


def edge(grid: Grid, inside: Plane, soft: float = 1.0) -> Plane:
    """Coverage (0 to 1) of a shape, from the distance by which each point lies inside it; ``soft`` is the edge in pixels."""
    coverage: Plane = np.clip(inside * (grid.size / soft) + 0.5, 0, 1)
    return coverage


def ellipse(grid: Grid, x: float, y: float, rx: float, ry: float, *, soft: float = 1.0) -> Plane:
    """Coverage of an ellipse with centre (x, y) and half-axes (rx, ry)."""
    window = grid.window(x, y, max(rx, ry) + soft / grid.size)
    rho = np.sqrt(((grid.x[window] - x) / rx) ** 2 + ((grid.y[window] - y) / ry) ** 2)
    coverage = np.zeros_like(grid.x)
    coverage[window] = edge(grid, (1 - rho) * min(rx, ry), soft)
    return coverage


def glow(grid: Grid, x: float, y: float, rx: float, ry: float) -> Plane:
    """A bell (0 to 1) with centre (x, y) and standard deviations (rx, ry)."""
    return np.exp(-0.5 * (((grid.x - x) / rx) ** 2 + ((grid.y - y) / ry) ** 2))


def mix(under: Plane, over: Plane | float, coverage: Plane) -> Plane:
    """Lay one tone over another where it covers."""
    return under + (over - under) * coverage


def clouds(grid: Grid, rng: np.random.Generator, cells: int) -> Plane:
    """Smooth noise of mean 0 and standard deviation near 1 in the middle of its lumps, ``cells`` lumps across."""
    cells = min(cells, grid.size)
    coarse = rng.standard_normal((cells, cells), dtype=np.float32)
    image = Image.fromarray(coarse).resize((grid.size, grid.size), Image.Resampling.BICUBIC)
    return np.asarray(image, dtype=np.float32)


def grain(grid: Grid, rng: np.random.Generator, sd: float) -> Plane:
    """Noise of each pixel for itself, of mean 0."""
    return rng.standard_normal((grid.size, grid.size), dtype=np.float32) * np.float32(sd)


def strokes(grid: Grid, paths: Sequence[NDArray[np.float64]], width: float) -> Plane:
    """Coverage of lines along paths, each an array of points of shape (points, 2)."""
    side = grid.size * _FINER
    image = Image.new("L", (side, side))
    pen = ImageDraw.Draw(image)
    for path in paths:
        points = ((path + 0.5) * side).ravel().tolist()
        pen.line(points, fill=255, width=max(1, round(width * side)), joint="curve")
    small = image.reduce(_FINER)
    return np.asarray(small, dtype=np.float32) / 255


def vessels(grid: Grid, rng: np.random.Generator, x: float, y: float, reach: float, count: int, width: float) -> Plane:
    """Coverage of winding vessels that run outwards from (x, y): the lesion's distractors.

    The random numbers drawn depend on ``count`` alone.
    """
    along = np.linspace(0, 1, 9)
    angle = rng.uniform(0, 2 * np.pi, count) + np.linspace(0, 2 * np.pi, count, endpoint=False)
    bend = rng.uniform(-1.2, 1.2, count)
    length = reach * rng.uniform(0.6, 1.0, count)
    paths = []
    for k in range(count):
        heading = angle[k] + bend[k] * along
        steps = np.stack([np.cos(heading), np.sin(heading)], axis=1) * length[k] / 8
        paths.append(np.array([x, y]) + np.cumsum(steps, axis=0))
    return strokes(grid, paths, width)
