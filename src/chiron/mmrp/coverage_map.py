"""How rows lie on the map of imaging modalities and body systems."""

from collections import Counter
from collections.abc import Iterable, Sequence

from chiron.mmrp.survey import Entry

UNKNOWN = "unknown"
Cell = tuple[str, str]
"""Modality and body system."""


def cells(entry: Entry) -> tuple[Cell, ...]:
    """Where a row stands: a cell for each of its modalities."""
    system = entry.body_system or UNKNOWN
    return tuple((modality, system) for modality in dict.fromkeys(entry.modalities)) or ((UNKNOWN, system),)


def count_cells(entries: Iterable[Entry]) -> Counter[Cell]:
    """Rows in each cell. A row of two modalities stands in two."""
    return Counter(cell for entry in entries for cell in cells(entry))


def axes(counts: Counter[Cell], modalities: Sequence[str] = (), systems: Sequence[str] = ()) -> tuple[list[str], list[str]]:
    """Rows and columns of the map: those named, in their order, whether empty or not; then others that occur, by name."""
    others = [sorted({cell[axis] for cell in counts} - set(named)) for axis, named in enumerate((modalities, systems))]
    return [*modalities, *others[0]], [*systems, *others[1]]
