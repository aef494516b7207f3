"""Images on their way into the output folder: files as they are, arrays drawn as PNG."""

import io
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from chiron.cases.images import ImageFolder, ImageProblem, check_bytes
from chiron.cases.importing.records import LeaveOut, Why

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SUFFIXES = {"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "WEBP": ".webp", "GIF": ".gif", "BMP": ".bmp", "TIFF": ".tif"}


def copied(folder: ImageFolder, name: str, called: str | None = None) -> Callable[[], bytes]:
    """A file of the source, checked inside its fence when it is wanted.

    ``called``: what a reason calls it where its own name, which may hold the patient's, is not to be told.
    """

    def data() -> bytes:
        try:
            return folder.check(name).path.read_bytes()
        except ImageProblem as problem:
            said = str(problem)
            if called is not None:
                for path in (os.path.realpath(folder.root / name) if "\0" not in name else name, name):
                    said = said.replace(path, called)
            raise LeaveOut(Why.IMAGE, said) from (None if called is not None else problem)

    return data


def suffix_of(data: bytes, name: str) -> str:
    """The suffix that fits an image's bytes, which are decoded whole to see that they can be.

    Raises:
        LeaveOut: they cannot.
    """
    try:
        return _SUFFIXES[check_bytes(data, name)]
    except ImageProblem as problem:
        raise LeaveOut(Why.IMAGE, str(problem)) from problem


def png(pixels: "NDArray[np.uint8]", aspect: float = 1.0) -> bytes:
    """A PNG of grey (rows, columns) or colour (rows, columns, 3) pixels.

    ``aspect``: height of a pixel over its width. Where it differs from 1 by more than a hundredth, the shorter side is drawn out, so
    that a circle in the patient is one in the image.
    """
    from PIL import Image

    image = Image.fromarray(pixels)
    if not 0.99 <= aspect <= 1.01 and 0.05 <= aspect <= 20:
        width, height = image.size
        size = (width, round(height * aspect)) if aspect > 1 else (round(width / aspect), height)
        image = image.resize(size, Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
