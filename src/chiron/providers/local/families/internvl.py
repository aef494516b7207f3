"""InternVL3 and InternVL3.5 in transformers' layout: square tiles, one-dimensional positions, a Qwen2 or Qwen3 language model."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from chiron.providers.local.families.family import ModelFamily
from chiron.providers.local.tiling import Tiling

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class InternVL(ModelFamily):
    """Family of ``InternVLForConditionalGeneration``."""

    image_placeholder: ClassVar[str] = "<IMG_CONTEXT>"
    image_separator: ClassVar[str] = "\n"
    images: ClassVar[str] = "tiles"
    tiled: ClassVar[bool] = True
    needs_processor: ClassVar[bool] = False
    vision_tower: ClassVar[str] = "vision_tower"

    def layout(self, config: Any, source: str | None, *, tiling: Tiling, limit: int | None = None) -> Tiling:
        """Return ``tiling`` with the tile side of the model."""
        del source, limit
        return replace(tiling, tile=tile_side(config))

    def tokens_per_tile(self, config: Any) -> int:
        """Return the patches per side times the downsampling ratio, squared."""
        vision = config.vision_config
        return int((_side(vision.image_size) // _side(vision.patch_size)) * config.downsample_ratio) ** 2

    def patches_per_tile(self, config: Any) -> int:
        """Return the patches and the class token."""
        return 4 * self.tokens_per_tile(config) + 1

    def features(self, model: Any, inputs: "dict[str, Tensor]") -> "Tensor":
        config = model.config
        found: Tensor = model.model.get_image_features(
            **inputs,
            vision_feature_layer=config.vision_feature_layer,
            vision_feature_select_strategy=config.vision_feature_select_strategy,
        ).pooler_output
        return found.reshape(-1, found.shape[-1])


def tile_side(config: Any) -> int:
    """Return the tile side in pixels that the vision tower of an ``InternVLConfig`` expects."""
    return _side(config.vision_config.image_size)


def _side(size: Any) -> int:
    return int(size[0] if isinstance(size, list | tuple) else size)


INTERNVL = InternVL(
    "internvl",
    "InternVL",
    "InternVLForConditionalGeneration",
    "InternVL3, InternVL3.5 (dense, -HF), Chiron-o1",
    "internvl_chat",
)
