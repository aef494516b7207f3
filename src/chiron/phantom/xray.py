"""A radiograph of the chest: a projection, in which ribs lie over lungs and a heart."""

import numpy as np

from chiron.phantom.canvas import Grid, Plane, clouds, edge, ellipse, glow, grain, mix, strokes, vessels
from chiron.phantom.lesion import Home, paint
from chiron.phantom.world import Attributes

_LUNG = 0.4
_HOME = Home(0.21, -0.06, 0.02, 0.09)


def radiograph(grid: Grid, attributes: Attributes, anatomy: np.random.Generator, texture: np.random.Generator) -> Plane:
    """Tones of a chest radiograph, front to back, the lesion in one lung."""
    width, height = anatomy.uniform(0.97, 1.03, 2).tolist()
    shoulders = edge(grid, 0.49 * width - np.abs(grid.x) ** 4 * 2 - np.maximum(-0.3 - grid.y, 0) * 2.6, 3)
    trunk: Plane = np.maximum(ellipse(grid, 0, 0.25, 0.49 * width, 0.72, soft=4), ellipse(grid, 0, -0.45, 0.1, 0.3, soft=4))
    plane: Plane = 0.03 + 0.6 * trunk * shoulders
    dome = ellipse(grid, -0.2, 0.5, 0.26, 0.22 * height) + ellipse(grid, 0.2, 0.52, 0.26, 0.22 * height)
    lungs: Plane = np.zeros_like(plane)
    for side in (-1, 1):
        lungs = np.maximum(lungs, ellipse(grid, side * 0.215, -0.02, 0.17 * width, 0.33 * height, soft=4))
    lungs = lungs * np.clip(1 - dome, 0, 1)
    plane = mix(plane, _LUNG, lungs)
    for side in (-1, 1):
        tree = vessels(grid, texture, side * 0.08, 0.0, 0.3, 9, 0.011)
        plane = plane + 0.1 * tree * lungs
    plane = paint(plane, grid, attributes, _HOME, _LUNG, anatomy, texture)
    heart = ellipse(grid, 0.05, 0.2, 0.135 * width, 0.12, soft=5)
    middle = np.maximum(heart, ellipse(grid, 0, 0.0, 0.06, 0.6, soft=6))
    plane = mix(plane, 0.74, 0.9 * middle * trunk)
    plane = plane + 0.07 * _ribs(grid, anatomy) * trunk
    collar = [np.array([(side * 0.05, -0.33), (side * 0.2, -0.355), (side * 0.37, -0.4)]) for side in (-1, 1)]
    plane = mix(plane, 0.85, 0.6 * strokes(grid, collar, 0.026))
    spine = np.exp(-0.5 * (grid.x / np.float32(0.022)) ** 2) * (0.75 + 0.25 * np.cos(grid.y * np.float32(2 * np.pi * 15)))
    plane = plane + 0.13 * spine * trunk - 0.1 * glow(grid, 0, -0.33, 0.016, 0.12)
    return plane + 0.015 * clouds(grid, texture, 12) * trunk + grain(grid, texture, 0.018)


def _ribs(grid: Grid, rng: np.random.Generator) -> Plane:
    """Bands that fall away from the spine, 0 to 1 across each."""
    away = np.abs(grid.x)
    phase = (grid.y - 0.35 * away + 2.2 * away**2) * np.float32(11) + np.float32(rng.uniform())
    band = np.clip(np.cos(2 * np.pi * phase) * 3 - 0.9, 0, 1)
    return band * edge(grid, 0.42 - away, 8) * edge(grid, away - 0.03, 6) * edge(grid, 0.3 - np.abs(grid.y + 0.05), 12)
