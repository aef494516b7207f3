"""Gemma 3 and MedGemma: square images of a fixed size whose tokens attend to each other, and layers with sliding-window attention."""

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


class Square(ProcessorLayout):
    """Images stretched to a square; each takes the same number of tokens."""

    unit: ClassVar[str] = "images"
    fewer: ClassVar[str] = "fewer images"
    served: ClassVar[str] = "Every image is stretched to the square in `preprocessor_config.json`"

    def grid(self, width: int, height: int, n_images: int) -> Grid:
        del width, height, n_images
        return 1, 1

    def cut(self, image: Image.Image, n_images: int) -> NDArray[np.float32]:
        """Return the normalized image, ``(1, 3, side, side)``."""
        del n_images
        return self.processed(image)

    def model_inputs(self, pixels: Sequence[NDArray[Any]], grids: Sequence[Grid]) -> dict[str, NDArray[Any]]:
        """Return ``pixel_values`` ``(images, 3, side, side)``."""
        del grids
        return {"pixel_values": np.concatenate(pixels)}


@dataclass(frozen=True)
class Gemma(ModelFamily):
    """Family of ``Gemma3ForConditionalGeneration``."""

    image_tokens: ClassVar[tuple[str, str, str] | None] = ("<start_of_image>", "<image_soft_token>", "<end_of_image>")
    image_placeholder: ClassVar[str] = "<start_of_image>"
    image_separator: ClassVar[str] = ""
    images: ClassVar[str] = "a square of a fixed size"
    vision_tower: ClassVar[str] = "vision_tower"
    lora_parts: ClassVar[tuple[str, ...]] = ("language", "vision")  # the projector is a bare matrix
    own_masks: ClassVar[bool] = True
    sliding_window: ClassVar[bool] = True
    chat: ClassVar[ChatFormat] = ChatFormat(
        begin="<bos>",
        start="<start_of_turn>",
        roles={"system": "system", "user": "user", "assistant": "model"},
        end="<end_of_turn>",
        around_image="\n\n",
        system_in_user=True,
        joined=True,
    )

    def layout(self, config: Any, source: str | None, *, tiling: Tiling, limit: int | None = None) -> Square:
        """Load the checkpoint's image processor and compare its size with the model's.

        Raises:
            InputError: they differ, or the processor also cuts images into crops.
        """
        from transformers import Gemma3ImageProcessorPil

        del tiling, limit
        side = int(config.vision_config.image_size)
        size = {"height": side, "width": side}
        processor: Any = Gemma3ImageProcessorPil(size=size) if source is None else Gemma3ImageProcessorPil.from_pretrained(source)
        if (found := (processor.size["height"], processor.size["width"])) != (side, side):
            raise InputError(
                f"size in preprocessor_config.json is {found[0]} x {found[1]}, but the model's image_size is {side}:"
                " copy the settings that belong to these weights"
            )
        if processor.do_pan_and_scan:
            raise InputError("do_pan_and_scan in preprocessor_config.json is not supported: set it to false")
        return Square(processor)

    def tokens_per_tile(self, config: Any) -> int:
        return int(config.mm_tokens_per_image)

    def features(self, model: Any, inputs: "dict[str, Tensor]") -> "Tensor":
        found: Tensor = model.model.get_image_features(**inputs).pooler_output
        return found.flatten(0, 1)

    def language_inputs(self, embeddings: "Tensor", mask: "Tensor", config: Any, blocks: "Tensor | None" = None) -> dict[str, Any]:
        """Let the tokens of an image attend to each other, and restrict the layers with a sliding window to it."""
        import torch

        new, columns = mask.shape[2:]
        if blocks is not None:
            seen = mask.new_zeros((*mask.shape[:1], new, columns))
            seen[:, :, columns - new :] = _same_image(blocks)
            mask = mask | seen[:, None]
        places = torch.arange(columns, device=mask.device)
        near = places[columns - new :, None] - places[None] < config.sliding_window
        return {"inputs_embeds": embeddings, "attention_mask": {"full_attention": mask, "sliding_attention": mask & near}}

    def packed_mask(self, config: Any, input_ids: "Tensor", position_ids: "Tensor") -> "dict[str, Tensor]":
        """Return masks ``(lines, 1, length, length)`` for both kinds of layers.

        A token attends to earlier tokens of its row, and to all tokens of its image. Transformers' own masks of packed lines look the
        images up at positions within the row, so layers with a sliding window would see wrong images.
        """
        import torch

        rows = (torch.diff(position_ids, prepend=position_ids[:, :1] - 1) != 1).cumsum(1)
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        back = places[:, None] - places[None]
        images = _image_numbers(input_ids == config.image_token_id)
        full = (rows[:, :, None] == rows[:, None]) & ((back >= 0) | _same_image(images))
        sliding = full & (back < config.get_text_config().sliding_window)
        masks = {"full_attention": full[:, None], "sliding_attention": sliding[:, None]}
        if config._attn_implementation == "sdpa":  # noqa: SLF001 - no public name
            return masks
        dtype = torch.get_autocast_dtype(input_ids.device.type) if torch.is_autocast_enabled(input_ids.device.type) else torch.float32
        return {name: torch.where(mask, 0.0, torch.finfo(dtype).min).to(dtype) for name, mask in masks.items()}

    def token_types(self, config: Any, input_ids: "Tensor") -> "dict[str, Tensor]":
        """Return ``token_type_ids``. Without it, transformers silently gives image tokens the attention of text."""
        return {"token_type_ids": (input_ids == config.image_token_id).long()}


def _image_numbers(is_image: "Tensor") -> "Tensor":
    """Return the number of each token's image, or -1: ``(lines, length)``. Other tokens separate images."""
    import torch

    starts = is_image & ~torch.nn.functional.pad(is_image, (1, 0))[:, :-1]
    return torch.where(is_image, starts.cumsum(1) - 1, -1)


def _same_image(images: "Tensor") -> "Tensor":
    """Return whether two tokens are of the same image: ``(lines, length, length)``."""
    return (images[:, :, None] == images[:, None]) & (images >= 0)[:, :, None]


GEMMA3 = Gemma("gemma3", "Gemma 3", "Gemma3ForConditionalGeneration", "gemma-3-4b/12b/27b-it, medgemma-4b-it, medgemma-27b-it")
