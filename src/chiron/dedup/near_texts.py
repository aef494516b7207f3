"""Find near-duplicate texts: MinHash bands propose pairs, the exact Jaccard index of their shingles decides.

Signatures and shingles are memory-mapped from anonymous temporary files, so about fifty bytes per text stay in memory.
"""

import zlib
from array import array
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from chiron.dedup.image_hash import UnionFind, expand_ranges
from chiron.dedup.low_memory import SpoolFile, TextNumbers
from chiron.errors import InputError
from chiron.extras import install_command
from chiron.text import normalize_words

SHINGLE: Final = 3
"""Number of words in a shingle."""
JACCARD: Final = 0.8
"""Minimum Jaccard index (shared shingles over all shingles) of near-duplicate texts."""
_BANDS: Final = 25
_ROWS: Final = 5
"""A pair with Jaccard index ``J`` is proposed with probability ``1 - (1 - J**5)**25``: .99995 at .8, .54 at .5, .06 at .3."""
_GATHERED: Final = 1 << 20
"""Shingles compared at once: about 40 MiB, independent of bucket size."""
_FIRST: Final = 8
"""Neighbors within a bucket that :meth:`TextIndex.links` compares first, before all others."""
_PAIRS: Final = 1 << 14
"""Maximum number of pairs compared at once."""
_TOGETHER: Final = 256
"""Texts whose bands are computed at once."""


class TextIndex:
    """Index of distinct texts, numbered from 0."""

    def __init__(self, spool: Path | None = None) -> None:
        """Create an empty index.

        Args:
            spool: folder for signatures; by default the system's temporary folder.

        Raises:
            InputError: datasketch is not installed.
            DiskError: the files cannot be created.
        """
        try:
            from datasketch import MinHash
        except ModuleNotFoundError as error:
            raise InputError(f"comparing texts needs the package '{error.name}': {install_command('data')}") from error
        self._sketch: Any = MinHash(num_perm=_BANDS * _ROWS, seed=1, hashfunc=int)  # shingles are hashes already
        self._numbers = TextNumbers()
        self._ends = array("q", [0])
        self._read: NDArray[np.uint32] | None = None
        self._bands, self._shingles = SpoolFile(spool), SpoolFile(spool)
        self._signatures: list[NDArray[Any]] = []
        """MinHash values of texts whose bands are not written yet."""

    def __len__(self) -> int:
        return len(self._ends) - 1

    def add(self, text: str) -> int:
        """Add a text and return its number; an equal text (after normalization) keeps its earlier number.

        Raises:
            DiskError: the disk is full.
        """
        plain = normalize_words(text)
        number = self._numbers.setdefault(plain, len(self))
        if number < len(self):
            return number
        shingles = _shingles(plain.split())
        self._sketch.clear()
        self._sketch.update_batch(shingles.tolist())
        self._signatures.append(self._sketch.hashvalues)
        if len(self._signatures) == _TOGETHER:
            self._write_bands()
        self._shingles.append(shingles.tobytes())
        self._ends.append(self._ends[-1] + len(shingles))
        return number

    def _write_bands(self) -> None:
        if self._signatures:
            self._bands.append(_mixed(np.stack(self._signatures).astype(np.uint64).reshape(-1, _BANDS, _ROWS)).tobytes())
            self._signatures = []

    def _all_bands(self) -> NDArray[np.uint64]:
        self._write_bands()
        return self._mapped(self._bands, np.uint64, (len(self), _BANDS)).view(np.ndarray)

    def likeness(self, a: int, b: int) -> float:
        """Return the Jaccard index of two texts: shared shingles over all shingles."""
        read = self._all_shingles()
        one, other = read[self._ends[a] : self._ends[a + 1]], read[self._ends[b] : self._ends[b + 1]]
        shared = len(np.intersect1d(one, other, assume_unique=True))
        return shared / (len(one) + len(other) - shared)

    def near(self, ours: Iterable[int], theirs: Iterable[int], *, jaccard: float = JACCARD) -> Iterator[tuple[int, int, float]]:
        """Yield each pair ``(a, b, index)`` from ``ours`` and ``theirs`` with a Jaccard index of at least ``jaccard``, once.

        All texts that share a band are compared. Memory does not grow with the number of pairs, but time does: thousands of variants of one
        template on both sides give millions of pairs.
        """
        one, other = np.unique(np.fromiter(ours, np.int64)), np.unique(np.fromiter(theirs, np.int64))
        if not len(one) or not len(other):
            return
        bands = self._all_bands()
        for band in range(_BANDS):
            for a, b in _across(bands[one, band], bands[other, band]):
                left, right = one[a], other[b]
                fresh = (left != right) & ~(bands[left, :band] == bands[right, :band]).any(axis=1)
                left, right = left[fresh], right[fresh]
                index = self._likenesses(left, right)
                enough = index >= jaccard
                yield from zip(left[enough].tolist(), right[enough].tolist(), index[enough].tolist(), strict=True)

    def links(self, among: Iterable[int] | None = None) -> Iterator[tuple[int, int, float]]:
        """Yield pairs ``(a, b, index)``, ``a < b``, that connect groups of near-duplicates (a spanning forest).

        Each pair has a Jaccard index of at least :data:`JACCARD`. Texts connected by a chain of near pairs are in one group; a group of n
        texts gives n - 1 pairs. Texts that share a band are compared at most once, and not if already in one group. Memory grows only with
        the number of texts. Time grows with the square of a bucket whose texts are similar but not near.

        Args:
            among: numbers of the texts to compare; all by default.
        """
        numbers = np.arange(len(self)) if among is None else np.unique(np.fromiter(among, np.int64))
        if len(numbers) < 2:
            return
        bands = self._all_bands()
        families = UnionFind(len(numbers))
        # First compare a few neighbors: this unites most of a large group and leaves few comparisons for the full pass.
        for most, band in product((_FIRST, len(numbers)), range(_BANDS)):
            for one, other in _in_buckets(bands[numbers, band], families, most):
                for start in range(0, len(one), _PAIRS):
                    a, b = numbers[one[start : start + _PAIRS]], numbers[other[start : start + _PAIRS]]
                    # Pairs that share an earlier band are compared there.
                    fresh = start + np.flatnonzero(~(bands[a, :band] == bands[b, :band]).any(axis=1))
                    index = self._likenesses(numbers[one[fresh]], numbers[other[fresh]])
                    for at, like in zip(fresh[index >= JACCARD].tolist(), index[index >= JACCARD].tolist(), strict=True):
                        if families.unite(int(one[at]), int(other[at])):
                            yield int(numbers[one[at]]), int(numbers[other[at]]), like

    def _likenesses(self, one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return :meth:`likeness` of many pairs, ``(k,)``."""
        read, ends = self._all_shingles().view(np.ndarray), np.asarray(self._ends, np.int64)
        found = [np.empty(0)]
        parts = np.cumsum(ends[one + 1] - ends[one] + ends[other + 1] - ends[other]) // _GATHERED
        for part in np.unique(parts):
            a, b = one[parts == part], other[parts == part]
            ours, theirs = _gathered(read, ends, a), _gathered(read, ends, b)
            place = np.minimum(np.searchsorted(ours, theirs), len(ours) - 1)
            same = theirs[ours[place] == theirs] >> np.uint64(32)
            shared = np.bincount(same.astype(np.int64), minlength=len(a))
            found.append(shared / (ends[a + 1] - ends[a] + ends[b + 1] - ends[b] - shared))
        return np.concatenate(found)

    def close(self) -> None:
        self._bands.close()
        self._shingles.close()

    def _all_shingles(self) -> NDArray[np.uint32]:
        if self._read is None or len(self._read) != self._ends[-1]:
            self._read = self._mapped(self._shingles, np.uint32, (self._ends[-1],))
        return self._read

    @staticmethod
    def _mapped(spool: SpoolFile, kind: Any, shape: tuple[int, ...]) -> NDArray[Any]:
        spool.flush()
        return np.memmap(spool.file, dtype=kind, mode="r", shape=shape)


def _across(ours: NDArray[np.uint64], theirs: NDArray[np.uint64]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield batches of index pairs ``(one, other)`` with equal keys."""
    order = np.argsort(theirs, kind="stable")
    ranked = theirs[order]
    first, last = np.searchsorted(ranked, ours, side="left"), np.searchsorted(ranked, ours, side="right")
    for one, at in expand_ranges(first, last, _PAIRS):
        yield one, order[at]


def _in_buckets(keys: NDArray[np.uint64], families: UnionFind, most: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield batches of pairs ``(one, other)``, ``one < other``, with equal keys and different groups.

    Each item is paired with the next ``most`` items of its bucket, nearest first.
    """
    order = np.argsort(keys, kind="stable")
    ranked = keys[order]
    begins = np.concatenate([[True], ranked[1:] != ranked[:-1]])
    bucket, starts = np.cumsum(begins) - 1, np.flatnonzero(begins)
    left, step = np.arange(len(keys)), 0
    while len(left) and step < most:
        if step & (step - 1) == 0:
            # Recheck at doubling steps: a bucket that has become one group needs no more comparisons.
            of = families.group_of[order]
            mixed = np.minimum.reduceat(of, starts) != np.maximum.reduceat(of, starts)
            left = left[mixed[bucket[left]]]
        step += 1
        left = left[left + step < len(keys)]
        left = left[bucket[left] == bucket[left + step]]
        one, other = order[left], order[left + step]
        apart = families.group_of[one] != families.group_of[other]
        if apart.any():
            yield one[apart], other[apart]


def _gathered(read: NDArray[np.uint32], ends: NDArray[np.int64], texts: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return the sorted shingles of texts, concatenated, with each text's index in ``texts`` in the upper 32 bits."""
    counts = ends[texts + 1] - ends[texts]
    begins = np.cumsum(counts) - counts
    place = np.repeat(np.arange(len(texts), dtype=np.uint64), counts)
    return (place << np.uint64(32)) | read[np.repeat(ends[texts] - begins, counts) + np.arange(len(place))]


def _shingles(words: list[str]) -> NDArray[np.uint32]:
    """Return the sorted, distinct 32-bit hashes of a text's shingles. A text shorter than a shingle counts as one."""
    hashes = np.fromiter(map(_word_hash, words), np.uint64, len(words))
    count = max(1, len(words) - SHINGLE + 1)
    mixed = np.full(count, min(len(words), SHINGLE), np.uint64)
    for at in range(min(len(words), SHINGLE)):
        # Polynomial hash as in ``_mixed``: the order of words counts.
        mixed = mixed * np.uint64(0x9E3779B97F4A7C15) + hashes[at : at + count]
        mixed ^= mixed >> np.uint64(29)
    return np.unique((mixed >> np.uint64(32)).astype(np.uint32))


@lru_cache(maxsize=1 << 16)
def _word_hash(word: str) -> int:
    data = word.encode("utf-8", "surrogatepass")
    return zlib.crc32(data) << 32 | zlib.adler32(data)


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return a key per band, ``(texts, bands)`` from ``(texts, bands, rows)``: a polynomial modulo 2**64, as unsigned integers wrap."""
    keys = np.zeros(values.shape[:-1], np.uint64)
    for row in range(values.shape[-1]):
        keys = keys * np.uint64(0x9E3779B97F4A7C15) + values[..., row] + np.uint64(1)
        keys ^= keys >> np.uint64(29)
    return keys
