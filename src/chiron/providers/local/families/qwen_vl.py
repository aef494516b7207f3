"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: images at their own resolution, and positions of time, height and width (M-RoPE)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from chiron.errors import InputError
from chiron.providers.local.families.family import ModelFamily
from chiron.providers.local.tiling import Grid, ProcessorLayout, Tiling

if TYPE_CHECKING:
    from torch import Tensor


class NativeResolution(ProcessorLayout):
    """Images scaled to a multiple of the patch size, within limits of pixels. The unit of an image is a token."""

    axes: ClassVar[int] = 3
    unit: ClassVar[str] = "image tokens"
    fewer: ClassVar[str] = "a lower images.max_pixels"
    limit: ClassVar[str | None] = "max_pixels"
    needs_grids: ClassVar[bool] = True
    served: ClassVar[str] = "Images keep their resolution, within the limits of `preprocessor_config.json`"

    def grid(self, width: int, height: int, n_images: int) -> Grid:
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

        del n_images
        side = self.processor.patch_size * self.processor.merge_size
        size = self.processor.size
        try:
            rows, columns = smart_resize(height, width, side, min_pixels=size["shortest_edge"], max_pixels=size["longest_edge"])
        except ValueError as error:
            raise InputError(f"an image of {width} x {height} pixels is not supported by this model: {error}: crop it") from error
        return rows // side, columns // side

    def cut(self, image: Image.Image, n_images: int) -> NDArray[np.float32]:
        """Return the normalized patches of each token, ``(tokens, patches, values)``."""
        tokens = int(np.prod(self.grid(*image.size, n_images)))
        return self.processed(image).reshape(tokens, self.processor.merge_size**2, -1)

    def model_inputs(self, pixels: Sequence[NDArray[Any]], grids: Sequence[Grid]) -> dict[str, NDArray[Any]]:
        """Return ``pixel_values`` ``(patches, values)`` and ``image_grid_thw`` ``(images, 3)``."""
        merge = self.processor.merge_size
        sizes = np.array([(1, rows * merge, columns * merge) for rows, columns in grids], np.int64)
        return {"pixel_values": np.concatenate([p.reshape(-1, p.shape[-1]) for p in pixels]), "image_grid_thw": sizes}

    def positions(self, length: int, spans: Sequence[tuple[int, int]], grids: Sequence[Grid]) -> tuple[NDArray[np.int64], int]:
        """Text positions increase by one, equal on all axes. An image's tokens share one time position and have their own row and column.

        The text after an image starts one above the image's largest position.
        """
        positions = np.empty((3, length), np.int64)
        done = following = 0
        for (rows, columns), (start, end) in zip(grids, spans, strict=True):
            positions[:, done:start] = np.arange(following, following + start - done)
            following += start - done
            row, column = np.divmod(np.arange(end - start), columns)
            positions[:, start:end] = following + np.stack([np.zeros_like(row), row, column])
            following += max(rows, columns)
            done = end
        positions[:, done:] = np.arange(following, following + length - done)
        return positions, following + length - done


@dataclass(frozen=True)
class QwenVL(ModelFamily):
    """Family of ``Qwen2VLForConditionalGeneration`` and ``Qwen2_5_VLForConditionalGeneration``."""

    image_tokens: ClassVar[tuple[str, str, str] | None] = ("<|vision_start|>", "<|image_pad|>", "<|vision_end|>")
    image_placeholder: ClassVar[str] = "<|vision_start|><|image_pad|><|vision_end|>"
    image_separator: ClassVar[str] = ""
    default_system: ClassVar[str | None] = "You are a helpful assistant."
    vision_tower: ClassVar[str] = "visual"

    def layout(self, config: Any, source: str | None, *, tiling: Tiling, limit: int | None = None) -> NativeResolution:
        """Load the checkpoint's image processor and compare its patch sizes with the model's."""
        from transformers import Qwen2VLImageProcessorPil

        del tiling
        vision = config.vision_config
        names = {"patch_size": "patch_size", "merge_size": "spatial_merge_size", "temporal_patch_size": "temporal_patch_size"}
        if source is None:
            processor = Qwen2VLImageProcessorPil(**{ours: getattr(vision, theirs) for ours, theirs in names.items()})
        else:
            processor = Qwen2VLImageProcessorPil.from_pretrained(source)
        for ours, theirs in names.items():
            if getattr(processor, ours) != getattr(vision, theirs):
                raise InputError(
                    f"{ours} in preprocessor_config.json is {getattr(processor, ours)}, but the model's {theirs} is"
                    f" {getattr(vision, theirs)}: copy the settings that belong to these weights"
                )
        if limit is not None:
            least = processor.size["shortest_edge"]
            if limit < least:
                raise InputError(f"max_pixels is {limit}, but the image processor scales images up to {least}: set it to {least} or more")
            processor.size = {"shortest_edge": least, "longest_edge": limit}
        return NativeResolution(processor)

    def tokens_per_tile(self, config: Any) -> int:
        del config
        return 1

    def patches_per_tile(self, config: Any) -> int:
        """Return the patches that are merged into one token."""
        return int(config.vision_config.spatial_merge_size) ** 2

    def token_types(self, config: Any, input_ids: "Tensor") -> "dict[str, Tensor]":
        """Return ``mm_token_type_ids``. Without it, transformers silently gives image tokens the positions of text."""
        return {"mm_token_type_ids": (input_ids == config.image_token_id).long()}


@dataclass(frozen=True)
class Qwen3VL(QwenVL):
    """Family of ``Qwen3VLForConditionalGeneration``, whose first layers add features of their own to image tokens (DeepStack)."""

    default_system: ClassVar[str | None] = None

    def features(self, model: Any, inputs: "dict[str, Tensor]") -> "Tensor":
        """Encode an image, with the features of the layers appended."""
        import torch

        found = model.model.get_image_features(**inputs)
        return torch.cat([*found.pooler_output, *(layer[0] for layer in found.deepstack_features)], dim=1)

    def language_inputs(self, embeddings: "Tensor", mask: "Tensor", config: Any, blocks: "Tensor | None" = None) -> dict[str, Any]:
        """Split the features of the layers off. Those of text are zeros, so they can be added at every position."""
        del blocks
        inputs, *layers = embeddings.split(config.hidden_size, dim=2)  # type: ignore[no-untyped-call]
        if not layers:
            return {"inputs_embeds": inputs, "attention_mask": mask}
        everywhere = mask.new_ones(inputs.shape[:2])
        return {
            "inputs_embeds": inputs,
            "attention_mask": mask,
            "visual_pos_masks": everywhere,
            "deepstack_visual_embeds": [layer.flatten(0, 1) for layer in layers],
        }


QWEN2_VL = QwenVL("qwen2_vl", "Qwen2-VL", "Qwen2VLForConditionalGeneration", "Qwen2-VL-*-Instruct")
QWEN2_5_VL = QwenVL("qwen2_5_vl", "Qwen2.5-VL", "Qwen2_5_VLForConditionalGeneration", "Qwen2.5-VL-*-Instruct")
QWEN3_VL = Qwen3VL("qwen3_vl", "Qwen3-VL", "Qwen3VLForConditionalGeneration", "Qwen3-VL-*-Instruct (dense)")
