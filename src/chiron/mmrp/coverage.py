"""How rows cover the map of modalities and body systems: counts, weights, caps, and their order by difficulty."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence

from chiron.cases.body_systems import BODY_SYSTEMS
from chiron.cases.coverage import Coverage
from chiron.cases.modalities import MODALITIES
from chiron.mmrp.dataset_index import IndexedRow
from chiron.mmrp.row import PARTS

UNKNOWN = "unknown"
MODALITY_NAMES = tuple(modality.name for modality in MODALITIES)
BODY_SYSTEM_NAMES = tuple(system.name for system in BODY_SYSTEMS)
Cell = tuple[str, str]
"""Modality and body system."""


def cells(entry: IndexedRow) -> tuple[Cell, ...]:
    """Where a row stands: a cell for each of its modalities."""
    system = entry.body_system or UNKNOWN
    return tuple((modality, system) for modality in dict.fromkeys(entry.modalities)) or ((UNKNOWN, system),)


def count_cells(entries: Iterable[IndexedRow]) -> Counter[Cell]:
    """Rows in each cell. A row of two modalities stands in two."""
    return Counter(cell for entry in entries for cell in cells(entry))


def coverage_of_rows(entries: Iterable[IndexedRow]) -> Coverage:
    """The same for :func:`chiron.cases.coverage.draw_coverage`, which shows the taxonomy's cells and counts what has none."""
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


def weights(entries: Sequence[IndexedRow]) -> list[float]:
    """For each row ``1 / sqrt(rows in its rarest cell)``, scaled to a mean of 1.

    The root stands between what there is (a weight of 1 for all) and every cell alike, where a cell of three rows would be drawn as
    often as one of three thousand, and learned by heart.
    """
    counts = count_cells(entries)
    raw = [min(counts[cell] for cell in cells(entry)) ** -0.5 for entry in entries]
    mean = sum(raw) / len(raw) if raw else 1.0
    return [weight / mean for weight in raw]


def capped(entries: Sequence[IndexedRow], most: int, *, seed: int = 0) -> list[int]:
    """Positions in ``entries`` of the rows that stay if no cell may hold more than ``most``, in their order.

    Rows are taken in a random order of the seed and their ids, so that more rows change little; one of several cells stays if all of
    them have room.
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
"""Where a row stands that nobody measured: in the middle, among neither the first lessons nor the last."""


def curriculum_key(entry: IndexedRow) -> tuple[int, float, int, bytes]:
    """What rows are sorted by.

    The part (text, alignment, chains of thought); the difficulty, ``1 - baseline``: the share of interns who are wrong without any
    reasoning; the depth at which the search ended, 0 where there was none; and then chance, from the row's id, so that the order does
    not depend on the order in which rows were made.
    """
    chance = hashlib.blake2b(entry.id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    measured = UNMEASURED if entry.difficulty is None else entry.difficulty
    return PARTS.index(entry.part), measured, entry.depth or 0, chance
