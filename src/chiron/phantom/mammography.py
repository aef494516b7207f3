"""A mammogram of both breasts, from above: two half-discs of fat and strands, back to back on black."""

import numpy as np
from numpy.typing import NDArray

from chiron.phantom.canvas import Grid, Plane, clouds, edge, ellipse, grain, mix, strokes
from chiron.phantom.lesion import Home, paint
from chiron.phantom.world import Attributes

_FAT = 0.4
_HOME = Home(0.2, 0.0, 0.03, 0.09)


def mammogram(grid: Grid, attributes: Attributes, anatomy: np.random.Generator, texture: np.random.Generator) -> Plane:
    """Tones of two craniocaudal views side by side, the lesion in one breast."""
    depth, height = 0.43 * anatomy.uniform(0.96, 1.03), 0.42 * anatomy.uniform(0.95, 1.03)
    apart = edge(grid, np.abs(grid.x) - 0.018, 1.5)
    # Between an ellipse and a parabola: a breast is fuller at the chest wall and comes to a point.
    rho = (np.abs(grid.x) / depth) ** 1.5 + np.abs(grid.y / height) ** 2.6
    skin, within = edge(grid, (1 - rho) * 0.25, 3), edge(grid, (0.955 - rho) * 0.25, 3)
    plane = mix(np.full_like(skin, 0.015), 0.5, skin)
    plane = mix(plane, _FAT - 0.1 * np.clip(rho, 0, 1) ** 3 + 0.035 * clouds(grid, texture, 18), within)
    for side in (-1, 1):
        nipple = ellipse(grid, side * depth, 0, 0.022, 0.022, soft=2)
        plane = mix(plane, 0.6, nipple * (1 - within))
        plane = plane + 0.13 * strokes(grid, _ducts(side, depth, height, texture), 0.009) * within
    plane = paint(plane, grid, attributes, _HOME, _FAT, anatomy, texture)
    muscle = edge(grid, 0.03 - np.abs(grid.x) + 0.02 * np.cos(grid.y * 7), 4) * within
    plane = mix(plane, 0.75, 0.8 * muscle)
    return mix(np.full_like(plane, 0.015), plane, apart) + grain(grid, texture, 0.018)


def _ducts(side: int, depth: float, height: float, rng: np.random.Generator) -> list[NDArray[np.float64]]:
    """Strands that fan out from behind the nipple to the chest wall, for one breast."""
    along = np.linspace(0, 1, 8)
    paths = []
    for spread, sway, phase in zip(
        np.linspace(-0.85, 0.85, 9) + rng.uniform(-0.08, 0.08, 9),
        rng.uniform(0.004, 0.014, 9),
        rng.uniform(0, 6.28, 9),
        strict=True,
    ):
        x = depth * (0.93 - 0.85 * along)
        y = spread * height * np.sqrt(along) * 0.9 + sway * np.sin(9 * along + phase)
        paths.append(np.stack([side * x, y], axis=1))
    return paths
