"""An image's print: its SHA-256, and a perceptual hash that a copy in another size, format or quality keeps."""

import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from chiron.cases.images import FORMATS, ImageFolder, ImageProblem
from chiron.cases.likeness.groups import Groups
from chiron.cases.likeness.hamming import Hashes, near_pairs
from chiron.errors import InputError

DISTANCE: Final = 4
"""Bits of 64 in which the perceptual hashes of two images that count as the same may differ."""
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
    image = folder.check(name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata, which plays no part here
            with Image.open(image.path, formats=FORMATS) as opened:
                kind = opened.format or ""
                opened.draft("L", (2 * _SIDE, 2 * _SIDE))  # lets a large JPEG be decoded at a fraction of its size
                grey = _grey(ImageOps.exif_transpose(opened))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        # It was whole a moment ago, so it changed, or its metadata lie.
        raise ImageProblem(f"image '{name}' cannot be decoded: {error}") from error
    return ImagePrint(image.sha256, _phash(grey), image.width, image.height, kind)


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
    groups = Groups(len(prints))
    by_file: dict[str, int] = {}
    by_hash: dict[int, int] = {}
    for position, taken in enumerate(prints):
        if taken is None:
            continue
        groups.unite(by_file.setdefault(taken.sha256, position), position)
        if taken.phash is not None:
            groups.unite(by_hash.setdefault(taken.phash, position), position)
    hashes: Hashes = np.fromiter(by_hash, np.uint64, len(by_hash))
    positions = list(by_hash.values())
    known = np.arange(len(positions))
    for pairs in near_pairs(hashes, distance):
        # A thousand images of one kind make half a million pairs, nearly all of them within a group that is known by then.
        fresh = pairs[known[pairs[:, 0]] != known[pairs[:, 1]]]
        for a, b in fresh.tolist():
            groups.unite(positions[a], positions[b])
        if len(fresh):
            known = np.array([groups.find(position) for position in positions])
    return groups.labels()


def _phash(grey: Image.Image) -> int | None:
    try:
        import imagehash
    except ModuleNotFoundError as error:
        raise InputError(f"comparing images needs the package '{error.name}': pip install 'chiron-med[data]'") from error
    if float(np.asarray(grey).std()) < _FLAT:
        return None
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
