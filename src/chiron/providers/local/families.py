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
    """An ``InternVLForConditionalGeneration``."""

    def __init__(self, model: Any, tokenizer: Any, *, asked_as: AskedAs, features_bytes: int) -> None:
        """``asked_as``: how images are cut, and what is said before calls without a system turn.

        Raises:
            InputError: the tokenizer lacks a token, or the language model cannot be run.
        """
        self._tiling = asked_as.tiling(tile_side(model.config))
        chat = ChatFormat(system=asked_as.system)
        dialogue = DialogueTokens(tokenizer, tiling=self._tiling, tokens_per_tile=tokens_per_tile(model.config), chat=chat)
        super().__init__(model, tokenizer, dialogue, features_bytes=features_bytes)

    def encode(self, image: Image.Image, n_images: int) -> tuple[Tensor, tuple[int, int]]:
        """As :meth:`VLMBackend.encode`; all tiles together."""
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
        """The tiles that each of a call's images may have."""
        return tile_budget(n_images, self._tiling)


def tokens_per_tile(config: Any) -> int:
    """Image tokens a tile of an ``InternVLConfig``: patches a side times the downsampling, squared."""
    vision = config.vision_config
    return int((_side(vision.image_size) // _side(vision.patch_size)) * config.downsample_ratio) ** 2


def tile_side(config: Any) -> int:
    """Pixels along the side of the tiles that the vision tower of an ``InternVLConfig`` takes."""
    return _side(config.vision_config.image_size)


def _side(size: Any) -> int:
    return int(size[0] if isinstance(size, list | tuple) else size)


_IMAGE_TOKENS = ("<|vision_start|>", "<|image_pad|>", "<|vision_end|>")
_SYSTEM = "You are a helpful assistant."
"""What the published chat template says where nobody says otherwise."""


class QwenVL(VLMBackend):
    """A ``Qwen2VLForConditionalGeneration`` or ``Qwen2_5_VLForConditionalGeneration``."""

    axes: ClassVar[int] = 3
    beside_image: ClassVar[str] = ""

    def __init__(self, model: Any, tokenizer: Any, processor: Any, *, features_bytes: int) -> None:
        """``processor``: the checkpoint's ``Qwen2VLImageProcessorPil``.

        Raises:
            InputError: the tokenizer lacks a token, the processor cuts other patches than the model sees, or the language model cannot be
                run.
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
        """As :meth:`VLMBackend.encode`; the size is the processor's choice."""
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
        """0: images are seen the same in any company."""
        del n_images
        return 0

    def _positions(self, length: int, images: Sequence[EncodedImage], spans: Sequence[tuple[int, int]]) -> tuple[NDArray[np.int64], int]:
        """Words count on, all axes alike; an image stands still in time, and its tokens have their row and column.

        After an image, counting goes on one beyond its largest position: it takes as many as its longer side has tokens.
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
