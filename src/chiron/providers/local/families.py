"""The supported architectures: InternVL, Qwen2-VL and Qwen2.5-VL."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from chiron.client.failures import CallerFault
from chiron.errors import InputError
from chiron.providers.local.backend import EncodedImage, VLMBackend
from chiron.providers.local.checkpoint_format import AskedAs
from chiron.providers.local.dialogue import ChatFormat, DialogueTokens
from chiron.providers.local.tiling import Tiling, cut, normalise, tile_budget


class InternVL(VLMBackend):
    """Backend for ``InternVLForConditionalGeneration``."""

    def __init__(self, model: Any, tokenizer: Any, *, asked_as: AskedAs, features_bytes: int) -> None:
        """``asked_as``: tiling of images, and the system message for calls without a system turn.

        Raises:
            InputError: the tokenizer lacks a token, or the language model is not supported.
        """
        self._tiling = asked_as.tiling(tile_side(model.config))
        chat = ChatFormat(system=asked_as.system)
        dialogue = DialogueTokens(tokenizer, tiling=self._tiling, tokens_per_tile=tokens_per_tile(model.config), chat=chat)
        super().__init__(model, tokenizer, dialogue, features_bytes=features_bytes)

    def encode(self, image: Image.Image, n_images: int) -> tuple[Tensor, tuple[int, int]]:
        """See :meth:`VLMBackend.encode`; all tiles are encoded together."""
        tiles = normalise(cut(image, budget=self.sharing(n_images), tiling=self._tiling))
        config = self.model.config
        found = self.model.model.get_image_features(
            pixel_values=torch.from_numpy(tiles).to(self.device, self.dtype),
            vision_feature_layer=config.vision_feature_layer,
            vision_feature_select_strategy=config.vision_feature_select_strategy,
        ).pooler_output
        features = found.reshape(-1, found.shape[-1])
        return features, (1, len(features))

    def sharing(self, n_images: int) -> int:
        """Return the maximum tiles per image of the call."""
        return tile_budget(n_images, self._tiling)


def tokens_per_tile(config: Any) -> int:
    """Return the image tokens per tile of an ``InternVLConfig``: patches per side times the downsampling ratio, squared."""
    vision = config.vision_config
    return int((_side(vision.image_size) // _side(vision.patch_size)) * config.downsample_ratio) ** 2


def tile_side(config: Any) -> int:
    """Return the tile side in pixels that the vision tower of an ``InternVLConfig`` expects."""
    return _side(config.vision_config.image_size)


def _side(size: Any) -> int:
    return int(size[0] if isinstance(size, list | tuple) else size)


_IMAGE_TOKENS = ("<|vision_start|>", "<|image_pad|>", "<|vision_end|>")
_SYSTEM = "You are a helpful assistant."
"""Default system message of the published chat template."""


class QwenVL(VLMBackend):
    """Backend for ``Qwen2VLForConditionalGeneration`` and ``Qwen2_5_VLForConditionalGeneration``."""

    axes: ClassVar[int] = 3
    beside_image: ClassVar[str] = ""

    def __init__(self, model: Any, tokenizer: Any, processor: Any, *, features_bytes: int) -> None:
        """``processor``: the checkpoint's ``Qwen2VLImageProcessorPil``.

        Raises:
            InputError: the tokenizer lacks a token, the patch sizes of processor and model differ, or the language model is not supported.
        """
        self._processor = processor
        vision = model.config.vision_config
        for ours, theirs in (
            ("patch_size", "patch_size"),
            ("merge_size", "spatial_merge_size"),
            ("temporal_patch_size", "temporal_patch_size"),
        ):
            if getattr(processor, ours) != getattr(vision, theirs):
                raise InputError(
                    f"preprocessor_config.json has {ours} {getattr(processor, ours)}, and the model's {theirs} is"
                    f" {getattr(vision, theirs)}: put the settings that belong to these weights beside them"
                )
        dialogue = DialogueTokens(
            tokenizer, tiling=Tiling(), tokens_per_tile=1, chat=ChatFormat(system=_SYSTEM), image_tokens=_IMAGE_TOKENS
        )
        super().__init__(model, tokenizer, dialogue, features_bytes=features_bytes)

    def encode(self, image: Image.Image, n_images: int) -> tuple[Tensor, tuple[int, int]]:
        """See :meth:`VLMBackend.encode`; the processor chooses the image size."""
        del n_images
        try:
            seen = self._processor(images=[image.convert("RGB")], return_tensors="pt")
        except ValueError as error:
            raise CallerFault(f"an image of {image.width} x {image.height} pixels cannot be shown to this model: {error}") from error
        sizes = seen["image_grid_thw"].to(self.device)
        found = self.model.model.get_image_features(
            pixel_values=seen["pixel_values"].to(self.device, self.dtype), image_grid_thw=sizes
        ).pooler_output
        merge = self.model.config.vision_config.spatial_merge_size
        _, rows, columns = sizes[0].tolist()
        return torch.cat(list(found)), (rows // merge, columns // merge)

    def sharing(self, n_images: int) -> int:
        """Return 0: the encoding of an image does not depend on the other images."""
        del n_images
        return 0

    def _positions(self, length: int, images: Sequence[EncodedImage], spans: Sequence[tuple[int, int]]) -> tuple[NDArray[np.int64], int]:
        """Text positions increase by one, equal on all axes. An image's tokens share one time position and have their own row and column.

        The text after an image starts one above the image's largest position.
        """
        positions = np.empty((3, length), np.int64)
        done = following = 0
        for seen, (start, end) in zip(images, spans, strict=True):
            positions[:, done:start] = np.arange(following, following + start - done)
            following += start - done
            rows, columns = seen.grid
            row, column = np.divmod(np.arange(end - start), columns)
            positions[:, start:end] = following + np.stack([np.zeros_like(row), row, column])
            following += max(rows, columns)
            done = end
        positions[:, done:] = np.arange(following, following + length - done)
        return positions, following + length - done
