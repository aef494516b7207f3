"""Drawing primitives of all modalities: coordinates, soft-edged shapes, noise and strokes.

An image is a float32 array of tones, shape (size, size), where 0 is black and 1 is white. Positions and lengths are fractions
of the image's width from its center: ``x`` grows to the right of the image (the patient's left), ``y`` downward. The same code
therefore draws any size; only noise is measured in pixels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from chiron.phantom.world import Attributes, Density, Level, Margin, Size

Plane = NDArray[np.floating]
"""Tones, coverages or coordinates of all pixels, or of a window; float32, shape (size, size)."""

_FINER: Final = 2  # supersampling of strokes, because PIL's lines are jagged


@dataclass(frozen=True, eq=False)
class Grid:
    """Coordinates of every pixel's center."""

    size: int
    """Side in pixels."""
    x: Plane
    """From -0.5 (left of the image, the patient's right) to 0.5."""
    y: Plane
    """From -0.5 (top of the image) to 0.5."""

    def window(self, x: float, y: float, reach: float) -> tuple[slice, slice]:
        """Return the rows and columns within ``reach`` of a point, clipped to the image."""
        rows, columns = (slice(max(0, int((c - reach + 0.5) * self.size) - 1), int((c + reach + 0.5) * self.size) + 2) for c in (y, x))
        return rows, columns


@lru_cache(maxsize=4)
def grid(size: int) -> Grid:
    """Return the grid of an image of this size. It is cached, so its arrays are read-only."""
    line = ((np.arange(size, dtype=np.float32) + 0.5) / size - 0.5).astype(np.float32)
    x, y = np.meshgrid(line, line)
    x.flags.writeable = y.flags.writeable = False
    return Grid(size, x, y)


def edge(grid: Grid, inside: Plane, soft: float = 1.0) -> Plane:
    """Return the coverage (0 to 1) of a shape, from each point's depth inside it; ``soft`` is the edge width in pixels."""
    coverage: Plane = np.clip(inside * (grid.size / soft) + 0.5, 0, 1)
    return coverage


def ellipse(grid: Grid, x: float, y: float, rx: float, ry: float, *, soft: float = 1.0) -> Plane:
    """Return the coverage of an ellipse with center (x, y) and half-axes (rx, ry)."""
    window = grid.window(x, y, max(rx, ry) + soft / grid.size)
    rho = np.sqrt(((grid.x[window] - x) / rx) ** 2 + ((grid.y[window] - y) / ry) ** 2)
    coverage = np.zeros_like(grid.x)
    coverage[window] = edge(grid, (1 - rho) * min(rx, ry), soft)
    return coverage


def glow(grid: Grid, x: float, y: float, rx: float, ry: float) -> Plane:
    """Return a Gaussian bell (0 to 1) with center (x, y) and standard deviations (rx, ry)."""
    return np.exp(-0.5 * (((grid.x - x) / rx) ** 2 + ((grid.y - y) / ry) ** 2))


def mix(under: Plane, over: Plane | float, coverage: Plane) -> Plane:
    """Blend ``over`` onto ``under`` by its coverage."""
    return under + (over - under) * coverage


def clouds(grid: Grid, rng: np.random.Generator, cells: int) -> Plane:
    """Return smooth noise with mean 0, ``cells`` lumps across, and standard deviation near 1 at the center of a lump."""
    cells = min(cells, grid.size)
    coarse = rng.standard_normal((cells, cells), dtype=np.float32)
    image = Image.fromarray(coarse).resize((grid.size, grid.size), Image.Resampling.BICUBIC)
    return np.asarray(image, dtype=np.float32)


def grain(grid: Grid, rng: np.random.Generator, sd: float) -> Plane:
    """Return independent pixel noise with mean 0."""
    return rng.standard_normal((grid.size, grid.size), dtype=np.float32) * np.float32(sd)


def strokes(grid: Grid, paths: Sequence[NDArray[np.float64]], width: float) -> Plane:
    """Return the coverage of lines along paths, each an array of points, shape (points, 2)."""
    side = grid.size * _FINER
    image = Image.new("L", (side, side))
    pen = ImageDraw.Draw(image)
    for path in paths:
        points = ((path + 0.5) * side).ravel().tolist()
        pen.line(points, fill=255, width=max(1, round(width * side)), joint="curve")
    small = image.reduce(_FINER)
    return np.asarray(small, dtype=np.float32) / 255


def vessels(grid: Grid, rng: np.random.Generator, x: float, y: float, reach: float, count: int, width: float) -> Plane:
    """Return the coverage of winding vessels from (x, y) outward, which are distractors for the lesion.

    The random numbers used depend on ``count`` alone.
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


RADIUS: Final[Mapping[Size, float]] = MappingProxyType({"small": 0.05, "medium": 0.1, "large": 0.175})
"""Radius of the drawn lesion, as a fraction of the image's width. A spiculated lesion is, from tip to tip, smaller than a smooth one of
the next size. At 48 pixels the smallest lesion is 5 pixels across."""

_RISE: Final[Mapping[Level, float]] = MappingProxyType({"upper": -0.13, "middle": 0.0, "lower": 0.13})
"""Height of the lesion's center relative to the middle of its possible locations."""

CONTRAST: Final[Mapping[Density, float]] = MappingProxyType({"dark": -0.33, "grey": 0.0, "bright": 0.42})
"""Tone of the lesion's inside, relative to the tissue around it."""

_RIM: Final[Mapping[Margin, float]] = MappingProxyType({"smooth": 0.4, "spiculated": -0.4})
# A thin rim shows where a gray lesion ends: bright like a capsule, or dark like a halo. It follows the margin, which a very small
# image would otherwise hardly show.
_CORE: Final = 0.75  # core of a spiculated lesion, relative to its radius
_SPIKES: Final = 7
_LONGEST: Final = 0.6  # length of a spike, relative to the radius
_REACH: Final = 1.9  # extent of a lesion in radii, including rim and randomness


@dataclass(frozen=True)
class Home:
    """Possible location of a lesion on the patient's left (the right of the image); mirrored for the other side."""

    x: float
    y: float
    wander_x: float
    """Maximum distance of its center from ``x``, in both directions."""
    wander_y: float
    """The same in the other direction. The levels are 0.13 apart."""


def paint(
    plane: Plane,
    grid: Grid,
    attributes: Attributes,
    home: Home,
    tissue: float,
    anatomy: np.random.Generator,
    texture: np.random.Generator,
) -> Plane:
    """Draw the lesion onto the plane, into ``tissue`` of this tone, and return it.

    Location and outline come from ``anatomy``, and are shared by all images of the case; ``texture`` moves the lesion slightly
    between images. The random numbers used do not depend on the attributes: with the same generators, lesions differ only in
    what the attributes say.
    """
    offset = anatomy.uniform(-1, 1, 2) * (home.wander_x, home.wander_y) + texture.uniform(-0.008, 0.008, 2)
    radius = RADIUS[attributes.size] * anatomy.uniform(0.96, 1.04) * texture.uniform(0.97, 1.03)
    outline = _Outline.drawn(anatomy)
    x = (home.x + float(offset[0])) * (1 if attributes.side == "left" else -1)
    y = home.y + _RISE[attributes.level] + float(offset[1])
    window = grid.window(x, y, _REACH * radius)  # skip the rest of the image
    inside = _depth(grid.x[window] - x, grid.y[window] - y, radius, outline, attributes.margin)
    body = mix(plane[window], tissue + CONTRAST[attributes.density], 0.93 * edge(grid, inside, 1.5))
    thin = max(0.006, 0.55 / grid.size)
    done = plane.copy()
    done[window] = mix(body, tissue + _RIM[attributes.margin], 0.8 * np.exp(-0.5 * (inside / np.float32(thin)) ** 2))
    return done


@dataclass(frozen=True)
class _Outline:
    """Random properties of a lesion's outline."""

    turn: float
    oval: float
    phases: tuple[float, float]
    heights: tuple[float, ...]

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> "_Outline":
        heights = rng.permutation(np.linspace(0.6, 1.0, _SPIKES))
        return cls(rng.random(), rng.uniform(0.03, 0.08), (rng.random(), rng.random()), tuple(heights.tolist()))

    def reach(self, theta: Plane, radius: float, margin: Margin) -> Plane:
        """Return the outline's distance from the center in every direction: a gentle oval, or a core with uneven spikes."""
        if margin == "smooth":
            oval: Plane = radius * (1 + self.oval * np.cos(2 * theta - 2 * np.pi * self.turn))
            return oval
        sway = 0.25 * np.sin(2 * theta + 6 * self.phases[0]) + 0.2 * np.sin(3 * theta + 6 * self.phases[1])
        phase = ((theta / np.float32(2 * np.pi) + self.turn) * _SPIKES + sway) % _SPIKES
        heights = np.array(self.heights, dtype=np.float32)[phase.astype(np.intp) % _SPIKES]
        star: Plane = _CORE * radius + _LONGEST * radius * heights * (1 - np.abs(phase % 1 * 2 - 1)) ** 1.5
        return star


def _depth(x: Plane, y: Plane, radius: float, outline: _Outline, margin: Margin) -> Plane:
    """Return each point's depth inside the lesion; (x, y) is relative to its center; negative outside."""
    rho, theta = np.hypot(x, y), np.arctan2(y, x)
    inside = outline.reach(theta, radius, margin) - rho
    # Where the outline is steep, its level set falls faster than distance does; dividing by the slope corrects this near the edge. Deep
    # inside the core this would be too small, but there the core's own depth is known.
    slope_y, slope_x = np.gradient(inside, x[0, 1] - x[0, 0])
    inside = inside / np.maximum(np.hypot(slope_x, slope_y), 1)
    depth: Plane = np.maximum(inside, radius * _CORE - rho)
    return depth
