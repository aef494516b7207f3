"""InternVL in the form of transformers: tiles of one size, plain positions."""

from typing import Any

import torch
from PIL import Image
from torch import Tensor

from chiron.models.local.checkpoint_format import AskedAs
from chiron.models.local.dialogue import ChatFormat, DialogueTokens
from chiron.models.local.family import Family
from chiron.models.local.tiling import cut, normalise, tile_budget


class InternVL(Family):
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
        """As :meth:`Family.encode`; all tiles together."""
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
