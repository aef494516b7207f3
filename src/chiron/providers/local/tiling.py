"""Cut images into square tiles like InternVL: the grid with the most similar aspect ratio, and a thumbnail."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from chiron.client.images import eight_bit

MEAN: Final = (0.485, 0.456, 0.406)
DEVIATION: Final = (0.229, 0.224, 0.225)
"""ImageNet's statistics, used in InternVL's training. Transformers' image processor defaults to CLIP's."""

Tiles = NDArray[np.uint8]
"""Shape ``(tiles, side, side, 3)``."""
TileKey = tuple[str, int]
"""Image name and number of tiles. With a fixed tiling, the number determines the grid, so the key identifies the pixels."""


@dataclass(frozen=True, slots=True)
class Tiling:
    """Settings for cutting images."""

    tile: int = 448
    """Side of a tile in pixels, as expected by the vision tower."""
    max_tiles: int = 6
    """For all images of a row together, or per image; thumbnails are not counted."""
    thumbnail: bool = True
    """Whether an image with several tiles is also shown as a whole, in one more tile."""
    per_image: bool = False
    """Whether ``max_tiles`` applies per image, independent of the row's other images."""

    def __post_init__(self) -> None:
        """Reject invalid settings."""
        if self.tile < 1 or self.max_tiles < 1:
            raise ValueError(f"tile and max_tiles must be at least 1 (got {self.tile} and {self.max_tiles})")


def tile_budget(n_images: int, tiling: Tiling) -> int:
    """Return the maximum tiles of each of a row's images, without the thumbnail: all of them, or an equal share of at least one."""
    return tiling.max_tiles if tiling.per_image else max(1, tiling.max_tiles // n_images)


def grid(width: int, height: int, *, budget: int, tile: int) -> tuple[int, int]:
    """Return the columns and rows for an image of ``width`` by ``height`` pixels, among all grids with 1 to ``budget`` tiles.

    The grid with the nearest aspect ratio is chosen. Among grids of the same shape (1 x 1, 2 x 2), it is the largest that the image fills
    by more than half.
    """
    if width < 1 or height < 1 or budget < 1:
        raise ValueError(f"no grid for {width} x {height} pixels and {budget} tiles")
    aspect = width / height
    nearest = float("inf")
    chosen = (1, 1)
    for columns, rows in _grids(budget):
        distance = abs(aspect - columns / rows)
        # An equally near grid replaces an earlier one only if the image fills it.
        if distance < nearest or (distance == nearest and width * height > 0.5 * tile * tile * columns * rows):
            nearest, chosen = distance, (columns, rows)
    return chosen


def tile_count(width: int, height: int, *, budget: int, tiling: Tiling) -> int:
    """Return the number of tiles that :func:`cut` makes of such an image, including the thumbnail."""
    columns, rows = grid(width, height, budget=budget, tile=tiling.tile)
    return columns * rows + (tiling.thumbnail and columns * rows > 1)


def cut(image: Image.Image, *, budget: int, tiling: Tiling) -> Tiles:
    """Return the tiles of an image, ``(tiles, side, side, 3)``: row by row, the thumbnail last.

    The image is stretched to the grid (bicubic), not padded. 16-bit grays are scaled to 8 bits, and transparency is dropped.
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
    """Convert tiles ``(tiles, side, side, 3)`` from 0..255 to the vision tower's input ``(tiles, 3, side, side)``, normalized with
    ImageNet's statistics.
    """
    mean, deviation = np.array(MEAN, np.float32), np.array(DEVIATION, np.float32)
    normal = np.ascontiguousarray(tiles.transpose(0, 3, 1, 2)).astype(np.float32)
    normal *= 1 / (255 * deviation)[:, None, None]
    normal -= (mean / deviation)[:, None, None]
    return normal


@lru_cache(maxsize=64)
def _grids(budget: int) -> tuple[tuple[int, int], ...]:
    """Return all grids with at most ``budget`` tiles, fewest tiles first.

    The order among grids with equally many tiles does not matter: if an image is equally near to two of them, a smaller grid is nearer.
    """
    every = [(columns, rows) for columns in range(1, budget + 1) for rows in range(1, budget // columns + 1)]
    return tuple(sorted(every, key=lambda g: (g[0] * g[1], g[0])))
