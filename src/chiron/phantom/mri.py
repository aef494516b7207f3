"""A slice of the brain by magnetic resonance: bright fluid, dark bone, and a field that is not even."""

import numpy as np

from chiron.phantom.canvas import Grid, Plane, clouds, ellipse, glow, grain, mix, vessels
from chiron.phantom.lesion import Home, paint
from chiron.phantom.world import Attributes

_WHITE_MATTER = 0.42
_HOME = Home(0.2, 0.0, 0.015, 0.09)


def slice_of_brain(grid: Grid, attributes: Attributes, anatomy: np.random.Generator, texture: np.random.Generator) -> Plane:
    """Tones of an axial, T2-like slice, the lesion in one hemisphere."""
    rx, ry = 0.43 * anatomy.uniform(0.97, 1.03), 0.48 * anatomy.uniform(0.96, 1.0)
    plane = 0.62 * ellipse(grid, 0, 0, rx, ry, soft=2)
    plane = mix(plane, 0.04, ellipse(grid, 0, 0, rx - 0.02, ry - 0.02, soft=2))
    plane = mix(plane, 0.8, ellipse(grid, 0, 0, rx - 0.045, ry - 0.045, soft=2))
    brain = ellipse(grid, 0, 0, rx - 0.055, ry - 0.055, soft=2)
    rho = np.sqrt((grid.x / (rx - 0.055)) ** 2 + (grid.y / (ry - 0.055)) ** 2)
    folds = np.clip(np.abs(clouds(grid, anatomy, 24)) * -2.2 + 1, 0, 1)
    cortex = 1 / (1 + np.exp(-(rho - 0.84 + 0.05 * clouds(grid, anatomy, 18)) * 26))
    plane = mix(plane, _WHITE_MATTER + 0.16 * cortex + 0.3 * folds * cortex, brain)
    plane = plane + 0.13 * vessels(grid, texture, 0, 0, 0.32, 14, 0.008) * brain
    for side in (-1, 1):
        plane = mix(plane, 0.52, 0.8 * ellipse(grid, side * 0.1, 0.03, 0.035, 0.07, soft=4))
    plane = paint(plane, grid, attributes, _HOME, _WHITE_MATTER, anatomy, texture)
    for side in (-1, 1):
        lean = side * grid.x - 0.022 - 2.2 * grid.y**2
        horn = np.exp(-0.5 * (lean / np.float32(0.011)) ** 2) * ellipse(grid, 0, 0, 0.2, 0.15, soft=9)
        plane = mix(plane, 0.92, np.minimum(horn * 1.3, 1))
    cleft = np.exp(-0.5 * (grid.x / np.float32(0.005)) ** 2) * np.clip(np.abs(grid.y) * 9 - 0.8, 0, 1)
    plane = mix(plane, 0.85, 0.7 * cleft * brain)
    coil = texture.uniform(-0.25, 0.25, 2)
    field = 0.75 + 0.5 * glow(grid, float(coil[0]), float(coil[1]), 0.38, 0.38)
    noise = grain(grid, texture, 0.022), grain(grid, texture, 0.022)
    # The magnitude of a complex signal: where there is none, noise is never below zero.
    return np.hypot(plane * field + noise[0], noise[1])
