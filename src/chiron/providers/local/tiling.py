"""How images become the input of a vision tower: the interface of all families, and InternVL's square tiles.

InternVL's grid of tiles is the one with the most similar aspect ratio; a thumbnail follows the tiles.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeAlias

from PIL import Image

from chiron.client.images import eight_bit

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MEAN: Final = (0.485, 0.456, 0.406)
DEVIATION: Final = (0.229, 0.224, 0.225)
"""ImageNet's statistics, used in InternVL's training. Transformers' image processor defaults to CLIP's."""

Tiles: TypeAlias = "NDArray[Any]"
"""Pixels of an image, one entry per tile: of InternVL uint8, shape ``(tiles, side, side, 3)``."""
TileKey = tuple[str, int]
"""Image name and number of tiles. With a fixed tiling, the number determines the grid, so the key identifies the pixels."""
Grid = tuple[int, int]
"""Rows and columns of an image's tiles; of families without tiles, of its tokens."""


class ImageLayout(ABC):
    """How a family cuts images for its vision tower, and the tokens and positions that they take. Needs no weights and no torch.

    A tile is the unit of an image that takes a fixed number of tokens: one token in families that do not cut images into tiles.
    """

    axes: ClassVar[int] = 1
    """Axes of a position: 1, or 3 for time, height and width."""
    unit: ClassVar[str] = "tiles"
    """What tiles are called in messages."""
    fewer: ClassVar[str] = "fewer tiles"
    """How to get shorter rows, in messages."""
    limit: ClassVar[str | None] = None
    """Key of a recipe's ``images`` that limits the size of images; None if nothing can be set."""
    needs_grids: ClassVar[bool] = False
    """Whether the tokens of an image or their positions depend on its grid, not only on the number of its tiles."""
    served: ClassVar[str] = ""
    """How other programs see images like in training, for the card of a trained model."""

    @abstractmethod
    def grid(self, width: int, height: int, n_images: int) -> Grid:
        """Return the rows and columns of one of a row's ``n_images`` images; see :meth:`tiles`.

        Raises:
            InputError: The family does not support an image of this shape.
        """

    def tiles(self, grid: Grid) -> int:
        return grid[0] * grid[1]

    def tile_marks(self, grid: Grid) -> list[tuple[str, str]]:
        """Return the text and the special token before each tile; empty if an image's tokens are one uninterrupted run."""
        del grid
        return []

    @abstractmethod
    def cut(self, image: Image.Image, n_images: int) -> Tiles:
        """Return the pixels of one of a row's ``n_images`` images, one entry per tile."""

    @abstractmethod
    def model_inputs(self, pixels: Sequence[Tiles], grids: Sequence[Grid]) -> "dict[str, NDArray[Any]]":
        """Return the model's keyword arguments for these images, ``pixel_values`` among them."""

    @abstractmethod
    def processor_settings(self) -> dict[str, Any]:
        """Return the contents of ``preprocessor_config.json``, with which other programs see images like this."""

    def sharing(self, n_images: int) -> int:
        """Return how the number of a row's images affects each of them; 0 if it does not."""
        del n_images
        return 0

    def positions(self, length: int, spans: Sequence[tuple[int, int]], grids: Sequence[Grid]) -> "tuple[NDArray[np.int64], int]":
        """Return the positions ``(axes, length)`` of a conversation, and the next one.

        ``spans``: start and end of each image's tokens.
        """
        del spans, grids
        import numpy as np

        return np.arange(length, dtype=np.int64)[None], length


class ProcessorLayout(ImageLayout):
    """Images as an image processor of transformers cuts them."""

    def __init__(self, processor: Any) -> None:
        """``processor``: one that uses Pillow (``...Pil``)."""
        self.processor = processor

    def processed(self, image: Image.Image) -> "NDArray[np.float32]":
        pixels: NDArray[np.float32] = self.processor(images=[eight_bit(image).convert("RGB")], return_tensors="np")["pixel_values"]
        return pixels

    def processor_settings(self) -> dict[str, Any]:
        # Other programs know the image processor by its name without the backend.
        return {**self.processor.to_dict(), "image_processor_type": type(self.processor).__name__.removesuffix("Pil")}


@dataclass(frozen=True, slots=True)
class Tiling(ImageLayout):
    """Settings for cutting images into tiles like InternVL."""

    tile: int = 448
    """Side of a tile in pixels, as expected by the vision tower."""
    max_tiles: int = 6
    """For all images of a row together, or per image; thumbnails are not counted."""
    thumbnail: bool = True
    """Whether an image with several tiles is also shown as a whole, in one more tile."""
    per_image: bool = False
    """Whether ``max_tiles`` applies per image, independent of the row's other images."""

    def __post_init__(self) -> None:
        if self.tile < 1 or self.max_tiles < 1:
            raise ValueError(f"tile and max_tiles must be at least 1 (got {self.tile} and {self.max_tiles})")

    def grid(self, width: int, height: int, n_images: int) -> Grid:
        """Return 1 and the number of tiles, thumbnail included."""
        columns, rows = grid(width, height, budget=tile_budget(n_images, self), tile=self.tile)
        return 1, columns * rows + (self.thumbnail and columns * rows > 1)

    def cut(self, image: Image.Image, n_images: int) -> "NDArray[np.uint8]":
        """Return the tiles of an image, ``(tiles, side, side, 3)``: row by row, the thumbnail last.

        The image is stretched to the grid (bicubic), not padded. 16-bit grays are scaled to 8 bits, and transparency is dropped.
        """
        import numpy as np

        plain, side = eight_bit(image).convert("RGB"), self.tile
        columns, rows = grid(*plain.size, budget=tile_budget(n_images, self), tile=side)
        stretched = np.asarray(plain.resize((columns * side, rows * side), Image.Resampling.BICUBIC))
        tiles = stretched.reshape(rows, side, columns, side, 3).swapaxes(1, 2).reshape(-1, side, side, 3)
        if self.thumbnail and len(tiles) > 1:
            whole = np.asarray(plain.resize((side, side), Image.Resampling.BICUBIC))
            return np.concatenate([tiles, whole[None]])
        return tiles

    def model_inputs(self, pixels: Sequence[Tiles], grids: Sequence[Grid]) -> "dict[str, NDArray[Any]]":
        """Return ``pixel_values`` ``(tiles, 3, side, side)``, normalized."""
        del grids
        import numpy as np

        return {"pixel_values": normalise(np.concatenate(pixels))}

    def sharing(self, n_images: int) -> int:
        return tile_budget(n_images, self)

    def processor_settings(self) -> dict[str, Any]:
        """Return settings that match training for one image; for several, callers must pass the tiles per image."""
        return {
            "image_processor_type": "GotOcr2ImageProcessor",
            "crop_to_patches": True,
            "min_patches": 1,
            "max_patches": self.max_tiles,
            "size": {"height": self.tile, "width": self.tile},
            "do_resize": True,
            "do_rescale": True,
            "do_normalize": True,
            "do_convert_rgb": True,
            "resample": 3,
            "rescale_factor": 1 / 255,
            "image_mean": list(MEAN),
            "image_std": list(DEVIATION),
        }


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


def normalise(tiles: "NDArray[np.uint8]") -> "NDArray[np.float32]":
    """Convert tiles ``(tiles, side, side, 3)`` from 0..255 to the vision tower's input ``(tiles, 3, side, side)``, normalized with
    ImageNet's statistics.
    """
    import numpy as np

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
