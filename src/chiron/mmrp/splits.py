"""Split rows into train, validation and test without dividing related rows.

Rows are related by patient, by case, and by nearly identical images. A group of related rows goes to one split, chosen by a hash of
the seed and the group's smallest patient id. Added rows therefore do not move existing groups, unless they connect two groups.
Words do not relate rows, because templates would relate everything. Text-only rows that are nearly identical, directly or through
other rows, form a family; only its rows in the first split it occurs in (train, then validation, then test) are kept.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from chiron.dedup.linking import UnionFind
from chiron.errors import InputError
from chiron.mmrp.dataset_index import DatasetIndex

SplitName = Literal["train", "validation", "test"]
SPLITS: Final[tuple[SplitName, ...]] = ("train", "validation", "test")
RATIOS: Final = (0.9, 0.05, 0.05)


@dataclass(frozen=True)
class Split:
    """Assignment of rows to splits."""

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
        raise InputError(f"--ratios {text}: write three shares that make 1, for train, validation and test, such as 0.9,0.05,0.05")
    return shares[0], shares[1], shares[2]


def split_rows(
    survey: DatasetIndex,
    positions: Sequence[int],
    *,
    ratios: tuple[float, float, float] = RATIOS,
    seed: int = 0,
) -> Split:
    """Assign the rows at ``positions`` to splits.

    Shares are met on average over groups; with large groups or few of them, they may be missed widely.
    """
    groups = _groups(survey, positions)
    patients: dict[int, str] = {}
    cases: dict[int, str] = {}
    sizes: dict[int, int] = {}
    for position in positions:
        group, entry = groups(position), survey.entries[position]
        sizes[group] = sizes.get(group, 0) + 1
        patients[group] = min(patients.get(group, entry.patient), entry.patient)
        cases[group] = min(cases.get(group, entry.case_id), entry.case_id)
    sides = {group: _side(_draw(seed, patient), ratios) for group, patient in patients.items()}
    split = {position: sides[groups(position)] for position in positions}
    names = {position: _hashed(cases[groups(position)]).hex()[:12] for position in positions}
    left_out = _repeated_elsewhere(survey, split)
    for position in left_out:
        del split[position]
    return Split(split, names, left_out, max(sizes.values(), default=0))


def _groups(survey: DatasetIndex, positions: Sequence[int]) -> Callable[[int], int]:
    groups = UnionFind(len(survey.entries))
    first: dict[tuple[str, str | int], int] = {}
    for position in positions:
        entry = survey.entries[position]
        ties: list[tuple[str, str | int]] = [("patient", entry.patient), ("case", entry.case_id)]
        ties += [("image", int(survey.image_groups[image])) for image in entry.images]
        for tie in ties:
            groups.unite(first.setdefault(tie, position), position)
    return groups.find


def _repeated_elsewhere(survey: DatasetIndex, split: Mapping[int, SplitName]) -> dict[int, str]:
    """Return rows to leave out because a row of their family is in an earlier split, with the reason: training rows stay.

    Families consist of texts, not rows: unassigned rows and repeated texts connect them too.
    """
    families = UnionFind(len(survey.texts))
    for a, b, _ in survey.text_links:
        families.unite(a, b)
    worded = {position: families.find(survey.entries[position].text) for position in split if not survey.entries[position].images}
    stays: dict[int, int] = {}
    for position, family in worded.items():
        known = stays.setdefault(family, position)
        if SPLITS.index(split[position]) < SPLITS.index(split[known]):
            stays[family] = position
    return {
        position: f"says nearly what {survey.entries[stays[family]].id} of {split[stays[family]]} says"
        for position, family in worded.items()
        if split[position] != split[stays[family]]
    }


def _draw(seed: int, patient: str) -> float:
    """Return a number in [0, 1)."""
    return int.from_bytes(_hashed(f"{seed}\x00{patient}")[:8], "big") / 2**64


def _hashed(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _side(number: float, ratios: tuple[float, float, float]) -> SplitName:
    if number < ratios[0]:
        return "train"
    return "validation" if number < ratios[0] + ratios[1] or ratios[2] == 0 else "test"
