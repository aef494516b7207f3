"""Which of many 64-bit hashes differ in a few bits, without comparing all of them.

Multi-index hashing (Norouzi, Punjani and Fleet, 2012): cut the bits into ``m`` bands with ``2 m > d``. Two hashes that differ in at most
``d`` bits differ in at most one bit of some band, by the pigeonhole principle. So it is enough to look each band up as it is and with
each one of its bits turned over. Nothing within ``d`` is missed; whatever is found is compared in full.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

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
