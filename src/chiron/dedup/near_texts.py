"""Which of many texts are nearly the same: MinHash bands propose pairs, the exact Jaccard index of their shingles decides.

Signatures and shingles lie in files without a name and are mapped into memory, so what stays resident is a few hundred bytes a text.
"""

import re
import tempfile
import unicodedata
import zlib
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from chiron.dedup.linking import Families
from chiron.errors import DiskError, InputError

SHINGLE: Final = 3
"""Words of a shingle."""
JACCARD: Final = 0.8
"""Shared shingles over all shingles of two texts that count as nearly the same."""
_BANDS: Final = 25
_ROWS: Final = 5
"""A pair of Jaccard index ``J`` is proposed with probability ``1 - (1 - J**5)**25``: .99995 at .8, .54 at .5, .06 at .3."""
_GATHERED: Final = 1 << 20
"""Shingles compared at once: some 40 MiB, however many texts share a bucket."""
_FIRST: Final = 8
"""Neighbours within a band's bucket that :meth:`TextIndex.links` looks at before it looks at all."""
_PAIRS: Final = 1 << 14
"""Pairs compared at once, at most."""
_WORD = re.compile(r"[^\W_]+")


def normalised(text: str) -> str:
    """The words of a text in lower case, one blank between them; no marks, no accents' forms, no layout."""
    return " ".join(_WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


class TextIndex:
    """Texts, each once. A text is known by its number, from 0."""

    def __init__(self, spool: Path | None = None) -> None:
        """``spool``: the folder in which signatures wait; by default where temporary files go.

        Raises:
            InputError: datasketch is not installed.
        """
        try:
            from datasketch import MinHash
        except ModuleNotFoundError as error:
            raise InputError(f"comparing texts needs the package '{error.name}': pip install 'chiron-med[data]'") from error
        self._blank: Any = MinHash(num_perm=_BANDS * _ROWS, seed=1, hashfunc=_plain)
        self._numbers: dict[bytes, int] = {}
        self._words: list[int] = []
        self._ends: list[int] = [0]
        self._read: NDArray[np.uint32] | None = None
        self._bands = tempfile.TemporaryFile(dir=spool)  # noqa: SIM115 - it lives as long as the index, and has no name to be left behind
        self._shingles = tempfile.TemporaryFile(dir=spool)  # noqa: SIM115 - likewise

    def __len__(self) -> int:
        """How many different texts there are."""
        return len(self._words)

    def add(self, text: str) -> int:
        """The text's number; that of an earlier text if both are the same after normalisation.

        Raises:
            DiskError: the disk is full.
        """
        plain = normalised(text)
        digest = _digest(plain)
        known = self._numbers.get(digest)
        if known is not None:
            return known
        words = plain.split()
        shingles = _shingles(words)
        sketch = self._blank.copy()
        sketch.update_batch(shingles.tolist())
        values = np.asarray(sketch.hashvalues, np.uint64).reshape(_BANDS, _ROWS)
        try:
            self._bands.write(_mixed(values).tobytes())
            self._shingles.write(shingles.tobytes())
        except OSError as error:
            raise DiskError(f"signatures of texts cannot be kept ({error.strerror}): free space on the disk and run it again") from error
        number = self._numbers[digest] = len(self._words)
        self._words.append(len(words))
        self._ends.append(self._ends[-1] + len(shingles))
        return number

    def words(self, number: int) -> int:
        """How many words a text has."""
        return self._words[number]

    def likeness(self, a: int, b: int) -> float:
        """The Jaccard index of two texts: shared shingles over all shingles."""
        read = self._all_shingles()
        one, other = read[self._ends[a] : self._ends[a + 1]], read[self._ends[b] : self._ends[b + 1]]
        shared = len(np.intersect1d(one, other, assume_unique=True))
        return shared / (len(one) + len(other) - shared)

    def near(self, ours: Iterable[int], theirs: Iterable[int], *, jaccard: float = JACCARD) -> Iterator[tuple[int, int, float]]:
        """Pairs ``(a, b, index)`` of a text of ``ours`` and another of ``theirs`` whose Jaccard index is at least ``jaccard``, each once.

        Compared are all that share a band. Memory does not grow with the pairs; time does, and thousands of variants of one template on
        both sides are millions of them.
        """
        one, other = np.unique(np.fromiter(ours, np.int64)), np.unique(np.fromiter(theirs, np.int64))
        if not len(one) or not len(other):
            return
        bands = self._mapped(self._bands, np.uint64, (len(self), _BANDS)).view(np.ndarray)
        for band in range(_BANDS):
            for a, b in _across(bands[one, band], bands[other, band]):
                left, right = one[a], other[b]
                fresh = (left != right) & ~(bands[left, :band] == bands[right, :band]).any(axis=1)
                left, right = left[fresh], right[fresh]
                index = self._likenesses(left, right)
                enough = index >= jaccard
                yield from zip(left[enough].tolist(), right[enough].tolist(), index[enough].tolist(), strict=True)

    def links(self, among: Iterable[int] | None = None, *, jaccard: float = JACCARD) -> Iterator[tuple[int, int, float]]:
        """What ties families of near texts together: pairs ``(a, b, index)`` with ``a < b`` and an index of at least ``jaccard``, of each
        family one pair fewer than it has texts, so that every two texts between which a chain of near pairs runs are in one family.

        Compared are all texts that share a band, unless they are in one family by then, and none twice. Memory grows with the texts
        alone; time with the square of a bucket whose texts share much and are not near.

        ``among``: numbers of the texts to compare; all by default.
        """
        numbers = np.arange(len(self)) if among is None else np.unique(np.fromiter(among, np.int64))
        if len(numbers) < 2:
            return
        bands = self._mapped(self._bands, np.uint64, (len(self), _BANDS)).view(np.ndarray)
        families = Families(len(numbers))
        # First a few neighbours of each: in a large family that unites nearly all, and leaves little to compare with everything.
        for most, band in product((_FIRST, len(numbers)), range(_BANDS)):
            for one, other in _in_buckets(bands[numbers, band], families, most):
                for start in range(0, len(one), _PAIRS):
                    a, b = numbers[one[start : start + _PAIRS]], numbers[other[start : start + _PAIRS]]
                    # Those that share an earlier band were compared there, or will be.
                    fresh = start + np.flatnonzero(~(bands[a, :band] == bands[b, :band]).any(axis=1))
                    index = self._likenesses(numbers[one[fresh]], numbers[other[fresh]])
                    for at, like in zip(fresh[index >= jaccard].tolist(), index[index >= jaccard].tolist(), strict=True):
                        if families.unite(int(one[at]), int(other[at])):
                            yield int(numbers[one[at]]), int(numbers[other[at]]), like

    def _likenesses(self, one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.float64]:
        """:meth:`likeness` of many pairs, ``(k,)``."""
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
        """Give the files back."""
        self._bands.close()
        self._shingles.close()

    def _all_shingles(self) -> NDArray[np.uint32]:
        if self._read is None or len(self._read) != self._ends[-1]:
            self._read = self._mapped(self._shingles, np.uint32, (self._ends[-1],))
        return self._read

    @staticmethod
    def _mapped(file: Any, kind: Any, shape: tuple[int, ...]) -> NDArray[Any]:
        file.flush()
        return np.memmap(file, dtype=kind, mode="r", shape=shape)


def _across(ours: NDArray[np.uint64], theirs: NDArray[np.uint64]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Positions ``(one, other)`` of equal keys of the two, some pairs at a time."""
    order = np.argsort(theirs, kind="stable")
    ranked = theirs[order]
    first = np.searchsorted(ranked, ours, side="left")
    counts = np.searchsorted(ranked, ours, side="right") - first
    ends = np.cumsum(counts)
    for start in range(0, int(ends[-1]), _PAIRS):
        pair = np.arange(start, min(start + _PAIRS, int(ends[-1])))
        one = np.searchsorted(ends, pair, side="right")
        yield one, order[first[one] + pair - (ends - counts)[one]]


def _in_buckets(keys: NDArray[np.uint64], families: Families, most: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Positions ``(one, other)``, ``one < other``, of equal keys: each with the next ``most``, nearest first, but for one family's."""
    order = np.argsort(keys, kind="stable")
    ranked = keys[order]
    begins = np.concatenate([[True], ranked[1:] != ranked[:-1]])
    bucket, starts = np.cumsum(begins) - 1, np.flatnonzero(begins)
    left, step = np.arange(len(keys)), 0
    while len(left) and step < most:
        if step & (step - 1) == 0:
            # Now and then: a bucket that has become one family has nothing left to compare.
            of = families.of[order]
            mixed = np.minimum.reduceat(of, starts) != np.maximum.reduceat(of, starts)
            left = left[mixed[bucket[left]]]
        step += 1
        left = left[left + step < len(keys)]
        left = left[bucket[left] == bucket[left + step]]
        one, other = order[left], order[left + step]
        apart = families.of[one] != families.of[other]
        if apart.any():
            yield one[apart], other[apart]


def _gathered(read: NDArray[np.uint32], ends: NDArray[np.int64], texts: NDArray[np.int64]) -> NDArray[np.uint64]:
    """The shingles of texts one after the other, each text's place in ``texts`` before them, in the upper 32 bits; so it is sorted."""
    counts = ends[texts + 1] - ends[texts]
    begins = np.cumsum(counts) - counts
    place = np.repeat(np.arange(len(texts), dtype=np.uint64), counts)
    return (place << np.uint64(32)) | read[np.repeat(ends[texts] - begins, counts) + np.arange(len(place))]


def _plain(value: int) -> int:
    return value


def _digest(plain: str) -> bytes:
    import hashlib

    return hashlib.blake2b(plain.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _shingles(words: list[str]) -> NDArray[np.uint32]:
    """32-bit hashes of a text's shingles, sorted, each once; a text shorter than a shingle is one."""
    hashes = np.fromiter(map(_word_hash, words), np.uint64, len(words))
    count = max(1, len(words) - SHINGLE + 1)
    mixed = np.full(count, min(len(words), SHINGLE), np.uint64)
    for at in range(min(len(words), SHINGLE)):
        # As in ``_mixed``; the order of words counts.
        mixed = mixed * np.uint64(0x9E3779B97F4A7C15) + hashes[at : at + count]
        mixed ^= mixed >> np.uint64(29)
    return np.unique((mixed >> np.uint64(32)).astype(np.uint32))


@lru_cache(maxsize=1 << 16)
def _word_hash(word: str) -> int:
    data = word.encode("utf-8", "surrogatepass")
    return zlib.crc32(data) << 32 | zlib.adler32(data)


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A key for each band, ``(bands,)`` of ``(bands, rows)``: a polynomial modulo 2**64, which is what unsigned integers compute."""
    keys = np.zeros(len(values), np.uint64)
    for column in values.T:
        keys = keys * np.uint64(0x9E3779B97F4A7C15) + column + np.uint64(1)
        keys ^= keys >> np.uint64(29)
    return keys
