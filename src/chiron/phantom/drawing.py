"""All that is seen: one picture of one lesion, by any of the modalities."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from chiron.phantom.canvas import Grid, Plane, grid
from chiron.phantom.ct import slice_of_abdomen
from chiron.phantom.mammography import mammogram
from chiron.phantom.mri import slice_of_brain
from chiron.phantom.ultrasound import sonogram
from chiron.phantom.world import Attributes
from chiron.phantom.xray import radiograph

Artist = Callable[[Grid, Attributes, np.random.Generator, np.random.Generator], Plane]
"""Draws one modality, from the grid, the lesion's attributes, and the generators of the anatomy and of the texture."""

ARTISTS: Final[Mapping[str, Artist]] = MappingProxyType(
    {
        "X-ray": radiograph,
        "CT": slice_of_abdomen,
        "MRI": slice_of_brain,
        "Ultrasound": sonogram,
        "Mammography": mammogram,
    }
)
"""Who draws which modality, in the order in which cases take turns."""

MODALITIES: Final = tuple(ARTISTS)
"""The modalities' names."""


def draw(modality: str, attributes: Attributes, rng: np.random.Generator, size: int, *, view: int = 0) -> NDArray[np.uint8]:
    """One picture, a schematic of the modality; shape (size, size), 0 black to 255 white.

    Radiological convention, in all modalities: the patient's left is on the right of the image, where a mark "L" stands.
    Lesions are drawn large, so that they can still be read at 64 pixels: they are true to each other, not to millimetres.

    Args:
        modality: one of :data:`MODALITIES`.
        attributes: what is true of the lesion.
        rng: decides all the rest. It must be fresh from its seed: the same seed, with another ``view``, is another picture of
            the same lesion in the same anatomy; with other attributes, another lesion in the same picture.
        size: pixels a side, from 32 up.
        view: which picture of the case: 0 is the first.

    Raises:
        KeyError: no such modality.
    """
    anatomy, *textures = rng.spawn(2 + view)
    coordinates = grid(size)
    plane = ARTISTS[modality](coordinates, attributes, anatomy, textures[view])
    plane = np.maximum(plane, _mark(coordinates))
    return (np.clip(plane, 0, 1) * 255 + 0.5).astype(np.uint8)


def _mark(grid: Grid) -> Plane:
    """The letter L in the upper right corner of the image: two bars."""
    x, y = grid.x - 0.44, grid.y + 0.46
    bar = max(0.012, 1 / grid.size)
    upright = (x >= 0) & (x < bar) & (y >= 0) & (y < 0.05)
    foot = (x >= 0) & (x < 0.033) & (y >= 0.05 - bar) & (y < 0.05)
    return np.where(upright | foot, np.float32(0.9), np.float32(0))
