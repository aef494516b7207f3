"""Images of cases: found inside their fence, checked before anything is paid for, and known by their SHA-256."""

import hashlib
import io
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

from PIL import Image, UnidentifiedImageError

from chiron.cases.reader import need_cases
from chiron.errors import InputError

MAX_PIXELS = 64_000_000
"""Larger images are refused: a 30,000 x 30,000 picture would need gigabytes once decoded."""
MAX_BYTES = 64 * 1024 * 1024
"""Larger files are refused unread."""
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")

Seen = TypeVar("Seen")


class ImageProblem(ValueError):
    """One image of one case cannot be used; the message says which, why, and how to mend it."""


@dataclass(frozen=True, slots=True)
class ImageFile:
    """A checked image. Holds no pixels."""

    name: str
    """The path as the case gives it."""
    path: Path
    """Where it is."""
    sha256: str
    """Of the file's bytes, hex."""
    width: int
    """Pixels, as stored: EXIF data may say that it is shown on its side."""
    height: int
    """Pixels, likewise."""


class ImageFolder:
    """The folder that a file of cases takes its images from; nothing outside it can be reached."""

    def __init__(self, root: Path) -> None:
        """Fence off ``root``. It need not exist until an image is asked for."""
        self.root = root
        self._fence = Path(os.path.realpath(root))

    def check(self, name: str) -> ImageFile:
        """Find, read and decode an image whole, so that a broken one is found now and not at the endpoint.

        Raises:
            ImageProblem: outside the folder, missing, empty, truncated, too large, or not an image.
        """
        return self.look_at(name, lambda _: None)[0]

    def look_at(self, name: str, look: Callable[[Image.Image], Seen]) -> tuple[ImageFile, Seen]:
        """The same, and what ``look`` makes of the decoded image, so that nobody decodes it twice.

        What ``look`` raises is the image's fault, unless it is an :class:`~chiron.errors.InputError`.

        Raises:
            ImageProblem: as :meth:`check`.
        """
        path = self._inside(name)
        data = _read(path, name)
        width, height, seen = _decode(io.BytesIO(data), name, look)
        return ImageFile(name, path, hashlib.sha256(data).hexdigest(), width, height), seen

    def _inside(self, name: str) -> Path:
        if "\x00" in name:
            raise ImageProblem("image path holds a NUL character")
        pure = PurePosixPath(name)
        if "\\" in name:
            raise ImageProblem(f"image '{name}' has a backslash in its path: write '/' between folders")
        if pure.is_absolute() or Path(name).is_absolute() or ".." in pure.parts:
            raise ImageProblem(f"image '{name}' leaves the image folder: give a path relative to {self.root}")
        path = Path(os.path.realpath(self._fence / name))
        if not path.is_relative_to(self._fence):
            raise ImageProblem(f"image '{name}' is a link out of the image folder {self.root}: copy the file into it")
        return path


def check_bytes(data: bytes, name: str) -> str:
    """Decode an image that stands in memory whole, as :meth:`ImageFolder.check` does one in a file; its format, such as ``PNG``.

    Raises:
        ImageProblem: empty, truncated, too large, or not an image. ``name`` is what the message calls it.
    """
    if not data:
        raise ImageProblem(f"image '{name}' is empty (0 bytes)")
    _fits(len(data), name)
    return _decode(io.BytesIO(data), name, lambda image: str(image.format))[2]


def default_image_root(cases: Path) -> Path:
    """``images/`` beside a file of cases."""
    return cases.parent / "images"


def image_folder(cases: Path, images: Path | None) -> ImageFolder:
    """The image folder of a file of cases: the one named, else ``images/`` beside the file.

    Raises:
        InputError: the file or the folder does not exist.
    """
    need_cases(cases)
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


def _fits(size: int, name: str) -> None:
    if size > MAX_BYTES:
        raise ImageProblem(f"image '{name}' has {size / 2**20:.0f} MiB, more than {MAX_BYTES // 2**20}: shrink it")


def _decode(file: io.BytesIO, name: str, look: Callable[[Image.Image], Seen]) -> tuple[int, int, Seen]:
    try:
        with warnings.catch_warnings():
            # Pillow warns of large images and odd metadata; the first is checked below, the second harms nothing.
            warnings.simplefilter("ignore")
            with Image.open(file, formats=FORMATS) as image:
                width, height = image.size
                if width * height <= MAX_PIXELS:
                    image.load()
                    return width, height, look(image)
    except Image.DecompressionBombError:
        raise ImageProblem(f"image '{name}' has more than {MAX_PIXELS // 10**6} megapixels: shrink it") from None
    except UnidentifiedImageError:
        raise ImageProblem(f"image '{name}' is not an image of a known kind ({', '.join(FORMATS)})") from None
    except (ImageProblem, InputError):
        raise
    except Exception as error:
        # Readers of image formats fail in every way there is, on files made to that end and on others.
        raise ImageProblem(f"image '{name}' is truncated or damaged: {' '.join(str(error).split())}") from error
    raise ImageProblem(f"image '{name}' is {width} x {height}, more than {MAX_PIXELS // 10**6} megapixels: shrink it")
