"""Images as endpoints take them: JPEG or PNG, no larger than agreed, base64 in a data URL."""

import base64
import io
import warnings
from collections import OrderedDict
from pathlib import Path

import numpy as np
from PIL import Image

from chiron.models.call import Picture
from chiron.models.failures import CallerFault

_PLAIN_MODES = {"L", "RGB", "RGBA", "P", "LA", "1"}
_MEDIA = {"JPEG": "image/jpeg", "PNG": "image/png"}


class PictureStore:
    """Knows where the image behind a hash lies, and keeps the last few encoded: a case asks for its images ninety times."""

    def __init__(self, *, cache_bytes: int = 32 * 2**20) -> None:
        """``cache_bytes``: the most that encoded images may take in memory."""
        self._paths: dict[str, Path] = {}
        self._cache: OrderedDict[Picture, str] = OrderedDict()
        self._cached = 0
        self._cache_bytes = cache_bytes

    def add(self, sha256: str, path: Path) -> None:
        """Remember where an image lies."""
        self._paths[sha256] = path

    def path(self, sha256: str) -> Path:
        """Where the image lies.

        Raises:
            CallerFault: nobody added it.
        """
        try:
            return self._paths[sha256]
        except KeyError:
            raise CallerFault(f"no image of SHA-256 {sha256[:12]}... was added to this run") from None

    def data_url(self, picture: Picture) -> str:
        """The image as a ``data:`` URL.

        Raises:
            CallerFault: the file is gone or no longer readable.
        """
        if picture in self._cache:
            self._cache.move_to_end(picture)
            return self._cache[picture]
        url = encode_data_url(self.path(picture.sha256), picture.max_side)
        self._cache[picture] = url
        self._cached += len(url)
        while self._cached > self._cache_bytes and len(self._cache) > 1:
            _, dropped = self._cache.popitem(last=False)
            self._cached -= len(dropped)
        return url


def encode_data_url(path: Path, max_side: int) -> str:
    """The image at ``path``, no side longer than ``max_side`` pixels, as a ``data:`` URL.

    A JPEG or PNG that fits is sent as it is; anything else becomes a PNG (or a JPEG, if it was one), 16-bit greys scaled to 8.

    Raises:
        CallerFault: the file is gone or no longer readable.
    """
    try:
        data = path.read_bytes()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as image:
                kind = image.format or "PNG"
                if kind in _MEDIA and image.mode in _PLAIN_MODES and max(image.size) <= max_side:
                    return _url(data, _MEDIA[kind])
                plain = _eight_bit(image)
                plain.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
                out = io.BytesIO()
                target = "JPEG" if kind == "JPEG" else "PNG"
                plain.save(out, target, quality=92) if target == "JPEG" else plain.save(out, target)
                return _url(out.getvalue(), _MEDIA[target])
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise CallerFault(f"image {path.name} can no longer be read: {error}") from error


def _eight_bit(image: Image.Image) -> Image.Image:
    if image.mode in {"I", "F"} or image.mode.startswith("I;16"):
        # Scanners write 12 or 16 bits into 16; Pillow's own conversion would clip them all to white.
        grey = np.asarray(image, dtype=np.float64)
        low, high = float(grey.min()), float(grey.max())
        return Image.fromarray(((grey - low) * (255.0 / (high - low or 1.0))).astype(np.uint8))
    if image.mode in _PLAIN_MODES - {"P", "1"}:
        return image.copy()
    return image.convert("RGBA" if "transparency" in image.info else "RGB")


def _url(data: bytes, media: str) -> str:
    return f"data:{media};base64,{base64.b64encode(data).decode('ascii')}"
