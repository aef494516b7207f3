"""How rows lie on the map of imaging modalities and body systems."""

from collections import Counter
from collections.abc import Iterable, Sequence

from chiron.cases.body_systems import BODY_SYSTEMS
from chiron.cases.coverage import Coverage
from chiron.cases.modalities import MODALITIES
from chiron.mmrp.survey import Entry

UNKNOWN = "unknown"
MODALITY_NAMES = tuple(modality.name for modality in MODALITIES)
BODY_SYSTEM_NAMES = tuple(system.name for system in BODY_SYSTEMS)
Cell = tuple[str, str]
"""Modality and body system."""


def cells(entry: Entry) -> tuple[Cell, ...]:
    """Where a row stands: a cell for each of its modalities."""
    system = entry.body_system or UNKNOWN
    return tuple((modality, system) for modality in dict.fromkeys(entry.modalities)) or ((UNKNOWN, system),)


def count_cells(entries: Iterable[Entry]) -> Counter[Cell]:
    """Rows in each cell. A row of two modalities stands in two."""
    return Counter(cell for entry in entries for cell in cells(entry))


def coverage_of_rows(entries: Iterable[Entry]) -> Coverage:
    """The same for :func:`chiron.cases.coverage_figure.draw_coverage`, which shows the taxonomy's cells and counts what has none."""
    rows, unplaced = 0, 0
    found: Counter[Cell] = Counter()
    for entry in entries:
        placed = [(m, s) for m, s in cells(entry) if m in MODALITY_NAMES and s in BODY_SYSTEM_NAMES]
        found.update(placed)
        rows += 1
        unplaced += not placed
    return Coverage(cases=rows, unplaced=unplaced, cells=dict(found))


def axes(counts: Counter[Cell], modalities: Sequence[str] = (), systems: Sequence[str] = ()) -> tuple[list[str], list[str]]:
    """Rows and columns of the map: those named, in their order, whether empty or not; then others that occur, by name."""
    others = [sorted({cell[axis] for cell in counts} - set(named)) for axis, named in enumerate((modalities, systems))]
    return [*modalities, *others[0]], [*systems, *others[1]]
