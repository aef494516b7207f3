"""An image's print: its SHA-256, a perceptual hash and a small look, which a copy in another size, format, quality or brightness keeps.

The hash proposes, the look decides. By the hash alone two chests, or two phantoms, of different people are often the same: among drawn
cases one pair in a hundred lay within four bits of 64, while no two such looks correlated by more than .9966, and no copy by less
than .998. A copy that is cropped, even by two pixels in a hundred, or mirrored, is not found.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from chiron.cases.images import ImageFolder, ImageProblem
from chiron.dedup.linking import Hashes, Pairs, UnionFind, near_pairs
from chiron.errors import InputError

DISTANCE: Final = 6
"""Bits of 64 in which the perceptual hashes of two images that count as the same may differ."""
CORRELATION: Final = 0.9975
"""Of two looks that count as the same, at least."""
_LOOK: Final = 24
"""Pixels: a look's sides."""
_PAIRS: Final = 1 << 14
"""Pairs of looks compared at once: some 80 MiB."""
_FLAT: Final = 2.0
"""Grey levels: an image whose standard deviation is lower shows nothing, and all such images would look the same."""
_SIDE: Final = 256
"""Pixels: a larger image is first reduced to about this; the hash looks at 32 x 32."""


@dataclass(frozen=True, slots=True)
class ImagePrint:
    """What an image is known by. Holds no pixels."""

    sha256: str
    """Of the file, hex."""
    phash: int | None
    """64 bits (ImageHash's ``phash``: the lowest frequencies of a cosine transform against their median); ``None`` of a blank image."""
    look: bytes
    """The image in 24 x 24 grey pixels, row by row; empty of a blank image."""
    width: int
    """Pixels, as stored."""
    height: int
    """Pixels, likewise."""
    format: str
    """As Pillow names it: ``JPEG``, ``PNG`` ..."""


def print_image(folder: ImageFolder, name: str) -> ImagePrint:
    """Take the print of an image.

    Raises:
        ImageProblem: it cannot be used; says why.
        InputError: ImageHash is not installed.
    """
    image, (phash, look, kind) = folder.look_at(name, _seen)
    return ImagePrint(image.sha256, phash, look, image.width, image.height, kind)


def _seen(image: Image.Image) -> tuple[int | None, bytes, str]:
    """Hash, look and format of a decoded image."""
    kind = image.format or ""
    grey = _grey(ImageOps.exif_transpose(image))
    if float(np.asarray(grey).std()) < _FLAT:
        return None, b"", kind
    return _phash(grey), grey.resize((_LOOK, _LOOK), Image.Resampling.LANCZOS).tobytes(), kind


def print_images(folder: ImageFolder, names: Sequence[str], *, threads: int = 2) -> Iterator[ImagePrint | str]:
    """The prints of many images in order; in the place of one that cannot be used, why.

    Raises:
        InputError: ImageHash is not installed.
    """

    def attempt(name: str) -> ImagePrint | str:
        try:
            return print_image(folder, name)
        except ImageProblem as problem:
            return str(problem)

    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(attempt, names)


def alike(prints: Sequence[ImagePrint | None], *, distance: int = DISTANCE) -> NDArray[np.int64]:
    """Groups of images that are the same or nearly so: for each the smallest position in its group, ``(n,)``.

    Nearness is carried on: if a is near b and b near c, all three are one group. ``None`` (an image that nobody can open) is alone.
    """
    groups = UnionFind(len(prints))
    by_file: dict[str, int] = {}
    for position, taken in enumerate(prints):
        if taken is not None:
            groups.unite(by_file.setdefault(taken.sha256, position), position)
    seen = [(position, taken) for position in by_file.values() if (taken := prints[position]) is not None and taken.phash is not None]
    positions = [position for position, _ in seen]
    known = np.arange(len(positions))
    hashes, looks = hashes_and_looks([taken for _, taken in seen])
    for pairs in near_pairs(hashes, distance):
        # A thousand copies make half a million pairs, nearly all of them within a group that is known by then.
        fresh = pairs[known[pairs[:, 0]] != known[pairs[:, 1]]]
        near = look_alike(looks, looks, fresh)
        for a, b in near.tolist():
            groups.unite(positions[a], positions[b])
        if len(near):
            known = np.array([groups.find(position) for position in positions])
    return groups.labels()


def hashes_and_looks(prints: Sequence[ImagePrint]) -> tuple[Hashes, NDArray[np.uint8]]:
    """Of images that are not blank: their hashes, ``(n,)``, and their looks, ``(n, 576)``."""
    hashes = np.fromiter((taken.phash for taken in prints), np.uint64, len(prints))
    looks = np.frombuffer(b"".join(taken.look for taken in prints), np.uint8).reshape(len(prints), _LOOK * _LOOK)
    return hashes, looks


def look_alike(looks: NDArray[np.uint8], others: NDArray[np.uint8], pairs: Pairs) -> Pairs:
    """Of ``pairs``, positions in ``looks`` and in ``others``, those whose looks correlate by at least :data:`CORRELATION`."""
    kept = []
    for start in range(0, len(pairs), _PAIRS):
        some = pairs[start : start + _PAIRS]
        one, other = _standard(looks[some[:, 0]]), _standard(others[some[:, 1]])
        kept.append(some[np.einsum("ij,ij->i", one, other) >= CORRELATION])
    return np.concatenate(kept) if kept else pairs[:0]


def _standard(looks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Rows of mean 0 and length 1, so that brightness and contrast play no part and the inner product is the correlation."""
    plain = looks.astype(np.float32)
    plain -= plain.mean(axis=1, keepdims=True)
    plain /= np.maximum(np.linalg.norm(plain, axis=1, keepdims=True), 1e-6)
    return plain


def _phash(grey: Image.Image) -> int:
    try:
        import imagehash
    except ModuleNotFoundError as error:
        raise InputError(f"comparing images needs the package '{error.name}': pip install 'chiron-med[data]'") from error
    bits = np.asarray(imagehash.phash(grey).hash, dtype=bool).ravel()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def _grey(image: Image.Image) -> Image.Image:
    """8-bit grey, no larger than needed; transparency lies on black, as viewers of medical images show it."""
    if image.mode in {"I", "F"} or image.mode.startswith("I;16"):
        # 12 or 16 bits a pixel: stretched over what the image uses, because plain conversion would clip it to white.
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
