"""The supported model families, by the ``model_type`` in ``config.json``."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from chiron.providers.local.families.family import ModelFamily
from chiron.providers.local.families.gemma import GEMMA3
from chiron.providers.local.families.internvl import INTERNVL
from chiron.providers.local.families.qwen_vl import QWEN2_5_VL, QWEN2_VL, QWEN3_VL
from chiron.providers.local.families.smolvlm import IDEFICS3, SMOLVLM

FAMILIES: Final[Mapping[str, ModelFamily]] = MappingProxyType(
    {family.model_type: family for family in (INTERNVL, QWEN2_VL, QWEN2_5_VL, QWEN3_VL, GEMMA3, IDEFICS3, SMOLVLM)}
)


def known_families() -> str:
    """Return the families and their ``model_type``, on one line."""
    return ", ".join(f"{family.name} ({key})" for key, family in FAMILIES.items())


def describe_families() -> list[dict[str, Any]]:
    """Return what each family supports, as JSON values.

    Every family trains (an adapter or all weights), is packed, and answers in this process: that is what :class:`ModelFamily` consists of.
    """
    return [
        {
            "model_type": family.model_type,
            "name": family.name,
            "checkpoints": family.checkpoints,
            "images": family.images,
            "train": ["adapter", "all"],
            "lora": list(family.lora_parts),
            "qlora": True,
            "packing": True,
            "in_process": True,
            "convert": family.converts,
        }
        for family in FAMILIES.values()
    ]
