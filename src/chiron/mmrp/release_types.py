"""Options and summary of a release."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from chiron.dedup.image_hash import DISTANCE
from chiron.mmrp.checking import limits_of
from chiron.mmrp.coverage import BODY_SYSTEM_NAMES, MODALITY_NAMES, Cell
from chiron.mmrp.row import Part
from chiron.mmrp.splits import RATIOS, SplitName


@dataclass(frozen=True)
class ReleaseOptions:
    """How a release is to be made."""

    ratios: tuple[float, float, float] = RATIOS
    """Shares of train, validation and test."""
    seed: int = 0
    balance: int | None = None
    """The most training rows of a part in a cell of the map; ``None`` for all."""
    limits: Mapping[str, float] = field(default_factory=limits_of)
    """By check; a dataset that passes one is refused."""
    licence: str | None = None
    """Of the whole, for the card; by default what the rows say."""
    distance: int = DISTANCE
    """Bits in which perceptual hashes of nearly the same image may differ."""
    replace: bool = False
    """Whether an earlier release may be replaced."""
    modalities: tuple[str, ...] = MODALITY_NAMES
    """Rows of the card's map, even if empty."""
    body_systems: tuple[str, ...] = BODY_SYSTEM_NAMES
    """Its columns, likewise."""


@dataclass(frozen=True)
class ReleaseSummary:
    """What a release holds."""

    path: Path
    rows: Mapping[tuple[Part, SplitName], int]
    """By part and split."""
    images: int
    """Files."""
    left_out: Mapping[str, int]
    """Rows that are not in it, by reason."""
    groups: int
    """Groups of rows that hang together."""
    largest_group: int
    """Rows of the largest."""
    cells: Mapping[Cell, int]
    """Rows by modality and body system."""
    licences: Mapping[str, int]
    """Rows by the licence of their source."""
    models: Mapping[str, int]
    """Rows by what answered, ``role: model``."""
