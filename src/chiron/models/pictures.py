"""Images as endpoints take them: JPEG or PNG, no larger than agreed, base64 in a data URL."""

import base64
import hashlib
import io
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from threading import Lock

import numpy as np
from PIL import Image

from chiron.models.call import Picture
from chiron.models.failures import CallerFault

_PLAIN_MODES = {"L", "RGB", "RGBA", "P", "LA", "1"}
_MEDIA = {"JPEG": "image/jpeg", "PNG": "image/png"}


class PictureStore:
    """Knows where the image behind a hash lies, and keeps it encoded while a case is at work: it asks for it ninety times."""

    def __init__(self, *, cache_bytes: int = 32 * 2**20) -> None:
        """``cache_bytes``: the most that encoded images which nobody holds may take in memory."""
        self._paths: dict[str, Path] = {}
        self._held: dict[Picture, tuple[int, bytes]] = {}
        self._cache: OrderedDict[Picture, bytes] = OrderedDict()
        self._cached = 0
        self._cache_bytes = cache_bytes
        self._lock = Lock()

    def add(self, sha256: str, path: Path) -> None:
        """Remember where an image lies."""
        self._paths[sha256] = path

    def hold(self, pictures: Sequence[Picture]) -> None:
        """Encode images now, and keep them until :meth:`release`; meant for a thread beside the event loop.

        Raises:
            CallerFault: a file is gone, changed, or no longer readable.
        """
        for picture in pictures:
            with self._lock:
                count, url = self._held.get(picture, (0, b""))
                if count:
                    self._held[picture] = (count + 1, url)
                    continue
            url = encode_data_url(self.path(picture.sha256), picture.max_side, sha256=picture.sha256)
            with self._lock:
                count, known = self._held.get(picture, (0, url))
                self._held[picture] = (count + 1, known)

    def release(self, pictures: Sequence[Picture]) -> None:
        """Let go of what :meth:`hold` kept."""
        with self._lock:
            for picture in pictures:
                count, url = self._held.pop(picture, (0, b""))
                if count > 1:
                    self._held[picture] = (count - 1, url)

    def path(self, sha256: str) -> Path:
        """Where the image lies.

        Raises:
            CallerFault: nobody added it.
        """
        try:
            return self._paths[sha256]
        except KeyError:
            raise CallerFault(f"no image of SHA-256 {sha256[:12]}... was added to this run") from None

    def data_url(self, picture: Picture) -> bytes:
        """The image as a ``data:`` URL, ASCII.

        Raises:
            CallerFault: the file is gone, changed, or no longer readable.
        """
        if picture in self._held:
            return self._held[picture][1]
        if picture in self._cache:
            self._cache.move_to_end(picture)
            return self._cache[picture]
        url = encode_data_url(self.path(picture.sha256), picture.max_side, sha256=picture.sha256)
        self._cache[picture] = url
        self._cached += len(url)
        while self._cached > self._cache_bytes and len(self._cache) > 1:
            _, dropped = self._cache.popitem(last=False)
            self._cached -= len(dropped)
        return url


def encode_data_url(path: Path, max_side: int, *, sha256: str | None = None) -> bytes:
    """The image at ``path``, no side longer than ``max_side`` pixels, as a ``data:`` URL.

    A JPEG or PNG that fits is sent as it is; anything else becomes a PNG (or a JPEG, if it was one), 16-bit greys scaled to 8.

    Raises:
        CallerFault: the file is gone, no longer readable, or not the one of hash ``sha256``.
    """
    try:
        data = path.read_bytes()
        if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
            raise CallerFault(f"image {path.name} was changed since it was checked: run the same command again")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as image:
                kind = image.format or "PNG"
                if kind in _MEDIA and image.mode in _PLAIN_MODES and max(image.size) <= max_side:
                    return _url(data, _MEDIA[kind])
                plain = eight_bit(image)
                plain.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
                out = io.BytesIO()
                target = "JPEG" if kind == "JPEG" else "PNG"
                plain.save(out, target, quality=92) if target == "JPEG" else plain.save(out, target)
                return _url(out.getvalue(), _MEDIA[target])
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise CallerFault(f"image {path.name} can no longer be read: {error}") from error


def eight_bit(image: Image.Image) -> Image.Image:
    """A copy of the image in eight bits a channel (L, LA, RGB or RGBA): wide greys are stretched to the whole range, palettes resolved."""
    if image.mode in {"I", "F"} or image.mode.startswith("I;16"):
        # Scanners write 12 or 16 bits into 16; Pillow's own conversion would clip them all to white.
        grey = np.asarray(image, dtype=np.float64)
        low, high = float(grey.min()), float(grey.max())
        return Image.fromarray(((grey - low) * (255.0 / (high - low or 1.0))).astype(np.uint8))
    if image.mode in _PLAIN_MODES - {"P", "1"}:
        return image.copy()
    return image.convert("RGBA" if "transparency" in image.info else "RGB")


def _url(data: bytes, media: str) -> bytes:
    return b"data:" + media.encode() + b";base64," + base64.b64encode(data)
