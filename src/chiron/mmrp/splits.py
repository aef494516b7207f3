"""Arrange rows for a release: splits, sampling weights, caps, curriculum order.

Splits do not divide related rows. Rows are related by patient, by case, and by nearly identical images. A group of related rows goes to
one split, chosen by a hash of the seed and the group's smallest patient id. Added rows therefore do not move existing groups, unless they
connect two groups.

Words do not relate rows, because templates would relate everything. Text-only rows that are nearly identical, directly or through other
rows, form a family; only its rows in the first split it occurs in (train, then validation, then test) are kept.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from chiron.cases.body_systems import BODY_SYSTEMS
from chiron.cases.modalities import MODALITIES
from chiron.cases.summary import Coverage
from chiron.dedup.image_hash import UnionFind
from chiron.dedup.low_memory import TextNumbers
from chiron.errors import InputError
from chiron.mmrp.dataset_index import DatasetIndex, IndexedRow
from chiron.mmrp.row import ALL_PARTS

SplitName = Literal["train", "validation", "test"]
SPLITS: Final[tuple[SplitName, ...]] = ("train", "validation", "test")
RATIOS: Final = (0.9, 0.05, 0.05)


@dataclass(frozen=True)
class Split:
    split: Mapping[int, SplitName]
    """Split by row position; rows without a split are absent."""
    group: Mapping[int, str]
    """Group by row position: twelve hex digits, a hash of the group's smallest case id.

    A hash of a patient's number could be reversed by trying all numbers; case ids are public in the rows anyway."""
    left_out: Mapping[int, str]
    """Rows left out, with the reason."""
    largest: int
    """Number of rows in the largest group."""


def read_ratios(text: str) -> tuple[float, float, float]:
    """Parse three shares with a sum of 1: ``0.9,0.05,0.05``.

    Raises:
        InputError: there are not three shares, or their sum is not 1.
    """
    try:
        shares = tuple(float(share) for share in text.split(","))
    except ValueError:
        shares = ()
    if len(shares) != 3 or any(not 0 <= share <= 1 for share in shares) or abs(sum(shares) - 1) > 1e-6:
        raise InputError(
            f"--ratios {text} are not three shares with a sum of 1: write those of train, validation and test, such as 0.9,0.05,0.05"
        )
    return shares[0], shares[1], shares[2]


def split_rows(
    index: DatasetIndex,
    positions: Sequence[int],
    *,
    ratios: tuple[float, float, float] = RATIOS,
    seed: int = 0,
) -> Split:
    """Assign the rows at ``positions`` to splits.

    Shares are met on average over groups; with large groups or few of them, they may be missed widely.
    """
    sides: dict[int, SplitName] = {}
    names: dict[int, str] = {}
    largest = 0
    for group in _groups(index, positions):
        entries = index.entries.at(group)
        side = _side(seed, min(entry.patient for entry in entries), ratios)
        sides |= dict.fromkeys(group, side)
        names |= dict.fromkeys(group, _hashed(min(entry.case_id for entry in entries)).hex()[:12])
        largest = max(largest, len(group))
    split = {position: sides[position] for position in positions}
    left_out = _repeated_elsewhere(index, split)
    for position in left_out:
        del split[position]
    return Split(split, names, left_out, largest)


def _groups(index: DatasetIndex, positions: Sequence[int]) -> Iterator[list[int]]:
    """Yield the positions of each group of related rows."""
    groups, first = UnionFind(len(index.entries)), TextNumbers()
    for position in positions:
        entry = index.entries[position]
        ties = [f"patient {entry.patient}", f"case {entry.case_id}", *(f"image {index.image_groups[image]}" for image in entry.images)]
        for tie in ties:
            groups.unite(first.setdefault(tie, position), position)
    labels = groups.labels()[positions]
    order = np.argsort(labels, kind="stable")
    for group in np.split(order, np.flatnonzero(np.diff(labels[order])) + 1) if len(order) else ():
        yield [positions[at] for at in group.tolist()]


def _repeated_elsewhere(index: DatasetIndex, split: Mapping[int, SplitName]) -> dict[int, str]:
    """Return rows to leave out because a row of their family is in an earlier split, with the reason: training rows stay.

    Families consist of texts, not rows: unassigned rows and repeated texts connect them too.
    """
    families = UnionFind(len(index.texts))
    for a, b, _ in index.text_links:
        families.unite(a, b)
    worded = _families_of_several(index, split, families.labels())
    stays: dict[int, int] = {}
    for position, family in worded.items():
        known = stays.setdefault(family, position)
        if SPLITS.index(split[position]) < SPLITS.index(split[known]):
            stays[family] = position
    return {
        position: f"nearly the same text as {index.entries[stays[family]].id} of {split[stays[family]]}"
        for position, family in worded.items()
        if split[position] != split[stays[family]]
    }


def _families_of_several(index: DatasetIndex, split: Iterable[int], family_of: NDArray[np.int64]) -> dict[int, int]:
    """Return the families of rows without images, by position; without families of a single row."""
    positions = np.fromiter((position for position in split if not index.entries[position].images), np.int64)
    own = family_of[np.fromiter((entry.text for entry in index.entries.at(positions)), np.int64, len(positions))]
    several = np.bincount(own, minlength=1)[own] > 1
    return dict(zip(positions[several].tolist(), own[several].tolist(), strict=True))


def _hashed(text: str, size: int = 16) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=size).digest()


def _side(seed: int, patient: str, ratios: tuple[float, float, float]) -> SplitName:
    number = int.from_bytes(_hashed(f"{seed}\x00{patient}")[:8], "big") / 2**64
    if number < ratios[0]:
        return "train"
    return "validation" if number < ratios[0] + ratios[1] or ratios[2] == 0 else "test"


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
    """Count rows for :func:`chiron.cases.summary.draw_coverage`, which shows the taxonomy's cells and the number of rows in none."""
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
    for position in sorted(range(len(entries)), key=lambda i: _hashed(f"{seed}\x00{entries[i].id}", 8)):
        own = cells(entries[position])
        if all(held[cell] < most for cell in own):
            held.update(own)
            stay.append(position)
    return sorted(stay)


UNMEASURED = 0.5
"""Difficulty assumed for rows without a measured one: the middle of the curriculum."""


def curriculum_key(entry: IndexedRow) -> tuple[int, float, int, bytes]:
    """Return the sort key of the curriculum.

    The key is: the part (text, alignment, chains of thought); the difficulty (``1 - baseline``, the share of interns who are wrong
    without reasoning); the depth at which the search ended, or 0; and a hash of the row's id, so that the order of ties is fixed.
    """
    measured = UNMEASURED if entry.difficulty is None else entry.difficulty
    return ALL_PARTS.index(entry.part), measured, entry.depth or 0, _hashed(entry.id, 8)
