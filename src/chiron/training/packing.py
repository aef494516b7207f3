"""Packing: samples of all lengths into lines of one length, in an order that seed and epoch alone decide."""

from bisect import bisect_left, insort
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

_ORDER, _BINS = 0, 1  # which of an epoch's two streams of random numbers


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Bins of indices whose lengths sum to ``capacity`` at most: the longest first, each where it leaves least room.

    Best-fit decreasing; equal lengths keep their order, so the same lengths give the same bins. Every index is in one bin.

    Raises:
        ValueError: a length is negative or more than ``capacity``; nothing is cut.
    """
    filled: list[list[int]] = []
    open_bins: dict[int, list[int]] = {}  # by room left
    rooms: list[int] = []  # the keys of open_bins in order: few, however many the bins
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length = lengths[index]
        if not 0 <= length <= capacity:
            raise ValueError(f"sample {index} has {length} tokens and does not fit into {capacity}")
        place = bisect_left(rooms, length)
        if place == len(rooms):
            filled.append([index])
            _open(len(filled) - 1, capacity - length, open_bins, rooms)
            continue
        room = rooms[place]
        target = open_bins[room].pop()
        if not open_bins[room]:
            del open_bins[room], rooms[place]
        filled[target].append(index)
        _open(target, room - length, open_bins, rooms)
    return filled


def order(n: int, *, seed: int, epoch: int) -> list[int]:
    """A permutation of ``range(n)``: the same for the same seed and epoch, another for another. Neither may be negative."""
    return [int(i) for i in np.random.default_rng([seed, epoch, _ORDER]).permutation(n)]


def bins(lengths: Sequence[int], capacity: int, *, seed: int, epoch: int, window: int = 4096) -> list[list[int]]:
    """The packed lines of one epoch, shuffled: indices into ``lengths``, each in one line.

    Packing goes by windows of about ``window`` shuffled samples. Over all samples at once it would always put the same long ones together;
    within a window chance has its say, and some thousands are enough to fill the lines.

    Raises:
        ValueError: a length is more than ``capacity``, or ``window`` less than 1.
    """
    if window < 1:
        raise ValueError(f"a window of {window} samples")
    shuffled = order(len(lengths), seed=seed, epoch=epoch)
    # Windows of equal size: a small last one would be packed badly.
    count = max(1, round(len(shuffled) / window))
    edges = [len(shuffled) * i // count for i in range(count + 1)]
    lines: list[list[int]] = []
    for begin, end in pairwise(edges):
        members = shuffled[begin:end]
        lines += [[members[i] for i in line] for line in pack([lengths[i] for i in members], capacity)]
    return [lines[int(i)] for i in np.random.default_rng([seed, epoch, _BINS]).permutation(len(lines))]


def _open(number: int, room: int, open_bins: dict[int, list[int]], rooms: list[int]) -> None:
    if room not in open_bins:
        open_bins[room] = []
        insort(rooms, room)
    open_bins[room].append(number)
