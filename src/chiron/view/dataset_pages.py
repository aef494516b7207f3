"""Pages of a part and of a release: rows, coverage, splits, dropped rows, and findings of the checks."""

import time
from collections.abc import Callable
from dataclasses import fields
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from chiron.cases.images import ImageFolder
from chiron.errors import ChironError, InputError
from chiron.view.dataset_states import BuildState, ReleaseState, RowState
from chiron.view.files import LineFile, read_object
from chiron.view.images import bytes_response, image_response
from chiron.view.library import Library
from chiron.view.pages import filters_of, page, paged, readable
from chiron.view.rows import RowQuery

PAGE = 50
_READ = 0.1
_MOST_FINDINGS = 200


def routes(library: Library) -> list[Route]:
    """Return the routes below the page of a part or a release."""

    def of_rows(show: Callable[[RowState, Request], Response]) -> Callable[[Request], Response]:
        return lambda request: show(_rows(library, request), request)

    below = "/runs/{run}/rows/{number:place}"
    return [Route(below, of_rows(row_page)), Route(f"{below}/images/{{image:place}}", of_rows(image_of))]


def _rows(library: Library, request: Request) -> RowState:
    state = library.get(request.path_params["run"])
    if not isinstance(state, RowState):
        raise HTTPException(HTTPStatus.NOT_FOUND)
    return state


def dataset_page(state: RowState, request: Request) -> Response:
    """Return the page of a part or a release.

    Raises:
        InputError: it cannot be read.
    """
    given = filters_of(request, (field.name for field in fields(RowQuery)))
    query = RowQuery(**given)
    with state.lock:
        line = state.line(time.monotonic() + _READ)
        if state.problem:
            raise InputError(state.problem)
        state.wants_rows = True
        state.read_rows(time.monotonic() + _READ)
        index = state.index
        found = index.find(query)
        shown, pager = paged(request, len(found), PAGE, given.items())
        checked, problem = _checks(state.path)
        modalities, systems = index.axes()
        return page(
            "dataset.html",
            line=line,
            query=query,
            rows=[(position, index.heads[position], _preview(state, position)) for position in found[shown]],
            found=len(found),
            **pager,
            index=index,
            parts=sorted(index.parts.items()),
            modalities=modalities,
            systems=systems,
            cells=index.cells,
            cell_link=lambda modality, system: "?" + urlencode({"modality": modality, "body_system": system}),
            checks=checked,
            checks_problem=problem,
            is_release=isinstance(state, ReleaseState),
            dropped=state.reasons.counts,
            reading=not (index.done and state.reasons.done),
            by_id=index.by_id,
        )


def _preview(state: RowState, position: int) -> str:
    """Return the question of a row, or its text."""
    try:
        row = _read(state, position, only_text=True)
        with readable("the row"):
            return str(row.get("question") or (row.get("messages") or [{}])[-1].get("content") or "")[:200]
    except InputError as problem:
        return str(problem)


def _read(state: RowState, position: int, *, only_text: bool = False) -> dict[str, Any]:
    if state.index.source is None or position >= len(state.index.heads):
        raise HTTPException(HTTPStatus.NOT_FOUND)
    return state.index.source.read(state.index.heads[position], only_text=only_text)


def _checks(folder: Path) -> tuple[list[dict[str, Any]], str]:
    """Return the checks of ``check.json``, and why they cannot be shown."""
    try:
        record = read_object(folder / "check.json")
        if record is None:
            return [], ""
        return [
            {
                **{field: c[field] for field in ("rows", "errors")},
                **{field: float(c[field]) for field in ("share", "limit")},
                "name": name,
                "examples": tuple(c.get("examples") or ()),
            }
            for name, c in record["checks"].items()
        ], ""
    except ChironError as problem:
        return [], str(problem)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return [], f"{folder / 'check.json'} is of another version ({type(error).__name__}): run 'chiron build check' again"


def row_page(state: RowState, request: Request) -> Response:
    """Return the page of one row.

    Raises:
        InputError: the row cannot be read.
    """
    number = request.path_params["number"]
    with state.lock:
        _need_rows(state)
        row = _read(state, number)
        total = len(state.index.heads)
    facts = ("part", "case_id", "body_system", "difficulty", "depth", "licence")
    with readable(f"row {number + 1}"):
        return page(
            "row.html",
            run=state.place,
            row={"id": "", "answer": None, "modalities": None, **row},
            number=number,
            total=total,
            turns=[(turn["role"], turn["content"]) for turn in row.get("messages") or ()],
            names=[_image_name(image, place) for place, image in enumerate(row.get("images") or (), start=1)],
            facts=[(name, row[name]) for name in facts if row.get(name) is not None],
            findings=_findings(state.path, str(row.get("id"))),
            sources=_sources(row.get("provenance")),
        )


def _sources(provenance: object) -> list[tuple[str, str]]:
    """Return where a row comes from, as name and value. Parquet files hold mappings as lists of pairs."""
    if not isinstance(provenance, dict):
        return []
    models = provenance.get("models") or {}
    pairs = models.items() if isinstance(models, dict) else [(m.get("role"), m.get("model")) for m in models if isinstance(m, dict)]
    review = provenance.get("review")
    status = review.get("status") if isinstance(review, dict) else None
    found = [("run", provenance.get("run")), ("review", status), *pairs, *(("call", key) for key in provenance.get("calls") or ())]
    return [(str(name), str(value)) for name, value in found if value]


def _need_rows(state: RowState) -> None:
    """Read the rows as far as a page needs them; a link to a row may be the first request of all."""
    state.line(time.monotonic() + _READ)
    if not state.wants_rows:
        state.wants_rows = True
    state.read_rows(time.monotonic() + 5.0)


def _image_name(image: object, place: int) -> str:
    return str(image.get("path") or f"image {place}") if isinstance(image, dict) else str(image)


def _findings(folder: Path, row_id: str) -> list[dict[str, Any]]:
    """Return the findings of the checks in one row."""
    lines, found = LineFile(folder / "findings.jsonl"), []
    lines.advance(float("inf"))
    for number in range(len(lines)):
        try:
            finding = lines.record(number)
        except InputError:
            continue  # the file is being written again
        if finding.get("row") == row_id:
            found.append(finding)
    return found[:_MOST_FINDINGS]


def image_of(state: RowState, request: Request) -> Response:
    """Return an image of a row, by its place in the row."""
    with state.lock:
        _need_rows(state)
        row, number = _read(state, request.path_params["number"]), request.path_params["image"]
        with readable(f"row {request.path_params['number'] + 1}"):
            image = dict(enumerate(row.get("images") or ())).get(number)
        if image is None:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        if isinstance(image, dict) and isinstance(image.get("bytes"), bytes):
            return bytes_response(image["bytes"], _image_name(image, number + 1))
        return image_response(_folder(state), str(image), request)


def _folder(state: RowState) -> ImageFolder | None:
    if not isinstance(state, BuildState):
        return None
    folder = state.run.get("images")
    return ImageFolder(Path(folder) if isinstance(folder, str) else state.path / "images")
