"""Compare images by SHA-256, perceptual hash and thumbnail, robust to changes of size, format, quality and brightness.

The hash proposes pairs and the thumbnail decides, because hashes of different patients are often equal. Among synthetic cases, one pair in
a hundred was within four of 64 bits. No thumbnails of such pairs correlated above .9966, and no copy below .998. Mirrored copies and
copies cropped by as little as 2% are not detected.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from chiron.cases.images import ImageFolder, ImageProblem
from chiron.errors import InputError
from chiron.extras import install_command


class UnionFind:
    """Groups of ``0 .. n-1``, initially all separate. An array of group numbers lets many members be compared at once."""

    def __init__(self, count: int) -> None:
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


def near_matches(hashes: Hashes, others: Hashes, distance: int) -> Iterator[Pairs]:
    """Yield batches of all ``(i, j)`` whose ``hashes[i]`` and ``others[j]`` differ in at most ``distance`` bits; pairs may repeat.

    Pass each hash once: the number of pairs grows with the square of the number of equal hashes.

    Raises:
        ValueError: ``distance`` is not from 0 to 15 (beyond 15, bands are so short that all pairs would be compared).
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
            for left, right in expand_ranges(first, last, _CHUNK):
                right = order[right]  # noqa: PLW2901 - convert positions in the ranking to indices
                near = np.bitwise_count(hashes[left] ^ others[right]) <= distance
                yield np.stack([left[near], right[near]], axis=1)


def expand_ranges(first: NDArray[np.int64], last: NDArray[np.int64], most: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield every ``(i, k)`` with ``first[i] <= k < last[i]``, in order, in batches of at most ``most`` pairs."""
    counts = last - first
    hit = np.flatnonzero(counts)
    ends = np.cumsum(counts[hit])
    total = int(ends[-1]) if len(hit) else 0
    for start in range(0, total, most):
        flat = np.arange(start, min(start + most, total))
        which = np.searchsorted(ends, flat, "right")
        i = hit[which]
        yield i, (last[i] - (ends[which] - flat)).astype(np.int64)


DISTANCE: Final = 6
"""Maximum Hamming distance (of 64 bits) between perceptual hashes of equal images."""
CORRELATION: Final = 0.9975
"""Minimum correlation between thumbnails of equal images."""
_LOOK: Final = 24
"""Side of a thumbnail in pixels."""
_PAIRS: Final = 1 << 14
"""Thumbnail pairs compared at once: about 80 MiB."""
_FLAT: Final = 2.0
"""Minimum standard deviation in gray levels. Images below it are blank and would all match each other."""
_SIDE: Final = 256
"""Images with more pixels are first reduced to about this size; the hash uses 32 x 32."""


@dataclass(frozen=True, slots=True)
class ImagePrint:
    """Identifying data of an image, without pixels."""

    sha256: str
    """SHA-256 of the file, hex."""
    phash: int | None
    """64 bits (ImageHash's ``phash``: lowest frequencies of a cosine transform compared with their median); None for a blank image."""
    look: bytes
    """24 x 24 gray pixels, row by row; empty for a blank image."""
    width: int
    """Pixels, as stored."""
    height: int
    """Pixels, as stored."""
    format: str
    """Pillow's format name: ``JPEG``, ``PNG`` ..."""


def _seen(image: Image.Image) -> tuple[int | None, bytes, str]:
    """Return hash, thumbnail and format of a decoded image."""
    kind = image.format or ""
    grey = _grey(ImageOps.exif_transpose(image))
    if float(np.asarray(grey).std()) < _FLAT:
        return None, b"", kind
    return _phash(grey), grey.resize((_LOOK, _LOOK), Image.Resampling.LANCZOS).tobytes(), kind


def print_images(folder: ImageFolder, names: Iterable[str]) -> Iterator[ImagePrint | str]:
    """Yield the prints of images in order, or the error message for an image that cannot be used.

    Raises:
        InputError: ImageHash is not installed.
    """
    return _print_all((folder, name) for name in names)


def print_files(paths: Iterable[Path]) -> Iterator[ImagePrint | str]:
    """Do the same for files. A link may not lead out of its folder."""
    return _print_all((ImageFolder(path.parent), path.name) for path in paths)


def _print_all(images: Iterable[tuple[ImageFolder, str]]) -> Iterator[ImagePrint | str]:
    def attempt(place: tuple[ImageFolder, str]) -> ImagePrint | str:
        folder, name = place
        try:
            image, (phash, look, kind) = folder.look_at(name, _seen)
        except ImageProblem as problem:
            return str(problem)
        return ImagePrint(image.sha256, phash, look, image.width, image.height, kind)

    with ThreadPoolExecutor(2) as pool:
        yield from pool.map(attempt, images)


def alike(prints: Sequence[ImagePrint | None], *, distance: int = DISTANCE) -> NDArray[np.int64]:
    """Group equal and nearly equal images; return for each the smallest index in its group, ``(n,)``.

    Groups are transitive: if a is near b and b near c, all three form one group. None (an unreadable image) forms its own group.
    """
    groups = UnionFind(len(prints))
    by_file: dict[str, int] = {}
    for position, taken in enumerate(prints):
        if taken is not None:
            groups.unite(by_file.setdefault(taken.sha256, position), position)
    seen = [(position, taken) for position in by_file.values() if (taken := prints[position]) is not None and taken.phash is not None]
    positions = np.array([position for position, _ in seen], np.int64)
    hashes, looks = hashes_and_looks([taken for _, taken in seen])
    for both_ways in near_matches(hashes, hashes, distance):
        pairs = both_ways[both_ways[:, 0] < both_ways[:, 1]]
        # A thousand copies give half a million pairs; skip those already in one group.
        known = groups.group_of[positions]
        fresh = pairs[known[pairs[:, 0]] != known[pairs[:, 1]]]
        for a, b in positions[look_alike(looks, looks, fresh)].tolist():
            groups.unite(a, b)
    return groups.labels()


def hashes_and_looks(prints: Sequence[ImagePrint]) -> tuple[Hashes, NDArray[np.uint8]]:
    """Return hashes, ``(n,)``, and thumbnails, ``(n, 576)``, of images that are not blank."""
    hashes = np.fromiter((taken.phash for taken in prints), np.uint64, len(prints))
    looks = np.frombuffer(b"".join(taken.look for taken in prints), np.uint8).reshape(len(prints), _LOOK * _LOOK)
    return hashes, looks


def look_alike(looks: NDArray[np.uint8], others: NDArray[np.uint8], pairs: Pairs) -> Pairs:
    """Return the ``pairs`` (indices into ``looks`` and ``others``) whose thumbnails correlate by at least :data:`CORRELATION`."""
    kept = []
    for start in range(0, len(pairs), _PAIRS):
        some = pairs[start : start + _PAIRS]
        one, other = _standard(looks[some[:, 0]]), _standard(others[some[:, 1]])
        kept.append(some[np.einsum("ij,ij->i", one, other) >= CORRELATION])
    return np.concatenate(kept) if kept else pairs[:0]


def _standard(looks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Normalize rows to mean 0 and length 1, so that inner products are correlations, independent of brightness and contrast."""
    plain = looks.astype(np.float32)
    plain -= plain.mean(axis=1, keepdims=True)
    plain /= np.maximum(np.linalg.norm(plain, axis=1, keepdims=True), 1e-6)
    return plain


def _phash(grey: Image.Image) -> int:
    try:
        import imagehash
    except ModuleNotFoundError as error:
        raise InputError(f"comparing images needs the package '{error.name}': {install_command('data')}") from error
    bits = np.asarray(imagehash.phash(grey).hash, dtype=bool).ravel()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def _grey(image: Image.Image) -> Image.Image:
    """Convert to 8-bit gray of limited size. Transparency becomes black, as in medical image viewers."""
    if image.mode in {"I", "F"} or image.mode.startswith("I;16"):
        # 12 or 16 bits per pixel: scale the used range, because plain conversion would clip it to white.
        wide = np.nan_to_num(np.asarray(image, dtype=np.float64))
        low, high = float(wide.min()), float(wide.max())
        image = Image.fromarray(((wide - low) * (255.0 / (high - low or 1.0))).astype(np.uint8))
    elif image.mode in {"LA", "PA", "RGBA"} or "transparency" in image.info:
        layered = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layered.size, "black"), layered)
    grey = image.convert("L")
    if max(grey.size) > 2 * _SIDE:
        grey = grey.reduce(max(grey.size) // _SIDE)
    return grey
