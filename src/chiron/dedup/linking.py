"""Link near-equal items: pairs of 64-bit hashes that differ in few bits, and the groups that links form."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray


class UnionFind:
    """A partition of ``0 .. n-1``, at first of singles."""

    def __init__(self, count: int) -> None:
        """``count``: how many members there are."""
        self._parent = list(range(count))

    def unite(self, a: int, b: int) -> None:
        """Put the groups of two members together. A group is known by its smallest member, so the order of calls does not matter."""
        a, b = self.find(a), self.find(b)
        self._parent[max(a, b)] = min(a, b)

    def find(self, member: int) -> int:
        """The smallest member of its group."""
        parent = self._parent
        while parent[member] != member:
            parent[member] = parent[parent[member]]
            member = parent[member]
        return member

    def labels(self) -> NDArray[np.int64]:
        """For each member the smallest of its group, ``(n,)``."""
        return np.array([self.find(member) for member in range(len(self._parent))], np.int64)


class Families:
    """The same, for those who ask of many members at once whether they hang together."""

    def __init__(self, count: int) -> None:
        """``count``: how many members there are."""
        self.of: NDArray[np.int64] = np.arange(count)
        """For each member a number that its family has in common, ``(n,)``; to be read only."""
        self._members: dict[int, list[int]] = {}

    def unite(self, a: int, b: int) -> bool:
        """Put the families of two members together; false where they were one. A family is known by its largest part's number."""
        one, other = int(self.of[a]), int(self.of[b])
        if one == other:
            return False
        larger, smaller = self._members.pop(one, [one]), self._members.pop(other, [other])
        if len(larger) < len(smaller):
            one, larger, smaller = other, smaller, larger
        self.of[smaller] = one
        larger += smaller
        self._members[one] = larger
        return True


BITS: Final = 64
_CHUNK: Final = 1 << 20
"""Candidate pairs compared at once: some 50 MiB, however many there are in all."""

Hashes = NDArray[np.uint64]
"""``(n,)``"""
Pairs = NDArray[np.int64]
"""``(k, 2)``: positions"""


def near_pairs(hashes: Hashes, distance: int) -> Iterator[Pairs]:
    """All ``(i, j)`` with ``i < j`` whose hashes differ in at most ``distance`` bits, some at a time; a pair may come again.

    Equal hashes make a number of pairs that grows with the square of theirs: give each hash once.

    Raises:
        ValueError: ``distance`` is not from 0 to 15 (beyond, bands are so short that all pairs would be compared).
    """
    for pairs in near_matches(hashes, hashes, distance):
        yield pairs[pairs[:, 0] < pairs[:, 1]]


def near_matches(hashes: Hashes, others: Hashes, distance: int) -> Iterator[Pairs]:
    """All ``(i, j)`` for which ``hashes[i]`` and ``others[j]`` differ in at most ``distance`` bits, some at a time; a pair may come again.

    Raises:
        ValueError: as :func:`near_pairs`.
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
                right = order[right]  # noqa: PLW2901 - positions in the ranking become positions
                near = np.bitwise_count(hashes[left] ^ others[right]) <= distance
                yield np.stack([left[near], right[near]], axis=1)


def _expanded(first: NDArray[np.int64], last: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """``(i, k)`` for every ``k`` from ``first[i]`` up to ``last[i]``, some at a time."""
    counts = last - first
    hit = np.flatnonzero(counts)
    ends = np.cumsum(counts[hit])
    total = int(ends[-1]) if len(hit) else 0
    for start in range(0, total, _CHUNK):
        flat = np.arange(start, min(start + _CHUNK, total))
        which = np.searchsorted(ends, flat, "right")
        i = hit[which]
        yield i, (last[i] - (ends[which] - flat)).astype(np.int64)
