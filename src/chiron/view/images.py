"""Images of runs, as a browser can show them. Only files inside the image folder are read."""

import io
from collections.abc import Callable
from http import HTTPStatus

from PIL import Image
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from chiron.cases.images import ImageFolder, ImageProblem, check_bytes
from chiron.client.images import is_wide, stretched, turned, upright

_SHOWN = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "GIF": "image/gif"}
"""Formats that browsers show, with their media types."""
_PLAIN = {"1", "L", "LA", "P", "RGB", "RGBA"}


_Shown = tuple[bytes, str]
"""A file for a browser, and its media type."""


def _shown_image(folder: ImageFolder | None, name: str, window: tuple[float, float] | None) -> _Shown:
    """Return an image of a case.

    Args:
        folder: the run's image folder.
        name: name as in the case.
        window: center and width, as shares of the range from the darkest to the brightest pixel, for gray images.

    Raises:
        ImageProblem: it is outside the folder, missing, or not an image.
    """
    if folder is None:
        raise ImageProblem("run.json names no image folder")
    found, converted = folder.look_at(name, lambda image: _converted(image, window))
    if converted is not None:
        return converted
    try:
        data = found.path.read_bytes()
    except OSError as error:
        raise ImageProblem(f"image '{name}' cannot be read: {error.strerror}") from error
    with Image.open(io.BytesIO(data), formats=tuple(_SHOWN)) as image:
        return data, _SHOWN[str(image.format)]


def image_response(folder: ImageFolder | None, name: str, request: Request) -> Response:
    """Return an image as a response, with the window that the request asks for (``center`` and ``width``).

    Raises:
        HTTPException: the image cannot be shown; the reason is on the page of the error.
    """
    return _response(lambda: _shown_image(folder, name, _window(request)))


def bytes_response(data: bytes, name: str) -> Response:
    """Return an image that is stored in a table as a response.

    Raises:
        HTTPException: it is not an image that a browser shows.
    """

    def shown() -> _Shown:
        media = _SHOWN.get(check_bytes(data, name))
        if media is None:
            raise ImageProblem(f"image '{name}' is of a format that browsers do not show")
        return data, media

    return _response(shown)


def _response(show: Callable[[], _Shown]) -> Response:
    try:
        data, media = show()
    except ImageProblem as problem:
        raise HTTPException(HTTPStatus.NOT_FOUND, str(problem)) from problem
    return Response(data, media_type=media, headers={"Content-Security-Policy": "default-src 'none'; sandbox"})


def _window(request: Request) -> tuple[float, float] | None:
    try:
        center, width = float(request.query_params["center"]), float(request.query_params["width"])
    except (KeyError, ValueError):
        return None
    return (center, width) if 0 <= center <= 1 and 0 < width <= 2 else None


def _converted(image: Image.Image, window: tuple[float, float] | None) -> _Shown | None:
    """Return an image as PNG if the browser cannot show it as it is, or if another window is wanted."""
    if window is None and image.format in _SHOWN and image.mode in _PLAIN:
        return None
    gray = image.mode == "L" or is_wide(image)
    shown = turned(stretched(image, *window), image) if window is not None and gray else upright(image)
    out = io.BytesIO()
    shown.save(out, "PNG")
    return out.getvalue(), "image/png"
