"""Find, validate and hash the images of cases. Only files inside the image folder are accessible."""

import hashlib
import io
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol, TypeVar

from PIL import Image, UnidentifiedImageError

from chiron.cases.reader import need_some_cases
from chiron.errors import InputError

MAX_PIXELS = 64_000_000
"""Larger images are rejected: 30,000 x 30,000 pixels would need gigabytes once decoded."""
MAX_BYTES = 64 * 1024 * 1024
"""Larger files are rejected without reading them."""
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")

Seen = TypeVar("Seen")
Keep = Callable[[str, bytes, Image.Image], object]
"""Receives the SHA-256 (hex), the bytes and the image of a checked file, so that a call need not read the file again."""


class ImageProblem(ValueError):
    """An image of a case cannot be used; the message says which one, why, and how to fix it."""


@dataclass(frozen=True, slots=True)
class ImageFile:
    """Validated image file, without pixels."""

    name: str
    """Path as given in the case."""
    path: Path
    """Resolved path."""
    sha256: str
    """SHA-256 of the file's bytes, hex."""
    width: int
    """Pixels, as stored, before any EXIF rotation."""
    height: int
    """Pixels, as stored."""


class CheckImage(Protocol):
    """Find and check an image by its name, as :meth:`ImageFolder.check` does."""

    def __call__(self, name: str, keep: Keep | None = None) -> ImageFile: ...


class ImageFolder:
    """Image folder of a file of cases. Files outside it are not accessible."""

    def __init__(self, root: Path) -> None:
        """Restrict access to ``root``. It need not exist until an image is requested."""
        self.root = root
        self._fence = Path(os.path.realpath(root))

    def check(self, name: str, keep: Keep | None = None) -> ImageFile:
        """Find, read and check an image, so that a broken one fails here and not at the endpoint.

        It is decoded fully, unless ``keep`` is given and the file is a PNG with valid checksums: its pixels are then not needed.

        Raises:
            ImageProblem: outside the folder, missing, empty, truncated, too large, or not an image.
        """
        return self._look_at(name, keep if keep is not None else lambda *_: None, pixels=keep is None)[0]

    def look_at(self, name: str, look: Callable[[Image.Image], Seen]) -> tuple[ImageFile, Seen]:
        """Do the same as :meth:`check` and return the result of ``look`` on the decoded image, so that it is decoded once.

        Exceptions from ``look`` become an :class:`ImageProblem`, except :class:`~chiron.errors.InputError`.

        Raises:
            ImageProblem: as in :meth:`check`.
        """
        return self._look_at(name, lambda _sha256, _data, image: look(image))

    def _look_at(self, name: str, look: Callable[[str, bytes, Image.Image], Seen], *, pixels: bool = True) -> tuple[ImageFile, Seen]:
        path = self._inside(name)
        data = _read(path, name)
        sha256 = hashlib.sha256(data).hexdigest()
        width, height, seen = _decode(data, name, lambda image: look(sha256, data, image), pixels=pixels)
        return ImageFile(name, path, sha256, width, height), seen

    def _inside(self, name: str) -> Path:
        if "\x00" in name:
            raise ImageProblem("image path contains a NUL character")
        pure = PurePosixPath(name)
        if "\\" in name:
            raise ImageProblem(f"image '{name}' has a backslash in its path: write '/' between folders")
        if pure.is_absolute() or Path(name).is_absolute() or ".." in pure.parts:
            raise ImageProblem(f"image '{name}' leaves the image folder: give a path relative to {self.root}")
        path = self._fence.joinpath(*pure.parts)
        # Resolving a path looks at each of its folders. Without a link below the fence, it stays as it is.
        below = [path, *path.parents][: len(pure.parts)]
        if any(os.path.islink(part) for part in below):  # noqa: PTH114 - a name may be too long, which Path raises
            path = Path(os.path.realpath(path))
        if not path.is_relative_to(self._fence):
            raise ImageProblem(f"image '{name}' is a link out of the image folder {self.root}: copy the file into it")
        return path


def check_bytes(data: bytes, name: str) -> str:
    """Validate an in-memory image as :meth:`ImageFolder.check` does; return its format, such as ``PNG``.

    Args:
        data: encoded image.
        name: name of the image for error messages.

    Raises:
        ImageProblem: empty, truncated, too large, or not an image.
    """
    if not data:
        raise ImageProblem(f"image '{name}' is empty (0 bytes)")
    _fits(len(data), name)
    return _decode(data, name, lambda image: str(image.format))[2]


def default_image_root(cases: Path) -> Path:
    """Return the default image folder: ``images/`` next to the file of cases."""
    return cases.parent / "images"


def image_folder(cases: Path, images: Path | None) -> ImageFolder:
    """Return the image folder of a file of cases: ``images`` if given, else ``images/`` next to the file.

    Raises:
        InputError: the file or the folder does not exist, or the file is empty.
    """
    need_some_cases(cases)
    root = images if images is not None else default_image_root(cases)
    if not os.path.isdir(root):
        raise InputError(f"image folder {root} does not exist or cannot be reached: name the right one with --images DIR")
    return ImageFolder(root)


def _read(path: Path, name: str) -> bytes:
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise ImageProblem(f"image '{name}' is not a file")
        if size == 0:
            raise ImageProblem(f"image '{name}' is empty (0 bytes)")
        _fits(size, name)
        return path.read_bytes()
    except FileNotFoundError:
        raise ImageProblem(f"image '{name}' is missing: no file {path}") from None
    except OSError as error:
        raise ImageProblem(f"image '{name}' cannot be read: {error.strerror}") from error


def _has_valid_checksums(png: bytes) -> bool:
    """Return whether every chunk of a PNG, up to the last one, has the right checksum. This takes an eighth of the time of decoding it."""
    try:
        with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
            image.verify()
    except (OSError, SyntaxError, ValueError, IndexError):
        return False  # decoding says what is wrong, and accepts what viewers accept
    return True


def _fits(size: int, name: str) -> None:
    if size > MAX_BYTES:
        raise ImageProblem(f"image '{name}' has {size / 2**20:.0f} MiB, more than {MAX_BYTES // 2**20}: shrink it")


def _decode(data: bytes, name: str, look: Callable[[Image.Image], Seen], *, pixels: bool = True) -> tuple[int, int, Seen]:
    """Return width, height and the result of ``look``.

    ``pixels``: decode the image first, also if its checksums already show that it is not damaged.
    """
    try:
        # Pillow warns about large images, which are checked below, and about odd metadata, which is harmless.
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height <= MAX_PIXELS:
                if pixels or not (image.format == "PNG" and _has_valid_checksums(data)):
                    image.load()
                return width, height, look(image)
    except Image.DecompressionBombError:
        raise ImageProblem(f"image '{name}' has more than {MAX_PIXELS // 10**6} megapixels: shrink it") from None
    except UnidentifiedImageError:
        raise ImageProblem(f"image '{name}' is not an image of a known kind ({', '.join(FORMATS)})") from None
    except (ImageProblem, InputError):
        raise
    except Exception as error:
        # Image decoders raise many exception types on malformed files.
        raise ImageProblem(f"image '{name}' is truncated or damaged: {' '.join(str(error).split())}") from error
    raise ImageProblem(f"image '{name}' is {width} x {height}, more than {MAX_PIXELS // 10**6} megapixels: shrink it")
