"""Small copies of a case's images, as ``data:`` URLs: the page needs no other file, and holds no pixel it does not show."""

import base64
import io
import warnings
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

from chiron.cases.images import FORMATS, ImageFolder, ImageProblem
from chiron.client.images import eight_bit, is_wide

MAX_SIDE = 320
"""Pixels; the page shows them no larger than this."""
MAX_IMAGES = 12
"""Of one case. A whole CT series would make the page too heavy to open."""


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """One image of a case on the page, or why it is not there."""

    name: str
    """As the case gives it."""
    url: str = ""
    """``data:image/jpeg;base64,...``; empty if there is a problem."""
    width: int = 0
    height: int = 0
    problem: str = ""

    @property
    def caption(self) -> str:
        """The end of the name, which tells a case's images apart."""
        return "/".join(self.name.split("/")[-2:])


def thumbnails(folder: ImageFolder | None, names: list[str]) -> tuple[Thumbnail, ...]:
    """The first ``MAX_IMAGES`` of a case's images. None of them, however broken, is an error."""
    return tuple(_thumbnail(folder, name) for name in names[:MAX_IMAGES])


def _thumbnail(folder: ImageFolder | None, name: str) -> Thumbnail:
    if folder is None:
        return Thumbnail(name, problem="run.json names no image folder")
    try:
        return _encode(name, folder.check(name).path)
    except ImageProblem as problem:
        return Thumbnail(name, problem=str(problem))
    except (OSError, ValueError, SyntaxError, IndexError, OverflowError, Image.DecompressionBombError) as error:
        # What Pillow raises on files that changed or went bad since they were checked, and the file system on odd names.
        return Thumbnail(name, problem=f"the image cannot be shown: {error}")


def _encode(name: str, path: Path) -> Thumbnail:
    with warnings.catch_warnings():
        # Pillow warns of odd metadata, which is left behind here anyway.
        warnings.simplefilter("ignore")
        with Image.open(path, formats=FORMATS) as image:
            image.draft(image.mode, (2 * MAX_SIDE, 2 * MAX_SIDE))  # lets a large JPEG be decoded at a fraction of its size
            small = _flat(ImageOps.exif_transpose(image))
    small.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    small.info.clear()  # names, dates and comments that came with the file stay out of the page
    out = io.BytesIO()
    small.save(out, "JPEG", quality=80, optimize=True)
    url = f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode('ascii')}"
    return Thumbnail(name, url, small.width, small.height)


def _flat(image: Image.Image) -> Image.Image:
    """Grey or colour, 8 bits, nothing transparent: what a JPEG can hold."""
    if is_wide(image):
        return eight_bit(image)
    if image.mode in {"LA", "PA", "RGBA"} or "transparency" in image.info:
        layered = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layered.size, "black"), layered).convert("RGB")
    return image.convert("L" if image.mode in {"1", "L"} else "RGB")
