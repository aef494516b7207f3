"""Thumbnails of a case's images as ``data:`` URLs: the page needs no other file, and contains only pixels that it shows."""

import base64
import io
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

from chiron.cases.images import FORMATS, ImageFolder, ImageProblem
from chiron.client.images import eight_bit, is_wide

MAX_SIDE = 320
"""Longest side in pixels, as shown on the page."""
MAX_IMAGES = 12
"""Maximum number of images per case. A whole CT series would make the page too large to open."""
_CHECKSUM = re.compile(r"[0-9a-fA-F]{32,}")


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """An image of a case on the page, or why it is missing."""

    name: str
    """Name as in the case."""
    url: str = ""
    """``data:image/jpeg;base64,...``; empty if there is a problem."""
    width: int = 0
    height: int = 0
    problem: str = ""

    @property
    def caption(self) -> str:
        """End of the name, which distinguishes a case's images. Checksums are shortened."""
        return _CHECKSUM.sub(lambda found: f"{found[0][:8]}…", "/".join(self.name.split("/")[-2:]))


def thumbnails(folder: ImageFolder | None, names: list[str], *, side: int = MAX_SIDE) -> tuple[Thumbnail, ...]:
    """Return thumbnails of the first ``MAX_IMAGES`` images of a case. Broken images never raise an error.

    Args:
        folder: the folder that the names are relative to.
        names: names of the images.
        side: longest side in pixels.
    """
    return tuple(_thumbnail(folder, name, side) for name in names[:MAX_IMAGES])


def _thumbnail(folder: ImageFolder | None, name: str, side: int) -> Thumbnail:
    if folder is None:
        return Thumbnail(name, problem="run.json does not name an image folder")
    try:
        return _encode(name, folder.check(name).path, side)
    except ImageProblem as problem:
        return Thumbnail(name, problem=str(problem))
    except (OSError, ValueError, SyntaxError, IndexError, OverflowError, Image.DecompressionBombError) as error:
        # Pillow's errors on files that changed since they were checked, and the file system's errors on odd names.
        return Thumbnail(name, problem=f"the image cannot be shown: {error}")


def _encode(name: str, path: Path, side: int) -> Thumbnail:
    with warnings.catch_warnings():
        # Pillow warns about odd metadata, which is removed here anyway.
        warnings.simplefilter("ignore")
        with Image.open(path, formats=FORMATS) as image:
            image.draft(image.mode, (2 * side, 2 * side))  # decodes a large JPEG at reduced size
            small = _flat(ImageOps.exif_transpose(image))
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    small.info.clear()  # keep names, dates and comments of the file out of the page
    out = io.BytesIO()
    small.save(out, "JPEG", quality=80, optimize=True)
    url = f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode('ascii')}"
    return Thumbnail(name, url, small.width, small.height)


def _flat(image: Image.Image) -> Image.Image:
    """Convert to 8-bit gray or color without transparency, as JPEG requires."""
    if is_wide(image):
        return eight_bit(image)
    if image.mode in {"LA", "PA", "RGBA"} or "transparency" in image.info:
        layered = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layered.size, "black"), layered).convert("RGB")
    return image.convert("L" if image.mode in {"1", "L"} else "RGB")
