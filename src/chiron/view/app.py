"""The app: its routes, and the server that runs it."""

import asyncio
import logging
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from types import FrameType

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from chiron.errors import ChironError, InputError
from chiron.view import dataset_pages, search_pages
from chiron.view.access import HOST, Gate, Guard, Reviewer
from chiron.view.compare_pages import ComparePages
from chiron.view.dataset_pages import dataset_page
from chiron.view.dataset_states import RowState
from chiron.view.evaluation_pages import EvaluationPages
from chiron.view.evaluations import StillReading
from chiron.view.library import Library
from chiron.view.model_states import EvaluationState, TrainingState
from chiron.view.pages import KeptPages, compile_templates, page, problem
from chiron.view.review_pages import ReviewPages
from chiron.view.review_queue import ReviewSettings
from chiron.view.search_pages import search_page
from chiron.view.search_state import SearchState
from chiron.view.states import Signature
from chiron.view.training_pages import training_page

_log = logging.getLogger(__name__)
_LOOK_EVERY = 1.0
"""Seconds between two looks at the files of a run."""


def create_app(
    library: Library,
    gate: Gate,
    *,
    closing: Callable[[], bool] = lambda: False,
    settings: ReviewSettings | None = None,
    keep: float = _LOOK_EVERY,
) -> Starlette:
    """Create the app.

    Args:
        library: the runs.
        gate: decides which requests are answered.
        closing: returns whether the server ends, so that open streams end too.
        settings: which paths the gate's reviewers review.
        keep: seconds for which the home page and the page of a run are sent again without being made again.
    """

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        library.start()
        yield
        library.stop()

    async def events(request: Request) -> Response:
        run_id = request.query_params.get("run") or None
        # Before the answer begins: an open stream makes the page ask for itself again, which must be as new as what is compared.
        seen = await run_in_threadpool(library.signature, run_id)
        kept.forget()
        return StreamingResponse(_changes(library, run_id, seen, kept, closing), media_type="text/event-stream")

    def home(request: Request) -> Response:
        lines = library.lines()
        return page(
            "home.html",
            folders=[str(folder) for folder in library.folders],
            lines=lines,
            reviewer=request.state.reviewer,
            running=sum(line.state == "running" for line in lines),
            paid=[line for line in lines if line.known_usd is not None],
        )

    def run(request: Request) -> Response:
        state = library.get(request.path_params["run"])
        if state is None:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        match state:
            case SearchState():
                return search_page(state, request, [s.place for s in library.states() if isinstance(s, SearchState) and s is not state])
            case EvaluationState():
                return evaluations.show([state], request)
            case TrainingState():
                return training_page(state, request)
            case RowState():
                return dataset_page(state, request)
        raise InputError(state.line(0.0).problem)

    evaluations, kept = EvaluationPages(library), KeptPages(keep)

    return Starlette(
        routes=[
            Route("/", kept.keeping(home)),
            Route("/events", events),
            Route("/runs/{run}", kept.keeping(run)),
            *search_pages.routes(library),
            *dataset_pages.routes(library),
            *evaluations.routes(),
            *ComparePages(library, evaluations).routes(),
            *ReviewPages(library, gate, settings or ReviewSettings()).routes(),
        ],
        middleware=[Middleware(Guard, gate=gate, written=kept.forget)],
        lifespan=lifespan,
        exception_handlers={StillReading: _still_reading, HTTPException: _http_problem, ChironError: _problem, Exception: _crash},
    )


def _http_problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for it
    status = HTTPStatus(error.status_code)
    return problem("There is no such page." if error.detail == HTTPStatus.NOT_FOUND.phrase else error.detail, status)


def _problem(_: Request, error: Exception) -> Response:
    return problem(str(error), HTTPStatus.UNPROCESSABLE_ENTITY)


def _still_reading(_: Request, reading: Exception) -> Response:
    answer = page("reading.html", status=HTTPStatus.SERVICE_UNAVAILABLE, names=str(reading))
    answer.headers["Refresh"] = "1"  # the page asks again by itself
    return answer


def _crash(_: Request, error: Exception) -> Response:
    _log.error("a page cannot be made", exc_info=error)
    return problem(f"This page cannot be made because of a bug in chiron ({type(error).__name__}).", HTTPStatus.INTERNAL_SERVER_ERROR)


async def _changes(
    library: Library, run_id: str | None, seen: Signature, kept: KeptPages, closing: Callable[[], bool]
) -> AsyncIterator[str]:
    """Yield a server-sent event whenever a run changes, and a comment now and then that keeps the connection open."""
    yield "retry: 2000\n\n"
    quiet = 0.0
    while not closing():
        await asyncio.sleep(_LOOK_EVERY)
        now = await run_in_threadpool(library.signature, run_id)
        quiet += _LOOK_EVERY
        if now != seen:
            seen, quiet = now, 0.0
            kept.forget()
            yield "event: changed\ndata: \n\n"
        elif quiet >= 15:
            quiet = 0.0
            yield ": nothing new\n\n"


class _Server(uvicorn.Server):
    """A uvicorn server that calls ``ready`` when it listens."""

    ready: Callable[[], None] = staticmethod(lambda: None)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready()


def serve(
    folders: Sequence[Path], ready: Callable[[Gate], None], *, reviewers: Sequence[Reviewer] = (), settings: ReviewSettings | None = None
) -> None:
    """Serve the runs under the folders. Blocks until a signal stops it.

    Args:
        folders: folders to look for runs in.
        ready: called once the server listens, with the gate that knows its address.
        reviewers: persons who may write reviews, each through a link of their own. Without them the server only reads.
        settings: which paths they review.

    Raises:
        InputError: a folder does not exist.
        KeyboardInterrupt: the user stopped it.
    """
    library = Library(folders)
    # uvicorn raises the signal again at its end. A shell starts background processes with SIGINT ignored, which would end as a success.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    with socket.create_server((HOST, 0)) as listening:
        gate = Gate(listening.getsockname()[1], reviewers)
        server = _Server(uvicorn.Config("", log_level="critical", access_log=False, timeout_graceful_shutdown=2, server_header=False))
        server.config.app = create_app(library, gate, closing=lambda: server.should_exit, settings=settings)

        def started() -> None:
            ready(gate)
            threading.Thread(target=compile_templates, name="chiron-view-templates", daemon=True).start()

        server.ready = started
        server.run(sockets=[listening])


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
