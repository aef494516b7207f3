"""Samples are packed tightly, once each, and the same way every time."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chiron.training.packing import bins, order, pack

LENGTHS = st.lists(st.integers(0, 60), max_size=120)


def plain_best_fit(lengths: list[int], capacity: int) -> list[int]:
    """Room left in each bin, found by looking at every bin for every sample."""
    rooms: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [i for i, room in enumerate(rooms) if room >= length]
        if fitting:
            rooms[min(fitting, key=lambda i: rooms[i])] -= length
        else:
            rooms.append(capacity - length)
    return sorted(rooms)


@given(LENGTHS, st.integers(60, 150))
def test_every_sample_is_packed_once_as_best_fit_decreasing_packs_it(lengths: list[int], capacity: int) -> None:
    lines = pack(lengths, capacity)
    assert sorted(i for line in lines for i in line) == list(range(len(lengths)))
    assert all(lines)
    assert sorted(capacity - sum(lengths[i] for i in line) for line in lines) == plain_best_fit(lengths, capacity)
    assert pack(tuple(lengths), capacity) == lines


@pytest.mark.slow
@given(LENGTHS, st.integers(0, 5), st.integers(0, 5), st.integers(1, 50))
def test_an_epoch_holds_every_sample_once(lengths: list[int], seed: int, epoch: int, window: int) -> None:
    lines = bins(lengths, 80, seed=seed, epoch=epoch, window=window)
    assert sorted(i for line in lines for i in line) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in line) <= 80 for line in lines)
    assert bins(lengths, 80, seed=seed, epoch=epoch, window=window) == lines


@pytest.mark.parametrize(("samples", "window", "windows"), [(3, 4096, 1), (100, 100, 1), (140, 100, 1), (160, 100, 2), (1000, 100, 10)])
def test_a_window_has_about_as_many_samples_as_it_should(samples: int, window: int, windows: int) -> None:
    # Each window fits into one line here.
    lines = bins([1] * samples, samples, seed=0, epoch=0, window=window)
    assert sorted(len(line) for line in lines) == sorted(len(part) for part in np.array_split(range(samples), windows))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="sample 1 has 11 tokens and does not fit into 10"):
        pack([3, 11], 10)
    with pytest.raises(ValueError, match="does not fit"):
        bins([3, 11], 10, seed=0, epoch=0)
    with pytest.raises(ValueError, match="sample 0"):
        pack([-1], 10)
    with pytest.raises(ValueError, match="window"):
        bins([3], 10, seed=0, epoch=0, window=0)


def test_nothing_packs_into_nothing() -> None:
    assert pack([], 10) == []
    assert bins([], 10, seed=0, epoch=0) == []


def test_seed_and_epoch_decide_the_order() -> None:
    assert order(50, seed=1, epoch=0) == order(50, seed=1, epoch=0)
    assert sorted(order(50, seed=1, epoch=0)) == list(range(50))
    assert order(50, seed=1, epoch=0) != order(50, seed=1, epoch=1)
    assert order(50, seed=1, epoch=0) != order(50, seed=2, epoch=0)
    lengths = [7] * 50
    assert bins(lengths, 70, seed=1, epoch=0) != bins(lengths, 70, seed=1, epoch=1)


def test_lines_do_not_come_sorted() -> None:
    """Packing goes from long to short; training must not."""
    lengths = np.random.default_rng(0).integers(1, 1000, size=2000).tolist()
    lines = bins(lengths, 1000, seed=0, epoch=0)
    counts = np.array([len(line) for line in lines])
    assert abs(np.corrcoef(np.arange(len(counts)), counts)[0, 1]) < 0.15


def mixture(count: int) -> list[int]:
    """Text rows, and rows with one to seven tiles of 256 tokens, up to 8,192."""
    random = np.random.default_rng(1)
    text = random.lognormal(6.0, 0.7, size=count)
    tiles = random.choice([0, 1, 3, 7, 14], p=[0.3, 0.2, 0.2, 0.25, 0.05], size=count)
    return np.clip(text + 256 * tiles, 16, 8192).astype(int).tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("count", [1000, 4500, 20_000])
def test_lines_are_full(count: int) -> None:
    lengths = mixture(count)
    lines = bins(lengths, 8192, seed=0, epoch=0)
    assert sum(lengths) / (len(lines) * 8192) > 0.95


@pytest.mark.slow
def test_a_hundred_thousand_samples_are_packed_in_a_moment() -> None:
    lengths = mixture(100_000)
    began = time.process_time()
    lines = pack(lengths, 8192)
    assert time.process_time() - began < 1.0
    assert sum(lengths) / (len(lines) * 8192) > 0.99


def test_long_samples_meet_others_in_every_epoch() -> None:
    """Packed over all samples at once, the longest would share a line with the same short ones in every epoch."""
    lengths = list(range(1, 1001))

    def lines(epoch: int) -> set[frozenset[int]]:
        return {frozenset(line) for line in bins(lengths, 1000, seed=0, epoch=epoch, window=100) if len(line) > 1}

    first, second = lines(0), lines(1)
    assert len(first & second) < len(first) / 4
