"""Images become square tiles, as InternVL's authors cut them: the grid whose shape is nearest to the image's, and a thumbnail."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from chiron.client.images import eight_bit

MEAN: Final = (0.485, 0.456, 0.406)
DEVIATION: Final = (0.229, 0.224, 0.225)
"""ImageNet's statistics, which InternVL was trained with; transformers' image processor defaults to CLIP's."""

Tiles = NDArray[np.uint8]
"""``(tiles, side, side, 3)``"""
TileKey = tuple[str, int]
"""Name of an image and how many tiles it has. For one way of tiling the number decides the grid, so this names the very pixels."""


@dataclass(frozen=True, slots=True)
class Tiling:
    """How images are cut."""

    tile: int = 448
    """Side of a tile in pixels, the size that the vision tower takes."""
    max_tiles: int = 6
    """Of all images of a row together, or of each image, thumbnails apart."""
    thumbnail: bool = True
    """Whether an image of more than one tile is also shown whole, in one more."""
    per_image: bool = False
    """Whether ``max_tiles`` is for each image, whatever else a row shows."""

    def __post_init__(self) -> None:
        """Refuse what cannot be cut."""
        if self.tile < 1 or self.max_tiles < 1:
            raise ValueError(f"a tiling needs a side and a number of tiles of at least 1, not {self.tile} and {self.max_tiles}")


def tile_budget(n_images: int, tiling: Tiling) -> int:
    """Tiles that each of a row's images may have, its thumbnail apart: all of them, or an equal share of at least one."""
    return tiling.max_tiles if tiling.per_image else max(1, tiling.max_tiles // n_images)


def grid(width: int, height: int, *, budget: int, tile: int) -> tuple[int, int]:
    """Columns and rows for an image of ``width`` by ``height`` pixels, of all grids with 1 to ``budget`` tiles.

    The nearest in aspect ratio. Grids of the same shape (1 x 1, 2 x 2) are equally near: of these the image gets the largest that it fills
    by more than half.
    """
    if width < 1 or height < 1 or budget < 1:
        raise ValueError(f"no grid for {width} x {height} pixels and {budget} tiles")
    aspect = width / height
    nearest = float("inf")
    chosen = (1, 1)
    for columns, rows in _grids(budget):
        distance = abs(aspect - columns / rows)
        # Each equally near grid asks anew whether the image fills it; a later one that it does not fill leaves the earlier in place.
        if distance < nearest or (distance == nearest and width * height > 0.5 * tile * tile * columns * rows):
            nearest, chosen = distance, (columns, rows)
    return chosen


def tile_count(width: int, height: int, *, budget: int, tiling: Tiling) -> int:
    """Tiles that :func:`cut` makes of such an image, the thumbnail included."""
    columns, rows = grid(width, height, budget=budget, tile=tiling.tile)
    return columns * rows + (tiling.thumbnail and columns * rows > 1)


def cut(image: Image.Image, *, budget: int, tiling: Tiling) -> Tiles:
    """The tiles of an image, ``(tiles, side, side, 3)``: row by row, the thumbnail last.

    The image is stretched to the grid (bicubic), not padded. Greys of 16 bits are scaled to 8, transparency is dropped.
    """
    plain = eight_bit(image).convert("RGB")
    side = tiling.tile
    columns, rows = grid(*plain.size, budget=budget, tile=side)
    stretched = np.asarray(plain.resize((columns * side, rows * side), Image.Resampling.BICUBIC))
    tiles = stretched.reshape(rows, side, columns, side, 3).swapaxes(1, 2).reshape(-1, side, side, 3)
    if tiling.thumbnail and len(tiles) > 1:
        whole = np.asarray(plain.resize((side, side), Image.Resampling.BICUBIC))
        return np.concatenate([tiles, whole[None]])
    return tiles


def normalise(tiles: Tiles) -> NDArray[np.float32]:
    """``(tiles, side, side, 3)`` of 0 to 255 as the vision tower wants them: ``(tiles, 3, side, side)`` with ImageNet's statistics."""
    mean, deviation = np.array(MEAN, np.float32), np.array(DEVIATION, np.float32)
    normal = np.ascontiguousarray(tiles.transpose(0, 3, 1, 2)).astype(np.float32)
    normal *= 1 / (255 * deviation)[:, None, None]
    normal -= (mean / deviation)[:, None, None]
    return normal


@lru_cache(maxsize=64)
def _grids(budget: int) -> tuple[tuple[int, int], ...]:
    """All grids of at most so many tiles, few tiles first.

    Among grids of as many tiles the order is free: no image is equally near to two of them and nearer to no smaller grid.
    """
    every = [(columns, rows) for columns in range(1, budget + 1) for rows in range(1, budget // columns + 1)]
    return tuple(sorted(every, key=lambda g: (g[0] * g[1], g[0])))
