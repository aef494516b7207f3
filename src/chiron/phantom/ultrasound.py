"""A sonogram of the neck: a sector of speckle, with a shadow behind the windpipe."""

import numpy as np

from chiron.phantom.canvas import Grid, Plane, clouds, edge, ellipse, mix, strokes, vessels
from chiron.phantom.lesion import Home, paint
from chiron.phantom.world import Attributes

_GLAND = 0.44
_HOME = Home(0.2, -0.03, 0.012, 0.02)
_PROBE = -0.95  # where the beams meet, above the image


def sonogram(grid: Grid, attributes: Attributes, anatomy: np.random.Generator, texture: np.random.Generator) -> Plane:
    """Tones of a transverse view of the thyroid gland, the lesion in one lobe."""
    wide = anatomy.uniform(0.97, 1.03)
    plane = 0.22 + 0.06 * clouds(grid, anatomy, 11)
    layers = np.cos((grid.y + 0.12 * grid.x**2 + 0.008 * clouds(grid, anatomy, 7)) * np.float32(2 * np.pi * 15))
    plane = plane + 0.12 * layers * edge(grid, -0.2 - grid.y, 12)
    for side in (-1, 1):
        lobe = ellipse(grid, side * 0.195, -0.03, 0.185 * wide, 0.185, soft=3)
        plane = mix(plane, 0.62, ellipse(grid, side * 0.195, -0.03, 0.195 * wide, 0.195, soft=3) * 0.6)
        plane = mix(plane, _GLAND, lobe)
        plane = plane - 0.12 * vessels(grid, texture, side * 0.2, -0.03, 0.2, 6, 0.011) * lobe
    plane = mix(plane, _GLAND, ellipse(grid, 0, -0.12, 0.12, 0.045, soft=3))
    for side in (-1, 1):
        plane = mix(plane, 0.03, ellipse(grid, side * 0.385, 0.16, 0.055, 0.05, soft=2))
    plane = paint(plane, grid, attributes, _HOME, _GLAND, anatomy, texture)
    plane = plane * (1 - 0.95 * _shadow(grid))
    arc = np.linspace(-1.2, 1.2, 15)
    windpipe = np.stack([0.075 * np.sin(arc), -0.01 - 0.07 * np.cos(arc)], axis=1)
    plane = mix(plane, 0.95, strokes(grid, [windpipe], 0.018))
    beam = np.hypot(grid.x, grid.y - _PROBE)
    # Speckle: waves from many scatterers add up at random, so that the tone has a Rayleigh distribution. Pixels of a small
    # picture hold more of them, and average them.
    lumps = min(grid.size, 128)
    waves = np.hypot(clouds(grid, texture, lumps), clouds(grid, texture, lumps))
    rough = 0.3 * min(1.0, (grid.size / 256) ** 0.5)
    plane = np.maximum(plane, 0) * (1 - rough * 1.25 + rough * waves) * (1.12 - 0.5 * (beam - 0.95))
    sector = edge(grid, (grid.y - _PROBE) * 0.56 - np.abs(grid.x), 2) * edge(grid, beam - 0.5, 2) * edge(grid, 1.43 - beam, 2)
    seen: Plane = plane * sector
    return seen


def _shadow(grid: Grid) -> Plane:
    """Where the air in the windpipe lets no echo through: behind it, along the beams."""
    across = grid.x / (grid.y - _PROBE)
    return edge(grid, np.float32(0.075) - np.abs(across), 6) * edge(grid, grid.y + 0.05, 6)
