"""Draw the images of synthetic cases: shapes, the lesion, and one view for each modality."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from chiron.phantom.canvas import Grid, Home, Plane, clouds, edge, ellipse, glow, grain, grid, mix, paint, strokes, vessels
from chiron.phantom.world import Attributes

_KIDNEY = 0.45
_CT_HOME = Home(0.235, 0.06, 0.02, 0.02)


def slice_of_abdomen(grid: Grid, attributes: Attributes, anatomy: np.random.Generator, texture: np.random.Generator) -> Plane:
    """Draw an axial slice through both kidneys, with the lesion in one of them."""
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
    plane = paint(plane, grid, attributes, _CT_HOME, _KIDNEY, anatomy, texture)
    plane = mix(plane, 0.98, ellipse(grid, 0, 0.16, 0.075, 0.065))
    plane = mix(plane, 0.68, ellipse(grid, 0, 0.16, 0.058, 0.048))
    plane = mix(plane, 0.98, ellipse(grid, 0, 0.25, 0.05, 0.045))
    plane = mix(plane, 0.4, ellipse(grid, 0, 0.245, 0.03, 0.025))
    plane = mix(plane, 0.98, ellipse(grid, 0, 0.31, 0.014, 0.035))
    return plane + grain(grid, texture, 0.03)


def _bone(grid: Grid, rng: np.random.Generator) -> Plane:
    """Draw the ribs in a slice: bright pieces of a ring, on muscle."""
    angle = np.arctan2(grid.y, grid.x)
    pieces = np.cos(angle * 12 + np.float32(rng.uniform(-0.6, 0.6)))
    return 0.36 + 0.6 * np.clip(pieces * 3 - 0.2, 0, 1)


_FAT = 0.4
_MAMMOGRAPHY_HOME = Home(0.2, 0.0, 0.03, 0.03)


def mammogram(grid: Grid, attributes: Attributes, anatomy: np.random.Generator, texture: np.random.Generator) -> Plane:
    """Draw two craniocaudal views side by side, with the lesion in one breast."""
    depth, height = 0.43 * anatomy.uniform(0.96, 1.03), 0.42 * anatomy.uniform(0.95, 1.03)
    apart = edge(grid, np.abs(grid.x) - 0.018, 1.5)
    # Between an ellipse and a parabola: a breast is fuller at the chest wall and pointed at the nipple.
    rho = (np.abs(grid.x) / depth) ** 1.5 + np.abs(grid.y / height) ** 2.6
    skin, within = edge(grid, (1 - rho) * 0.25, 3), edge(grid, (0.955 - rho) * 0.25, 3)
    plane = mix(np.full_like(skin, 0.015), 0.5, skin)
    plane = mix(plane, _FAT - 0.1 * np.clip(rho, 0, 1) ** 3 + 0.035 * clouds(grid, texture, 18), within)
    for side in (-1, 1):
        nipple = ellipse(grid, side * depth, 0, 0.022, 0.022, soft=2)
        plane = mix(plane, 0.6, nipple * (1 - within))
        plane = plane + 0.13 * strokes(grid, _ducts(side, depth, height, texture), 0.009) * within
    plane = paint(plane, grid, attributes, _MAMMOGRAPHY_HOME, _FAT, anatomy, texture)
    muscle = edge(grid, 0.03 - np.abs(grid.x) + 0.02 * np.cos(grid.y * 7), 4) * within
    plane = mix(plane, 0.75, 0.8 * muscle)
    return mix(np.full_like(plane, 0.015), plane, apart) + grain(grid, texture, 0.018)


def _ducts(side: int, depth: float, height: float, rng: np.random.Generator) -> list[NDArray[np.float64]]:
    """Return strands that fan out from behind the nipple to the chest wall, for one breast."""
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


_WHITE_MATTER = 0.42
_MRI_HOME = Home(0.2, 0.0, 0.015, 0.03)


def slice_of_brain(grid: Grid, attributes: Attributes, anatomy: np.random.Generator, texture: np.random.Generator) -> Plane:
    """Draw an axial, T2-like slice, with the lesion in one hemisphere."""
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
    plane = paint(plane, grid, attributes, _MRI_HOME, _WHITE_MATTER, anatomy, texture)
    for side in (-1, 1):
        lean = side * grid.x - 0.022 - 2.2 * grid.y**2
        horn = np.exp(-0.5 * (lean / np.float32(0.011)) ** 2) * ellipse(grid, 0, 0, 0.2, 0.15, soft=9)
        plane = mix(plane, 0.92, np.minimum(horn * 1.3, 1))
    cleft = np.exp(-0.5 * (grid.x / np.float32(0.005)) ** 2) * np.clip(np.abs(grid.y) * 9 - 0.8, 0, 1)
    plane = mix(plane, 0.85, 0.7 * cleft * brain)
    coil = texture.uniform(-0.25, 0.25, 2)
    field = 0.75 + 0.5 * glow(grid, float(coil[0]), float(coil[1]), 0.38, 0.38)
    noise = grain(grid, texture, 0.022), grain(grid, texture, 0.022)
    # Magnitude of a complex signal: where the signal is zero, noise is never negative.
    return np.hypot(plane * field + noise[0], noise[1])


_GLAND = 0.44
_ULTRASOUND_HOME = Home(0.2, -0.03, 0.012, 0.02)
_PROBE = -0.95  # where the beams meet, above the image


def sonogram(grid: Grid, attributes: Attributes, anatomy: np.random.Generator, texture: np.random.Generator) -> Plane:
    """Draw a transverse view of the thyroid gland, with the lesion in one lobe."""
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
    plane = paint(plane, grid, attributes, _ULTRASOUND_HOME, _GLAND, anatomy, texture)
    plane = plane * (1 - 0.95 * _shadow(grid))
    arc = np.linspace(-1.2, 1.2, 15)
    windpipe = np.stack([0.075 * np.sin(arc), -0.01 - 0.07 * np.cos(arc)], axis=1)
    plane = mix(plane, 0.95, strokes(grid, [windpipe], 0.018))
    beam = np.hypot(grid.x, grid.y - _PROBE)
    # Speckle: waves from many scatterers add up randomly, so tones have a Rayleigh distribution. Pixels of a small image contain more
    # scatterers and average them.
    lumps = min(grid.size, 128)
    waves = np.hypot(clouds(grid, texture, lumps), clouds(grid, texture, lumps))
    rough = 0.3 * min(1.0, (grid.size / 256) ** 0.5)
    plane = np.maximum(plane, 0) * (1 - rough * 1.25 + rough * waves) * (1.12 - 0.5 * (beam - 0.95))
    sector = edge(grid, (grid.y - _PROBE) * 0.56 - np.abs(grid.x), 2) * edge(grid, beam - 0.5, 2) * edge(grid, 1.43 - beam, 2)
    seen: Plane = plane * sector
    return seen


def _shadow(grid: Grid) -> Plane:
    """Return the acoustic shadow of the air in the windpipe: behind it, along the beams."""
    across = grid.x / (grid.y - _PROBE)
    return edge(grid, np.float32(0.075) - np.abs(across), 6) * edge(grid, grid.y + 0.05, 6)


_LUNG = 0.4
_XRAY_HOME = Home(0.21, -0.04, 0.02, 0.03)


def radiograph(grid: Grid, attributes: Attributes, anatomy: np.random.Generator, texture: np.random.Generator) -> Plane:
    """Draw a frontal chest radiograph, with the lesion in one lung."""
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
    plane = paint(plane, grid, attributes, _XRAY_HOME, _LUNG, anatomy, texture)
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
    """Draw bands that slope down from the spine, 0 to 1 across each."""
    away = np.abs(grid.x)
    phase = (grid.y - 0.35 * away + 2.2 * away**2) * np.float32(11) + np.float32(rng.uniform())
    band = np.clip(np.cos(2 * np.pi * phase) * 3 - 0.9, 0, 1)
    return band * edge(grid, 0.42 - away, 8) * edge(grid, away - 0.03, 6) * edge(grid, 0.3 - np.abs(grid.y + 0.05), 12)


Artist = Callable[[Grid, Attributes, np.random.Generator, np.random.Generator], Plane]
"""Function that draws one modality, from the grid, the attributes, and the generators of anatomy and texture."""

ARTISTS: Final[Mapping[str, Artist]] = MappingProxyType(
    {
        "X-ray": radiograph,
        "CT": slice_of_abdomen,
        "MRI": slice_of_brain,
        "Ultrasound": sonogram,
        "Mammography": mammogram,
    }
)
"""Drawing functions by modality, in the order in which cases use them."""

MODALITIES: Final = tuple(ARTISTS)
"""Names of the modalities."""


def draw(modality: str, attributes: Attributes, rng: np.random.Generator, size: int, *, view: int = 0) -> NDArray[np.uint8]:
    """Draw one schematic image of a modality; shape (size, size), from 0 (black) to 255 (white).

    Radiological convention, in all modalities: the patient's left is on the right of the image, marked "L".
    Lesions are drawn large, so that they are readable at 64 pixels: sizes are right relative to each other, not in millimeters.

    Args:
        modality: one of :data:`MODALITIES`.
        attributes: the true attributes of the lesion.
        rng: newly seeded generator of everything else. With the same seed, another ``view`` gives another image of the same lesion
            and anatomy; other attributes give another lesion in the same image.
        size: side in pixels, at least 32.
        view: index of the image in the case, from 0.

    Raises:
        KeyError: the modality is unknown.
    """
    anatomy, *textures = rng.spawn(2 + view)
    coordinates = grid(size)
    plane = ARTISTS[modality](coordinates, attributes, anatomy, textures[view])
    plane = np.maximum(plane, _mark(coordinates))
    return (np.clip(plane, 0, 1) * 255 + 0.5).astype(np.uint8)


def _mark(grid: Grid) -> Plane:
    """Draw the letter L in the upper right corner of the image: two bars."""
    x, y = grid.x - 0.44, grid.y + 0.46
    bar = max(0.012, 1 / grid.size)
    upright = (x >= 0) & (x < bar) & (y >= 0) & (y < 0.05)
    foot = (x >= 0) & (x < 0.033) & (y >= 0.05 - bar) & (y < 0.05)
    return np.where(upright | foot, np.float32(0.9), np.float32(0))
