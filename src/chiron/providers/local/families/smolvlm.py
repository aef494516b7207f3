"""SmolVLM, SmolVLM2 and Idefics3: an image is cut into square tiles, each with a token for its row and column; the whole image follows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from chiron.errors import InputError
from chiron.providers.local.dialogue import ChatFormat
from chiron.providers.local.families.family import ModelFamily
from chiron.providers.local.tiling import Grid, ProcessorLayout, Tiling

if TYPE_CHECKING:
    from torch import Tensor


class MarkedTiles(ProcessorLayout):
    """Images scaled to ``longest_edge`` pixels and cut into tiles. The grid is that of the tiles, without the whole image."""

    fewer: ClassVar[str] = "a lower images.longest_edge"
    limit: ClassVar[str | None] = "longest_edge"
    needs_grids: ClassVar[bool] = True
    served: ClassVar[str] = "Images are scaled to the size in `preprocessor_config.json`"

    def grid(self, width: int, height: int, n_images: int) -> Grid:
        """Return the rows and columns of an image's tiles; 1 x 1 if it is seen as a whole only."""
        del n_images
        _, rows, columns = self.processor.get_number_of_image_patches(height, width, {})
        return max(rows, 1), max(columns, 1)

    def tiles(self, grid: Grid) -> int:
        """Return the number of tiles, and one more if there are several."""
        return grid[0] * grid[1] + (grid != (1, 1))

    def tile_marks(self, grid: Grid) -> list[tuple[str, str]]:
        """Return the tokens of rows and columns, with line breaks between rows, and that of the whole image."""
        if grid == (1, 1):
            return [("", "<global-img>")]
        places = [(row, column) for row in range(grid[0]) for column in range(grid[1])]
        marks = [("\n" if row and not column else "", f"<row_{row + 1}_col_{column + 1}>") for row, column in places]
        return [*marks, ("\n\n", "<global-img>")]

    def cut(self, image: Image.Image, n_images: int) -> NDArray[np.float32]:
        """Return the normalized tiles, ``(tiles, 3, side, side)``, the whole image last."""
        del n_images
        tiles: NDArray[np.float32] = self.processed(image)[0]
        return tiles

    def model_inputs(self, pixels: Sequence[NDArray[Any]], grids: Sequence[Grid]) -> dict[str, NDArray[Any]]:
        """Return ``pixel_values`` ``(1, tiles, 3, side, side)``: to the model, all tiles are images of one row."""
        del grids
        return {"pixel_values": np.concatenate(pixels)[None]}


@dataclass(frozen=True)
class SmolVLM(ModelFamily):
    """Family of ``Idefics3ForConditionalGeneration`` and ``SmolVLMForConditionalGeneration``."""

    image_tokens: ClassVar[tuple[str, str, str] | None] = ("<fake_token_around_image>", "<image>", "<fake_token_around_image>")
    image_placeholder: ClassVar[str] = "<image>"
    image_separator: ClassVar[str] = ""
    images: ClassVar[str] = "tiles of the checkpoint's processor"
    vision_tower: ClassVar[str] = "vision_model"
    chat: ClassVar[ChatFormat] = ChatFormat(
        begin="<|im_start|>",
        start="",
        roles={"system": "System", "user": "User", "assistant": "Assistant"},
        after_role=":",
        before_text=" ",
        end="<end_of_utterance>",
        joined=True,
    )

    def layout(self, config: Any, source: str | None, *, tiling: Tiling, limit: int | None = None) -> MarkedTiles:
        """Load the checkpoint's image processor and compare its tile side with the model's.

        Raises:
            InputError: they differ, or ``longest_edge`` is not a multiple of the tile side.
        """
        import transformers

        del tiling
        kind: Any = getattr(transformers, self.architecture.replace("ForConditionalGeneration", "ImageProcessorPil"))
        side = int(config.vision_config.image_size)
        processor = kind(max_image_size={"longest_edge": side}) if source is None else kind.from_pretrained(source)
        if processor.max_image_size["longest_edge"] != side:
            raise InputError(
                f"max_image_size in preprocessor_config.json is {processor.max_image_size['longest_edge']}, but the model's image_size is"
                f" {side}: copy the settings that belong to these weights"
            )
        if limit is not None or source is None:
            processor.size = {"longest_edge": limit or side}
        if (longest := processor.size["longest_edge"]) % side:
            raise InputError(
                f"longest_edge is {longest}, which is not a multiple of the tile side {side}: set it to {-(-longest // side) * side}"
            )
        return MarkedTiles(processor)

    def tokens_per_tile(self, config: Any) -> int:
        """Return the patches of a tile divided by those that are merged into a token."""
        return self.patches_per_tile(config) // int(config.scale_factor) ** 2

    def language_inputs(self, embeddings: "Tensor", mask: "Tensor", config: Any, blocks: "Tensor | None" = None) -> dict[str, Any]:
        """Pass the mask unchanged; Llama takes no mapping."""
        del config, blocks
        return {"inputs_embeds": embeddings, "attention_mask": mask}


IDEFICS3 = SmolVLM("idefics3", "SmolVLM", "Idefics3ForConditionalGeneration", "SmolVLM-256M-Instruct, -500M-Instruct, SmolVLM-Instruct")
SMOLVLM = SmolVLM("smolvlm", "SmolVLM2", "SmolVLMForConditionalGeneration", "SmolVLM2-*-Instruct")
