"""Encode images for models: JPEG or PNG as a base64 data URL, or pixels for a local model. No side exceeds the configured maximum."""

import base64
import hashlib
import io
import struct
import warnings
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from PIL import Image

from chiron.client.call import ImagePart
from chiron.client.failures import CallerFault

_PLAIN_MODES = {"L", "RGB", "RGBA", "P", "LA", "1"}
_MEDIA = {"JPEG": "image/jpeg", "PNG": "image/png"}
HELD_BYTES = 512 * 2**20
"""Maximum memory for images of cases in progress. 256 cases with two images of 1536 pixels need about 200 MiB."""
CACHED_BYTES = 32 * 2**20
"""Maximum memory for cached images that no case holds."""
CHECKED_BYTES = 64 * 2**20
"""Maximum memory for files that were checked and not sent yet. 256 items with an image of 250 KB each need it all."""
_AT_ONCE = 256 * 2**10
"""Files up to this size (bytes) are encoded in the event loop, which takes as long as handing the work to a thread: 0.1 to 0.3 ms."""
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
"""Transposition that turns an image upright, by EXIF orientation."""
_SIDEWAYS = (5, 6, 7, 8)
"""Orientations that swap width and height."""
_PNG_NOTES = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")
"""A PNG with an orientation contains at least one of these."""


@dataclass(frozen=True, slots=True)
class _CheckedFile:
    """A file that was checked for damage."""

    data: bytes
    media: str | None
    """Media type if it can be sent unchanged."""
    side: int
    """Longest side in pixels."""

    def url(self, max_side: int) -> bytes | None:
        """Return the file as a ``data:`` URL if it can be sent unchanged, else ``None``."""
        return _url(self.data, self.media) if self.media is not None and self.side <= max_side else None


class PictureStore:
    """Locate images by hash, and keep them encoded while a case is in progress.

    One case requests an image about ninety times. Methods raise ``CallerFault`` if a file was not added, is missing or changed, or is no
    longer readable.
    """

    def __init__(self, *, held_bytes: int = HELD_BYTES, cache_bytes: int = CACHED_BYTES, checked_bytes: int = CHECKED_BYTES) -> None:
        """Set the limits in bytes: of encoded images that are held, of all other encoded ones, and of checked files not sent yet."""
        self._paths: dict[str, Path] = {}
        self._holders: Counter[ImagePart] = Counter()
        self._held: dict[ImagePart, bytes] = {}
        """Encoded images of the cases in progress, as far as there is room; the others are encoded on request."""
        self._held_now, self._held_bytes = 0, held_bytes
        self._cache: OrderedDict[ImagePart, bytes] = OrderedDict()
        self._cached, self._cache_bytes = 0, cache_bytes
        self._checked: OrderedDict[str, _CheckedFile] = OrderedDict()
        self._checked_now, self._checked_bytes = 0, checked_bytes
        self._lock = Lock()

    def add(self, sha256: str, path: Path) -> None:
        """Register the path of an image."""
        self._paths[sha256] = path

    def keep(self, sha256: str, data: bytes, image: Image.Image) -> None:
        """Keep a file that was just checked until its call is sent, so that it is read once. The oldest files make room for new ones.

        ``image``: the opened file; its pixels need not be decoded.
        """
        checked = _CheckedFile(data, _sent_unchanged(image, _noted(image, data)), max(image.size))
        with self._lock:
            self._forget(sha256)
            self._checked[sha256] = checked
            self._checked_now += len(data)
            while self._checked_now > self._checked_bytes:
                self._forget(next(iter(self._checked)))

    def _forget(self, sha256: str) -> None:
        """Drop a checked file. The caller must hold the lock."""
        if (checked := self._checked.pop(sha256, None)) is not None:
            self._checked_now -= len(checked.data)

    def hold(self, pictures: Sequence[ImagePart]) -> None:
        """Encode images now and keep them until :meth:`release`. Call it in a worker thread, not in the event loop.

        If one image cannot be read, none is held.
        """
        for number, picture in enumerate(pictures):
            try:
                self._hold(picture)
            except BaseException:
                self.release(pictures[:number])
                raise

    def _hold(self, picture: ImagePart) -> None:
        with self._lock:
            if picture in self._holders:
                self._holders[picture] += 1
                return
        url = self._encode(picture)
        with self._lock:
            self._holders[picture] += 1
            if picture in self._held:
                return
            if self._held_now + len(url) <= self._held_bytes:
                self._held[picture] = url
                self._held_now += len(url)
            else:
                self._remember(picture, url)

    def release(self, pictures: Sequence[ImagePart]) -> None:
        """Release images kept by :meth:`hold`."""
        with self._lock:
            for picture in pictures:
                if picture not in self._holders:
                    continue
                self._holders[picture] -= 1
                if not self._holders[picture]:
                    del self._holders[picture]
                    self._held_now -= len(self._held.pop(picture, b""))

    def path(self, sha256: str) -> Path:
        """Return the path of an image."""
        try:
            return self._paths[sha256]
        except KeyError:
            raise CallerFault(f"no image of SHA-256 {sha256[:12]}... was added to this run") from None

    def ready(self, picture: ImagePart) -> bytes | None:
        """Return the image as an ASCII ``data:`` URL if it is held, cached, or a small file that was just checked."""
        with self._lock:
            if picture in self._held:
                return self._held[picture]
            if picture in self._cache:
                self._cache.move_to_end(picture)
                return self._cache[picture]
            checked = self._checked.get(picture.sha256)
            url = None if checked is None or len(checked.data) > _AT_ONCE else checked.url(picture.max_side)
            if url is not None:
                self._remember(picture, url)
            return url

    def data_url(self, picture: ImagePart) -> bytes:
        """Return the image as an ASCII ``data:`` URL. Call it in a worker thread, not in the event loop."""
        if (ready := self.ready(picture)) is not None:
            return ready
        url = self._encode(picture)
        with self._lock:
            self._remember(picture, url)
        return url

    def _encode(self, picture: ImagePart) -> bytes:
        with self._lock:
            checked = self._checked.get(picture.sha256)
        path = self.path(picture.sha256)
        if checked is None:
            return encode_data_url(path, picture.max_side, sha256=picture.sha256)
        with _reading(path):
            return checked.url(picture.max_side) or _encoded(checked.data, picture.max_side)

    def image(self, picture: ImagePart) -> Image.Image:
        """Decode an image: upright, eight bits per channel, no side longer than the picture's ``max_side``. The result is not cached."""
        path = self.path(picture.sha256)
        with _reading(path):
            data = _unchanged(path, picture.sha256)
            with Image.open(io.BytesIO(data)) as image:
                return _shown(image, picture.max_side)

    def _remember(self, picture: ImagePart, url: bytes) -> None:
        """Cache an image and evict the least recently used ones. The caller must hold the lock."""
        self._forget(picture.sha256)
        self._cached += len(url) - len(self._cache.pop(picture, b""))
        self._cache[picture] = url
        while self._cached > self._cache_bytes and len(self._cache) > 1:
            _, dropped = self._cache.popitem(last=False)
            self._cached -= len(dropped)


def encode_data_url(path: Path, max_side: int, *, sha256: str | None = None) -> bytes:
    """Encode the image at ``path`` as a ``data:`` URL, no side longer than ``max_side`` pixels.

    An upright JPEG or PNG that fits is sent unchanged. Other images become a PNG (or stay JPEG), and 16-bit grays are scaled to 8 bits. An
    EXIF orientation is applied, since not all endpoints respect it.

    Raises:
        CallerFault: the file is missing, unreadable, or does not have the hash ``sha256``.
    """
    with _reading(path):
        return _encoded(_unchanged(path, sha256), max_side)


def _encoded(data: bytes, max_side: int) -> bytes:
    with Image.open(io.BytesIO(data)) as image:
        if max(image.size) <= max_side and (media := _sent_unchanged(image, _noted(image, data))) is not None:
            return _url(data, media)
        plain = _shown(image, max_side)
        out = io.BytesIO()
        target = "JPEG" if image.format == "JPEG" else "PNG"
        plain.save(out, target, quality=92)  # PNG ignores it
        return _url(out.getvalue(), _MEDIA[target])


def _sent_unchanged(image: Image.Image, orientation: int) -> str | None:
    """Return the media type of a file that is sent as it is where its size is allowed; ``None`` if it has to be converted."""
    return _MEDIA.get(image.format or "") if image.mode in _PLAIN_MODES and orientation not in _UPRIGHT else None


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Convert errors of a file into a failure of the call that shows it.

    Pillow's warnings are ignored; they were shown when the file was checked.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise CallerFault(f"image {path.name} can no longer be read: {error}") from error


def _unchanged(path: Path, sha256: str | None) -> bytes:
    """Return the file's bytes if they still have this hash."""
    data = path.read_bytes()
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        raise CallerFault(f"image {path.name} was changed since it was checked: run the same command again")
    return data


def upright(image: Image.Image) -> Image.Image:
    """Return a copy as models see it, in training and in search: eight bits per channel, rotated by its EXIF orientation.

    Open a file's bytes, not its path: when Pillow (13.0) maps an uncompressed, rotated TIFF to memory, its pixels are corrupted.
    """
    return turned(eight_bit(image), image)


def turned(copy: Image.Image, image: Image.Image) -> Image.Image:
    """Rotate a copy of the pixels of ``image`` by the EXIF orientation of ``image``."""
    turn = _UPRIGHT.get(_orientation(image))  # read after decoding: Pillow itself turns a TIFF upright
    return copy if turn is None else copy.transpose(turn)


def upright_size(path: Path) -> tuple[int, int]:
    """Return the width and height in pixels that :func:`upright` gives an image, from its header if possible.

    Raises:
        OSError: the file cannot be read, or is not an image.
    """
    data = path.read_bytes()
    with Image.open(io.BytesIO(data)) as image:
        width, height = image.size
        if image.format != "TIFF" and _noted(image, data) in _SIDEWAYS:  # the size of a TIFF already includes its rotation
            return height, width
        return width, height


def _shown(image: Image.Image, max_side: int) -> Image.Image:
    """Return a copy as models see it, with no side longer than ``max_side``."""
    plain = upright(image)
    plain.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    return plain


def eight_bit(image: Image.Image) -> Image.Image:
    """Return a copy with eight bits per channel (L, LA, RGB or RGBA). 16-bit grays are stretched to the full range, palettes resolved."""
    if is_wide(image):
        # Scanners store 12 or 16 bits in 16-bit images. Pillow's own conversion would clip most of them to white.
        return stretched(image)
    if image.mode in _PLAIN_MODES - {"P", "1"}:
        return image.copy()
    return image.convert("RGBA" if "transparency" in image.info else "RGB")


_BAND = 2**20
"""Pixels that are stretched at once. Doubles of a whole large image would need gigabytes."""


def stretched(image: Image.Image, center: float = 0.5, width: float = 1.0) -> Image.Image:
    """Return a gray copy with eight bits, in which a range of brightness goes from black to white; brighter and darker pixels are clipped.

    Args:
        image: a gray image of any depth. NaN counts as 0.
        center: middle of the range, as a share of the way from the darkest to the brightest pixel (0 to 255 with eight bits).
        width: width of the range, as a share as well.
    """
    import numpy as np

    pixels = np.asarray(image)
    rows = max(1, _BAND // max(1, pixels.shape[1]))
    bands = [slice(first, first + rows) for first in range(0, len(pixels), rows)]

    def of(band: slice) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
        return np.nan_to_num(pixels[band].astype(np.float64))

    low, high = 0.0, 255.0
    if is_wide(image):
        low, high = min(float(of(band).min()) for band in bands), max(float(of(band).max()) for band in bands)
    begin, scale = low + (center - width / 2) * (high - low), 255.0 / (width * (high - low) or 1.0)
    gray = np.empty(pixels.shape, np.uint8)
    for band in bands:
        gray[band] = np.clip((of(band) - begin) * scale, 0, 255)
    return Image.fromarray(gray)


def is_wide(image: Image.Image) -> bool:
    """Return whether the image's grays have more than eight bits."""
    return image.mode in {"I", "F"} or image.mode.startswith("I;16")


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation; 1 (upright) for invalid values."""
    try:
        noted = image.getexif().get(_ORIENTATION, 1)
    except (OSError, ValueError, TypeError, KeyError, SyntaxError, struct.error):
        return 1  # ignore unreadable metadata, as image viewers do
    return noted if isinstance(noted, int) else 1


def _noted(image: Image.Image, data: bytes) -> int:
    """Return :func:`_orientation` without decoding if possible; ``data`` is the image's file."""
    # A PNG's metadata may follow its pixels, so Pillow has to decode the image to read it.
    return 1 if image.format == "PNG" and not any(note in data for note in _PNG_NOTES) else _orientation(image)


def _url(data: bytes, media: str) -> bytes:
    return b"data:" + media.encode() + b";base64," + base64.b64encode(data)
