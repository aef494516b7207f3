"""Find pairs of 64-bit hashes that differ in few bits, and the groups that linked items form."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray


class UnionFind:
    """Groups of ``0 .. n-1``, initially all separate. An array of group numbers lets many members be compared at once."""

    def __init__(self, count: int) -> None:
        """Set the number of members."""
        self.group_of: NDArray[np.int64] = np.arange(count)
        """Group number of each member, ``(n,)``; read-only for callers."""
        self._members: dict[int, list[int]] = {}

    def unite(self, a: int, b: int) -> bool:
        """Merge the groups of two members; return False if they were one already. The larger group keeps its number."""
        one, other = int(self.group_of[a]), int(self.group_of[b])
        if one == other:
            return False
        larger, smaller = self._members.pop(one, [one]), self._members.pop(other, [other])
        if len(larger) < len(smaller):
            one, larger, smaller = other, smaller, larger
        self.group_of[smaller] = one
        larger += smaller
        self._members[one] = larger
        return True

    def labels(self) -> NDArray[np.int64]:
        """Return for each member the smallest member of its group, ``(n,)``. It does not depend on the order of the merges."""
        _, first, group = np.unique(self.group_of, return_index=True, return_inverse=True)
        return first[group]


BITS: Final = 64
_CHUNK: Final = 1 << 20
"""Candidate pairs compared at once: about 50 MiB, independent of their total number."""

Hashes = NDArray[np.uint64]
"""Shape ``(n,)``."""
Pairs = NDArray[np.int64]
"""Index pairs, shape ``(k, 2)``."""


def near_pairs(hashes: Hashes, distance: int) -> Iterator[Pairs]:
    """Yield batches of all ``(i, j)``, ``i < j``, whose hashes differ in at most ``distance`` bits; pairs may repeat.

    Pass each hash once: the number of pairs grows with the square of the number of equal hashes.

    Raises:
        ValueError: ``distance`` is not from 0 to 15 (beyond 15, bands are so short that all pairs would be compared).
    """
    for pairs in near_matches(hashes, hashes, distance):
        yield pairs[pairs[:, 0] < pairs[:, 1]]


def near_matches(hashes: Hashes, others: Hashes, distance: int) -> Iterator[Pairs]:
    """Yield batches of all ``(i, j)`` whose ``hashes[i]`` and ``others[j]`` differ in at most ``distance`` bits; pairs may repeat.

    Raises:
        ValueError: as in :func:`near_pairs`.
    """
    if not 0 <= distance <= 15:
        raise ValueError(f"distance is {distance}: 0 to 15 bits")
    bands = distance // 2 + 1
    edges = [BITS * band // bands for band in range(bands + 1)]
    for low, high in pairwise(edges):
        mask = np.uint64((1 << (high - low)) - 1)
        ours, theirs = (hashes >> np.uint64(low)) & mask, (others >> np.uint64(low)) & mask
        order = np.argsort(theirs, kind="stable")
        ranked = theirs[order]
        turned = [1 << bit for bit in range(high - low)] if distance else []
        for flip in (0, *turned):
            probes = ours ^ np.uint64(flip)
            first, last = np.searchsorted(ranked, probes, "left"), np.searchsorted(ranked, probes, "right")
            for left, right in _expanded(first, last):
                right = order[right]  # noqa: PLW2901 - convert positions in the ranking to indices
                near = np.bitwise_count(hashes[left] ^ others[right]) <= distance
                yield np.stack([left[near], right[near]], axis=1)


def _expanded(first: NDArray[np.int64], last: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield batches of ``(i, k)`` for every ``k`` from ``first[i]`` up to ``last[i]``."""
    counts = last - first
    hit = np.flatnonzero(counts)
    ends = np.cumsum(counts[hit])
    total = int(ends[-1]) if len(hit) else 0
    for start in range(0, total, _CHUNK):
        flat = np.arange(start, min(start + _CHUNK, total))
        which = np.searchsorted(ends, flat, "right")
        i = hit[which]
        yield i, (last[i] - (ends[which] - flat)).astype(np.int64)
