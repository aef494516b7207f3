"""Render the pages of the app, and format what only they show."""

import time
from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import HTMLResponse

from chiron.reports.shell import environment, render_page

STYLES = ("report.css", "view.css")


def page(template: str, *, status: HTTPStatus = HTTPStatus.OK, **values: object) -> HTMLResponse:
    """Render a template of this package as a page."""
    env = environment("chiron.view")
    env.filters.update(span=span, ago=ago)
    parts = render_page("chiron.view", template, styles=STYLES, script="view.js", served=True, **values)
    return HTMLResponse("".join(parts).encode("utf-8", "replace"), status)


def problem(what: str, status: HTTPStatus = HTTPStatus.NOT_FOUND) -> HTMLResponse:
    """Return a page that says what cannot be shown."""
    return page("problem.html", status=status, what=what)


def page_of(request: Request) -> int:
    """Return the number of the wanted page, from 1."""
    text = request.query_params.get("page", "1")
    return max(1, int(text)) if text.isascii() and text.isdigit() and len(text) < 8 else 1


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
