"""A slice of the abdomen by computed tomography: hard edges, bone in a broken ring, black air."""

import numpy as np

from chiron.phantom.canvas import Grid, Plane, ellipse, grain, mix, vessels
from chiron.phantom.lesion import Home, paint
from chiron.phantom.world import Attributes

_KIDNEY = 0.45
_HOME = Home(0.235, 0.075, 0.02, 0.02)


def slice_of_abdomen(grid: Grid, attributes: Attributes, anatomy: np.random.Generator, texture: np.random.Generator) -> Plane:
    """Tones of an axial slice through both kidneys, the lesion in one of them."""
    width, height = anatomy.uniform(0.97, 1.0, 2).tolist()
    rx, ry = 0.48 * width, 0.41 * height
    plane = 0.02 + 0.16 * ellipse(grid, 0, 0, rx, ry)
    plane = mix(plane, 0.36, ellipse(grid, 0, 0, rx - 0.025, ry - 0.025))
    plane = mix(plane, _bone(grid, anatomy), ellipse(grid, 0, 0, rx - 0.035, ry - 0.035))
    plane = mix(plane, 0.2, ellipse(grid, 0, -0.01, rx - 0.06, ry - 0.06))
    plane = mix(plane, 0.5, ellipse(grid, -0.2, -0.17, 0.2, 0.145))
    plane = mix(plane, 0.42, ellipse(grid, 0.17, -0.19, 0.15, 0.1))
    plane = mix(plane, 0.03, ellipse(grid, 0.16, -0.235, 0.09, 0.04))
    tree = vessels(grid, texture, -0.18, -0.17, 0.16, 7, 0.012)
    plane = plane + 0.12 * tree * ellipse(grid, -0.2, -0.17, 0.18, 0.125)
    for side in (-1, 1):
        kidney = ellipse(grid, side * 0.235, 0.075, 0.17, 0.185)
        plane = mix(plane, _KIDNEY, kidney)
        plane = plane + 0.14 * vessels(grid, texture, side * 0.08, 0.08, 0.24, 7, 0.011) * kidney
    plane = mix(plane, 0.72, ellipse(grid, 0.02, 0.02, 0.036, 0.036))
    plane = mix(plane, 0.6, ellipse(grid, -0.045, 0.03, 0.03, 0.026))
    plane = paint(plane, grid, attributes, _HOME, _KIDNEY, anatomy, texture)
    plane = mix(plane, 0.98, ellipse(grid, 0, 0.16, 0.075, 0.065))
    plane = mix(plane, 0.68, ellipse(grid, 0, 0.16, 0.058, 0.048))
    plane = mix(plane, 0.98, ellipse(grid, 0, 0.25, 0.05, 0.045))
    plane = mix(plane, 0.4, ellipse(grid, 0, 0.245, 0.03, 0.025))
    plane = mix(plane, 0.98, ellipse(grid, 0, 0.31, 0.014, 0.035))
    return plane + grain(grid, texture, 0.03)


def _bone(grid: Grid, rng: np.random.Generator) -> Plane:
    """The ribs that a slice cuts: bright pieces of a ring, on muscle."""
    angle = np.arctan2(grid.y, grid.x)
    pieces = np.cos(angle * 12 + np.float32(rng.uniform(-0.6, 0.6)))
    return 0.36 + 0.6 * np.clip(pieces * 3 - 0.2, 0, 1)
