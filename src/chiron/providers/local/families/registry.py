"""The supported model families, by the ``model_type`` in ``config.json``."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from chiron.providers.local.families.family import ModelFamily
from chiron.providers.local.families.internvl import INTERNVL
from chiron.providers.local.families.qwen_vl import QWEN2_5_VL, QWEN2_VL

FAMILIES: Final[Mapping[str, ModelFamily]] = MappingProxyType({family.model_type: family for family in (INTERNVL, QWEN2_VL, QWEN2_5_VL)})


def known_families() -> str:
    """Return the families and their ``model_type``, on one line."""
    return ", ".join(f"{family.name} ({key})" for key, family in FAMILIES.items())
