"""Pages of a search: totals and the table of cases, a case, its calls and images."""

import time
from collections.abc import Callable, Sequence
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
from chiron.view.images import image_response
from chiron.view.library import Library
from chiron.view.pages import filters_of, page, paged, readable
from chiron.view.search_state import SearchState

PAGE = 50
"""Cases on one page of the table."""
READ = 0.08
"""Seconds that a request reads records for; the rest is read in the background."""


def routes(library: Library) -> list[Route]:
    """Return the routes below the page of a search."""

    def of_search(show: Callable[[SearchState, Request], Response]) -> Callable[[Request], Response]:
        return lambda request: show(search_of(library, request), request)

    below = "/runs/{run}/cases/{key}"
    pages = {"": case_page, "/calls": calls_page, "/images/{number:place}": image_of}
    return [Route(below + end, of_search(show)) for end, show in pages.items()]


def search_of(library: Library, request: Request) -> SearchState:
    """Return the search that a request names."""
    state = library.get(request.path_params["run"])
    if not isinstance(state, SearchState):
        raise HTTPException(HTTPStatus.NOT_FOUND)
    return state


def query_of(request: Request) -> Query:
    """Return the filters of a request; unknown values match nothing or everything, but never fail."""
    return Query(**filters_of(request, (field.name for field in fields(Query))) | ({"review": ""} if request.state.blind else {}))


def query_text(query: Query) -> str:
    """Return a query as the end of an address, empty if it is the usual one."""
    changed = query.changed()
    return f"?{urlencode(changed)}" if changed else ""


def search_page(state: SearchState, request: Request, others: Sequence[Place] = ()) -> Response:
    """Return the page of a search, with links that compare it with ``others``.

    Raises:
        InputError: the run cannot be read.
    """
    query = query_of(request)
    with state.lock:
        line = state.line(time.monotonic() + READ)
        if state.problem:
            raise InputError(state.problem)
        state.read_reviews()
        state.read_details(time.monotonic() + READ)
        info: RunInfo = read_info(state.path)
        index = state.index
        totals, choices = index.summary()
        keys = index.keys(query)
        shown, pager = paged(request, len(keys), PAGE, query.changed().items())
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
            rows=[index.by_key(key) for key in keys[shown]],
            found=len(keys),
            **pager,
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


def result_of(state: SearchState, request: Request) -> StoredResult:
    """Return the stored result of the case that a request names.

    Raises:
        InputError: it is no longer in the ledger, or damaged.
    """
    with state.lock:
        state.line(time.monotonic() + READ)
        row = state.index.by_key(request.path_params["key"])
    if row is None:
        raise HTTPException(HTTPStatus.NOT_FOUND)
    with Ledger.read(state.path / LEDGER) as ledger:
        result = ledger.result(row.case_id)
    if result is None:
        raise InputError("this case is no longer in the ledger: return to the list of cases")
    return result


def image_names(result: StoredResult) -> list[str]:
    return [str(name) for name in result.record.get("images") or ()]


def case_page(state: SearchState, request: Request) -> Response:
    """Return the page of a case: images, question, answer, path and tree.

    Raises:
        InputError: the case's record cannot be read.
    """
    result, query, key = result_of(state, request), query_of(request), request.path_params["key"]
    with state.lock:
        state.read_reviews()
        state.read_details(time.monotonic() + READ)
        before, after, place, number = state.index.neighbors(key, query)
    with readable(f"the record of case '{result.case_id.strip()}'"):
        view = case_view(result, 1, ())
        return page(
            "search_case.html",
            run=state.place,
            key=key,
            case=replace(view, images_left_out=0),
            id=view.id,
            names=image_names(result),
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
        names = image_names(result)
    number = request.path_params["number"]
    if number >= len(names):
        raise HTTPException(HTTPStatus.NOT_FOUND)
    return image_response(state.case_file_images(), names[number], request)
