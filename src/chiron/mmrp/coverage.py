"""Coverage of modalities and body systems: counts, weights, caps, and the curriculum order."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence

from chiron.cases.body_systems import BODY_SYSTEMS
from chiron.cases.coverage import Coverage
from chiron.cases.modalities import MODALITIES
from chiron.mmrp.dataset_index import IndexedRow
from chiron.mmrp.row import ALL_PARTS

UNKNOWN = "unknown"
MODALITY_NAMES = tuple(modality.name for modality in MODALITIES)
BODY_SYSTEM_NAMES = tuple(system.name for system in BODY_SYSTEMS)
Cell = tuple[str, str]
"""Modality and body system."""


def cells(entry: IndexedRow) -> tuple[Cell, ...]:
    """Return the cells of a row, one per modality."""
    system = entry.body_system or UNKNOWN
    return tuple((modality, system) for modality in dict.fromkeys(entry.modalities)) or ((UNKNOWN, system),)


def count_cells(entries: Iterable[IndexedRow]) -> Counter[Cell]:
    """Count the rows in each cell. A row with two modalities counts in two cells."""
    return Counter(cell for entry in entries for cell in cells(entry))


def coverage_of_rows(entries: Iterable[IndexedRow]) -> Coverage:
    """Count rows for :func:`chiron.cases.coverage.draw_coverage`, which shows the taxonomy's cells and the number of rows in none."""
    rows, unplaced = 0, 0
    found: Counter[Cell] = Counter()
    for entry in entries:
        placed = [(m, s) for m, s in cells(entry) if m in MODALITY_NAMES and s in BODY_SYSTEM_NAMES]
        found.update(placed)
        rows += 1
        unplaced += not placed
    return Coverage(cases=rows, unplaced=unplaced, cells=dict(found))


def axes(counts: Counter[Cell], modalities: Sequence[str] = (), systems: Sequence[str] = ()) -> tuple[list[str], list[str]]:
    """Return rows and columns of the map: the named ones in order, even if empty, then others that occur, by name."""
    others = [sorted({cell[axis] for cell in counts} - set(named)) for axis, named in enumerate((modalities, systems))]
    return [*modalities, *others[0]], [*systems, *others[1]]


def weights(entries: Sequence[IndexedRow]) -> list[float]:
    """Return a sampling weight per row: ``1 / sqrt(rows in its rarest cell)``, scaled to a mean of 1.

    The square root is a compromise between the natural distribution (all weights 1) and equal cells. With equal cells, a cell of three
    rows would be sampled as often as one of three thousand, and would be memorized.
    """
    counts = count_cells(entries)
    raw = [min(counts[cell] for cell in cells(entry)) ** -0.5 for entry in entries]
    mean = sum(raw) / len(raw) if raw else 1.0
    return [weight / mean for weight in raw]


def capped(entries: Sequence[IndexedRow], most: int, *, seed: int = 0) -> list[int]:
    """Return the positions in ``entries`` of the rows to keep so that no cell has more than ``most``, in order.

    Rows are taken in a random order given by the seed and their ids, so added rows change little. A row with several cells is kept if
    all of them have room.
    """
    held: Counter[Cell] = Counter()
    stay = []
    for position in sorted(range(len(entries)), key=lambda i: _chance(seed, entries[i].id)):
        own = cells(entries[position])
        if all(held[cell] < most for cell in own):
            held.update(own)
            stay.append(position)
    return sorted(stay)


def _chance(seed: int, name: str) -> bytes:
    return hashlib.blake2b(f"{seed}\x00{name}".encode("utf-8", "surrogatepass"), digest_size=8).digest()


UNMEASURED = 0.5
"""Difficulty assumed for rows without a measured one: the middle of the curriculum."""


def curriculum_key(entry: IndexedRow) -> tuple[int, float, int, bytes]:
    """Return the sort key of the curriculum.

    The key is: the part (text, alignment, chains of thought); the difficulty, ``1 - baseline``, which is the share of interns who are
    wrong without reasoning; the depth at which the search ended, or 0; and a hash of the row's id, so that ties do not depend on the
    order in which rows were made.
    """
    chance = hashlib.blake2b(entry.id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    measured = UNMEASURED if entry.difficulty is None else entry.difficulty
    return ALL_PARTS.index(entry.part), measured, entry.depth or 0, chance
