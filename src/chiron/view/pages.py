"""Render the pages of the app, and format what only they show."""

import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment
from starlette.concurrency import run_in_threadpool
from starlette.convertors import IntegerConvertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from chiron.errors import InputError
from chiron.reports.shell import environment, render_page

STYLES = ("report.css", "view.css")
_MOST_KEPT = 32
"""Pages that are kept at once."""


class _Place(IntegerConvertor):
    """A position in an address. Python refuses to convert thousands of digits."""

    regex = "[0-9]{1,9}"


register_url_convertor("place", _Place())


def page(
    template: str,
    *,
    status: HTTPStatus = HTTPStatus.OK,
    script: Sequence[str] = ("view.js",),
    styles: Sequence[str] = STYLES,
    **values: object,
) -> HTMLResponse:
    """Render a template of this package as a page."""
    _environment()
    parts = render_page("chiron.view", template, styles=styles, script=script, served=True, **values)
    return HTMLResponse("".join(parts).encode("utf-8", "replace"), status)


def _environment() -> Environment:
    env = environment("chiron.view")
    env.filters.update(span=span, ago=ago)
    return env


def compile_templates() -> None:
    """Compile all templates. Otherwise the first request of each page does, which takes longer than the page itself."""
    env = _environment()
    for name in env.list_templates(extensions=["html"]):
        env.get_template(name)


def problem(what: str, status: HTTPStatus = HTTPStatus.NOT_FOUND) -> HTMLResponse:
    """Return a page that says what cannot be shown."""
    return page("problem.html", status=status, what=what)


class KeptPages:
    """Pages that are sent again for a moment, so that many requests cost a running job hardly more than one.

    What an open page asks for after an event, or anyone after a write, is made again: :meth:`forget` is called before.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds, self._forgotten = seconds, 0
        self._pages: dict[tuple[str, str, object], tuple[float, Response]] = {}

    def forget(self) -> None:
        """Make every page again, also those that are being made now."""
        self._forgotten += 1
        self._pages.clear()

    def keeping(self, make: Callable[[Request], Response]) -> Callable[[Request], Awaitable[Response]]:
        """Return an endpoint that keeps what ``make`` returns, for each address and reviewer."""

        async def answer(request: Request) -> Response:
            key = (request.url.path, request.url.query, request.state.reviewer)
            began, forgotten = time.monotonic(), self._forgotten
            made, kept = self._pages.get(key, (began, None))
            if kept is not None and began - made < self._seconds:
                return kept
            response = await run_in_threadpool(make, request)
            if response.status_code == HTTPStatus.OK and forgotten == self._forgotten:
                while len(self._pages) >= _MOST_KEPT:
                    self._pages.pop(next(iter(self._pages)))
                self._pages[key] = (began, response)
            return response

        return answer


@contextmanager
def readable(what: str) -> Iterator[None]:
    """Translate the errors of code that relies on the form of a record, of which a damaged one has another.

    Raises:
        InputError: the record cannot be shown.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise InputError(
            f"{what} cannot be shown ({type(error).__name__}): it is damaged, or of another version of chiron; restore it from a copy"
        ) from error


def filters_of(request: Request, names: Iterable[str]) -> dict[str, str]:
    """Return the filters that an address names. Longer ones than a person types are cut."""
    return {name: request.query_params[name][:200] for name in names if name in request.query_params}


def paged(request: Request, found: int, size: int, query: Iterable[tuple[str, str]], *, anchor: str = "") -> tuple[slice, dict[str, Any]]:
    """Return which of the entries that were found the wanted page shows, and the variables of ``pager.html``.

    Args:
        request: names the page, from 1.
        found: number of entries.
        size: entries on a page.
        query: filters, for the addresses of other pages.
        anchor: end of these addresses.
    """
    text = request.query_params.get("page", "1")
    wanted = max(1, int(text)) if text.isascii() and text.isdigit() and len(text) < 8 else 1
    pages = max(1, -(-found // size))
    number = min(wanted, pages)
    kept = list(query)
    link = lambda n: "?" + urlencode([*kept, ("page", n)]) + anchor  # noqa: E731
    return slice((number - 1) * size, number * size), {"number": number, "pages": pages, "page_link": link}


def span(seconds: float | None) -> str:
    """Format a duration: ``12 s``, ``5 min``, ``3 h 20 min``, ``2 d 4 h``."""
    if seconds is None:
        return ""
    minutes = round(seconds / 60)
    if seconds < 60:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def ago(moment: float | None) -> str:
    """Format how long ago a time was; empty for no time."""
    return f"{span(max(0.0, time.time() - moment))} ago" if moment else ""
