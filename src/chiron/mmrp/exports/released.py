"""A row on its way out: what every format needs of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chiron.mmrp.row import Part
from chiron.mmrp.splits import SplitName
from chiron.models.local.dialogue import Turn

IMAGES = "images"
"""The folder of a release's images."""


@dataclass(frozen=True, slots=True)
class ReleasedImage:
    """An image of the release."""

    name: str
    """Relative to the release's ``images/``."""
    width: int
    """Pixels."""
    height: int
    """Pixels."""


@dataclass(frozen=True, slots=True)
class ReleasedRow:
    """A row of the release."""

    id: str
    part: Part
    split: SplitName
    images: tuple[ReleasedImage, ...]
    """In the order of the marks."""
    turns: tuple[Turn, ...]
    record: Mapping[str, Any]
    """Everything else, as ``rows.jsonl`` has it."""
    group: str
    """What it hangs together with: rows of one group are on one side of the splits."""
    order: int
    """Its place in the curriculum, from 0, within part and split."""
    weight: float
    """For drawing rows in balance over the map; 1 on average, within part and split."""
