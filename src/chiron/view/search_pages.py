"""Pages of a search: totals and the table of cases, a case, its calls and images."""

import time
from collections.abc import Sequence
from dataclasses import fields, replace
from http import HTTPStatus
from typing import get_args
from urllib.parse import urlencode

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from chiron.client.ledger import Ledger, StoredResult
from chiron.errors import InputError
from chiron.jobs.directory import LEDGER
from chiron.reports import figures
from chiron.reports.case_view import Kind, case_view
from chiron.reports.run_summary import RunInfo
from chiron.reports.run_summary import read_run as read_info
from chiron.reviews.records import Status
from chiron.view.accounts import failure_reasons
from chiron.view.calls import read_calls
from chiron.view.case_index import NOT_REVIEWED, SCORES, SEPARATOR, UPLIFTS, Query
from chiron.view.discovery import Place
from chiron.view.files import reading
from chiron.view.images import image_response
from chiron.view.library import Library
from chiron.view.pages import page, page_of, readable
from chiron.view.search_state import SearchState

PAGE = 50
"""Cases on one page of the table."""
_READ = 0.08
"""Seconds that a request reads records for; the rest is read in the background."""


def routes(library: Library) -> list[Route]:
    """Return the routes below the page of a search."""

    def case(request: Request) -> Response:
        return case_page(search_of(library, request), request)

    def calls(request: Request) -> Response:
        return calls_page(search_of(library, request), request)

    def image(request: Request) -> Response:
        return image_of(search_of(library, request), request)

    below = "/runs/{run}/cases/{key}"
    return [Route(below, case), Route(f"{below}/calls", calls), Route(f"{below}/images/{{number:place}}", image)]


def search_of(library: Library, request: Request) -> SearchState:
    """Return the search that a request names."""
    state = library.get(request.path_params["run"])
    if not isinstance(state, SearchState):
        raise HTTPException(HTTPStatus.NOT_FOUND)
    return state


def query_of(request: Request) -> Query:
    """Return the filters of a request; unknown values match nothing or everything, but never fail."""
    given = {field.name: request.query_params[field.name][:200] for field in fields(Query) if field.name in request.query_params}
    return Query(**given | ({"review": ""} if request.state.blind else {}))


def query_text(query: Query, **more: object) -> str:
    """Return a query as the end of an address, empty if it is the usual one."""
    usual = Query()
    changed = {f.name: getattr(query, f.name) for f in fields(Query) if getattr(query, f.name) != getattr(usual, f.name)}
    text = urlencode({**changed, **more})
    return f"?{text}" if text else ""


def search_page(state: SearchState, request: Request, others: Sequence[Place] = ()) -> Response:
    """Return the page of a search, with links that compare it with ``others``.

    Raises:
        InputError: the run cannot be read.
    """
    query, number = query_of(request), page_of(request)
    with state.lock:
        line = state.line(time.monotonic() + _READ)
        if state.problem:
            raise InputError(state.problem)
        _read_details(state)
        info: RunInfo = read_info(state.path)
        index = state.index
        totals, choices = index.summary()
        rows, found = index.find(query, (number - 1) * PAGE, PAGE)
        pages = max(1, -(-found // PAGE))
        if number > pages:
            rows, found = index.find(query, (pages - 1) * PAGE, PAGE)
        spending = state.accounts.spending() if state.accounts else []
        return page(
            "search.html",
            line=line,
            run=info,
            totals=totals,
            kinds=list(Kind),
            every_case="",
            spending=spending,
            cached=[],
            spent_usd=line.known_usd + line.possible_usd if line.known_usd is not None else 0.0,
            possibly_spent_usd=line.possible_usd,
            failures=failure_reasons(state.path / LEDGER) if any(spent.failed for spent in spending) else [],
            histogram=figures.histogram(totals.scores, info.identity.threshold),
            uplift=figures.uplift(totals.pairs) if totals.pairs else None,
            waiting=index.waiting,
            query=query,
            query_text=query_text(query),
            rows=rows,
            found=found,
            number=min(number, pages),
            pages=pages,
            page_link=lambda n: query_text(query, page=n) or f"?page={n}",
            choices=choices,
            scores=list(SCORES),
            uplifts=list(UPLIFTS),
            modalities=lambda text: (text or "").strip(SEPARATOR).replace(SEPARATOR, ", "),
            labels_problem=state.index.labels_problem or state.total.problem,
            labelled=state.labelled,
            reviews=() if request.state.blind or not state.reviewed else (*get_args(Status), NOT_REVIEWED),
            others=others,
            reviews_problem=state.reviews_problem,
        )


def _read_details(state: SearchState) -> None:
    state.wants_details = True
    state.read_reviews()
    if state.index.waiting:
        with reading(state.path / LEDGER) as connection:
            state.index.read_details(connection, time.monotonic() + _READ)


def result_of(state: SearchState, request: Request) -> StoredResult:
    """Return the stored result of the case that a request names.

    Raises:
        InputError: it is no longer in the ledger, or damaged.
    """
    with state.lock:
        state.line(time.monotonic() + _READ)
        row = state.index.by_key(request.path_params["key"])
    if row is None:
        raise HTTPException(HTTPStatus.NOT_FOUND)
    with Ledger.read(state.path / LEDGER) as ledger:
        result = ledger.result(row.case_id)
    if result is None:
        raise InputError("this case is no longer in the ledger: return to the list of cases")
    return result


def case_page(state: SearchState, request: Request) -> Response:
    """Return the page of a case: images, question, answer, path and tree.

    Raises:
        InputError: the case's record cannot be read.
    """
    result, query, key = result_of(state, request), query_of(request), request.path_params["key"]
    with state.lock:
        _read_details(state)
        before, after, place, number = state.index.neighbors(key, query)
    with readable(f"the record of case '{result.case_id.strip()}'"):
        view = case_view(result, 1, ())
        return page(
            "search_case.html",
            run=state.place,
            key=key,
            case=replace(view, images_left_out=0),
            id=view.id,
            names=[str(name) for name in result.record.get("images") or ()],
            before=before,
            after=after,
            place=place,
            number=number,
            query_text=query_text(query),
            failures=[] if view.kind is not Kind.PENDING else failure_reasons(state.path / LEDGER)[:5],
        )


def calls_page(state: SearchState, request: Request) -> Response:
    """Return the calls of a case with prompts and replies.

    Raises:
        InputError: the ledger cannot be read.
    """
    result = result_of(state, request)
    with readable(f"the record of case '{result.case_id.strip()}'"):
        calls = read_calls(state.path, state.run, state.selection, state.case_file_images(), result)
        return page("calls.html", run=state.place, key=request.path_params["key"], id=result.case_id.strip(), calls=calls)


def image_of(state: SearchState, request: Request) -> Response:
    """Return an image of a case, by its place in the case."""
    result = result_of(state, request)
    with readable(f"the record of case '{result.case_id.strip()}'"):
        names = [str(name) for name in result.record.get("images") or ()]
    number = request.path_params["number"]
    if number >= len(names):
        raise HTTPException(HTTPStatus.NOT_FOUND)
    return image_response(state.case_file_images(), names[number], request)
