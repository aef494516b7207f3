"""Images as models take them, no larger than agreed: JPEG or PNG, base64 in a data URL, or pixels for a model in this process."""

import base64
import hashlib
import io
import struct
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
from PIL import Image

from chiron.client.call import ImagePart
from chiron.client.failures import CallerFault

_PLAIN_MODES = {"L", "RGB", "RGBA", "P", "LA", "1"}
_MEDIA = {"JPEG": "image/jpeg", "PNG": "image/png"}
HELD_BYTES = 512 * 2**20
"""The most that the images of cases at work may take in memory; 256 cases of two images of 1536 pixels need about 200 MiB."""
CACHED_BYTES = 32 * 2**20
"""The most that images which nobody holds may take."""
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What sets an image upright, by its EXIF orientation."""
_SIDEWAYS = (5, 6, 7, 8)
"""Orientations by which width and height change places."""
_PNG_NOTES = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")
"""One of these stands in every PNG that says how it is to be turned."""


@dataclass
class _Held:
    """An image that cases at work need."""

    count: int
    """How many of them."""
    url: bytes | None
    """``None`` where there was no room for it: it is then encoded when it is asked for, like any other."""


class PictureStore:
    """Knows where the image behind a hash lies, and keeps it encoded while a case is at work: it asks for it ninety times."""

    def __init__(self, *, held_bytes: int = HELD_BYTES, cache_bytes: int = CACHED_BYTES) -> None:
        """``held_bytes``: for encoded images that are held; ``cache_bytes``: for those that nobody holds, or that found no room."""
        self._paths: dict[str, Path] = {}
        self._held: dict[ImagePart, _Held] = {}
        self._held_now, self._held_bytes = 0, held_bytes
        self._cache: OrderedDict[ImagePart, bytes] = OrderedDict()
        self._cached, self._cache_bytes = 0, cache_bytes
        self._lock = Lock()

    @property
    def bytes_in_memory(self) -> int:
        """What the encoded images take."""
        return self._held_now + self._cached

    def add(self, sha256: str, path: Path) -> None:
        """Remember where an image lies."""
        self._paths[sha256] = path

    def hold(self, pictures: Sequence[ImagePart]) -> None:
        """Encode images now, and keep them until :meth:`release`; meant for a thread beside the event loop.

        All or none: where one cannot be read, none of them is held.

        Raises:
            CallerFault: a file is gone, changed, or no longer readable.
        """
        for number, picture in enumerate(pictures):
            try:
                self._hold(picture)
            except BaseException:
                self.release(pictures[:number])
                raise

    def _hold(self, picture: ImagePart) -> None:
        with self._lock:
            held = self._held.get(picture)
            if held is not None:
                held.count += 1
                return
        url = encode_data_url(self.path(picture.sha256), picture.max_side, sha256=picture.sha256)
        with self._lock:
            held = self._held.setdefault(picture, _Held(0, None))
            held.count += 1
            if held.url is not None:
                return
            if self._held_now + len(url) <= self._held_bytes:
                held.url = url
                self._held_now += len(url)
            else:
                self._remember(picture, url)

    def release(self, pictures: Sequence[ImagePart]) -> None:
        """Let go of what :meth:`hold` kept."""
        with self._lock:
            for picture in pictures:
                held = self._held.get(picture)
                if held is None:
                    continue
                held.count -= 1
                if held.count == 0:
                    del self._held[picture]
                    self._held_now -= len(held.url or b"")

    def path(self, sha256: str) -> Path:
        """Where the image lies.

        Raises:
            CallerFault: nobody added it.
        """
        try:
            return self._paths[sha256]
        except KeyError:
            raise CallerFault(f"no image of SHA-256 {sha256[:12]}... was added to this run") from None

    def ready(self, picture: ImagePart) -> bytes | None:
        """The image as a ``data:`` URL, ASCII, if it is held or was encoded lately."""
        with self._lock:
            held = self._held.get(picture)
            if held is not None and held.url is not None:
                return held.url
            if picture in self._cache:
                self._cache.move_to_end(picture)
            return self._cache.get(picture)

    def data_url(self, picture: ImagePart) -> bytes:
        """The image as a ``data:`` URL, ASCII; meant for a thread beside the event loop.

        Raises:
            CallerFault: the file is gone, changed, or no longer readable.
        """
        if (ready := self.ready(picture)) is not None:
            return ready
        url = encode_data_url(self.path(picture.sha256), picture.max_side, sha256=picture.sha256)
        with self._lock:
            self._remember(picture, url)
        return url

    def image(self, picture: ImagePart) -> Image.Image:
        """The image's pixels: upright, eight bits a channel, no side longer than the picture's ``max_side``; decoded anew every time.

        Raises:
            CallerFault: the file is gone, changed, or no longer readable.
        """
        path = self.path(picture.sha256)
        with _reading(path):
            data = _unchanged(path, picture.sha256)
            with Image.open(io.BytesIO(data)) as image:
                return _shown(image, picture.max_side)

    def _remember(self, picture: ImagePart, url: bytes) -> None:
        """Put an image into the cache, and the longest unused out of it. To be called with the lock."""
        self._cached += len(url) - len(self._cache.pop(picture, b""))
        self._cache[picture] = url
        while self._cached > self._cache_bytes and len(self._cache) > 1:
            _, dropped = self._cache.popitem(last=False)
            self._cached -= len(dropped)


def encode_data_url(path: Path, max_side: int, *, sha256: str | None = None) -> bytes:
    """The image at ``path``, no side longer than ``max_side`` pixels, as a ``data:`` URL.

    A JPEG or PNG that fits and stands upright is sent as it is; anything else becomes a PNG (or a JPEG, if it was one), 16-bit greys
    scaled to 8. An EXIF orientation is carried out, since endpoints differ in whether they heed it.

    Raises:
        CallerFault: the file is gone, no longer readable, or not the one of hash ``sha256``.
    """
    with _reading(path):
        data = _unchanged(path, sha256)
        with Image.open(io.BytesIO(data)) as image:
            kind = image.format or "PNG"
            fits = kind in _MEDIA and image.mode in _PLAIN_MODES and max(image.size) <= max_side
            if fits and _noted(image, data) not in _UPRIGHT:
                return _url(data, _MEDIA[kind])
            plain = _shown(image, max_side)
            out = io.BytesIO()
            target = "JPEG" if kind == "JPEG" else "PNG"
            plain.save(out, target, quality=92) if target == "JPEG" else plain.save(out, target)
            return _url(out.getvalue(), _MEDIA[target])


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """What can go wrong with a file becomes the fault of the call that shows it; Pillow's warnings were given when it was checked."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise CallerFault(f"image {path.name} can no longer be read: {error}") from error


def _unchanged(path: Path, sha256: str | None) -> bytes:
    """The file, if it is still the one of this hash."""
    data = path.read_bytes()
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        raise CallerFault(f"image {path.name} was changed since it was checked: run the same command again")
    return data


def upright(image: Image.Image) -> Image.Image:
    """A copy as models see it, in training and in search: in eight bits a channel, turned as its EXIF orientation says.

    Open a file's bytes, not its path: Pillow (13.0) garbles an uncompressed TIFF that lies on its side where it maps the file to memory.
    """
    plain = eight_bit(image)
    turn = _UPRIGHT.get(_orientation(image))  # now that it is decoded: Pillow sets a TIFF upright by itself
    return plain if turn is None else plain.transpose(turn)


def upright_size(path: Path) -> tuple[int, int]:
    """Width and height in pixels that :func:`upright` gives an image, from its header where that says it.

    Raises:
        OSError: the file cannot be read, or is no image.
    """
    data = path.read_bytes()
    with Image.open(io.BytesIO(data)) as image:
        width, height = image.size
        if image.format != "TIFF" and _noted(image, data) in _SIDEWAYS:  # a TIFF's size is given as shown
            return height, width
        return width, height


def _shown(image: Image.Image, max_side: int) -> Image.Image:
    """A copy as models see it, no side too long."""
    plain = upright(image)
    plain.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    return plain


def eight_bit(image: Image.Image) -> Image.Image:
    """A copy of the image in eight bits a channel (L, LA, RGB or RGBA): wide greys are stretched to the whole range, palettes resolved."""
    if is_wide(image):
        # Scanners write 12 or 16 bits into 16; Pillow's own conversion would clip them all to white.
        grey = np.nan_to_num(np.asarray(image, dtype=np.float64))
        low, high = float(grey.min()), float(grey.max())
        return Image.fromarray(((grey - low) * (255.0 / (high - low or 1.0))).astype(np.uint8))
    if image.mode in _PLAIN_MODES - {"P", "1"}:
        return image.copy()
    return image.convert("RGBA" if "transparency" in image.info else "RGB")


def is_wide(image: Image.Image) -> bool:
    """Whether its greys have more than eight bits."""
    return image.mode in {"I", "F"} or image.mode.startswith("I;16")


def _orientation(image: Image.Image) -> int:
    """What the image's notes say of how it lies; 1, and any number that means nothing, for upright."""
    try:
        noted = image.getexif().get(_ORIENTATION, 1)
    except (OSError, ValueError, TypeError, KeyError, SyntaxError, struct.error):
        return 1  # notes on an image that nobody can read do not turn it: every viewer shows it as it lies
    return noted if isinstance(noted, int) else 1


def _noted(image: Image.Image, data: bytes) -> int:
    """:func:`_orientation` of an image that may not be decoded yet, of which ``data`` is the file."""
    # A PNG's notes may stand behind its pixels: to ask Pillow for them is to decode it.
    return 1 if image.format == "PNG" and not any(note in data for note in _PNG_NOTES) else _orientation(image)


def _url(data: bytes, media: str) -> bytes:
    return b"data:" + media.encode() + b";base64," + base64.b64encode(data)
