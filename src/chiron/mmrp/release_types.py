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
    """Options of a release."""

    ratios: tuple[float, float, float] = RATIOS
    """Shares of train, validation and test."""
    seed: int = 0
    balance: int | None = None
    """Maximum number of training rows of a part per cell of the coverage map; ``None`` for all."""
    limits: Mapping[str, float] = field(default_factory=limits_of)
    """Limits by check; a dataset that exceeds one is refused."""
    licence: str | None = None
    """License of the whole dataset, for the card; by default those of the rows."""
    distance: int = DISTANCE
    """Maximum number of differing bits between perceptual hashes of nearly identical images."""
    replace: bool = False
    """Whether an existing release may be replaced."""
    modalities: tuple[str, ...] = MODALITY_NAMES
    """Rows of the card's coverage map, shown even if empty."""
    body_systems: tuple[str, ...] = BODY_SYSTEM_NAMES
    """Columns of the map, shown even if empty."""


@dataclass(frozen=True)
class ReleaseSummary:
    """Summary of a release."""

    path: Path
    rows: Mapping[tuple[Part, SplitName], int]
    """Number of rows by part and split."""
    images: int
    """Number of image files."""
    left_out: Mapping[str, int]
    """Number of rows left out, by reason."""
    groups: int
    """Number of groups of related rows."""
    largest_group: int
    """Number of rows in the largest group."""
    cells: Mapping[Cell, int]
    """Number of rows by modality and body system."""
    licences: Mapping[str, int]
    """Number of rows by the license of their source."""
    models: Mapping[str, int]
    """Number of rows by model, as ``role: model``."""
