"""Pages on which reviewers judge paths, and on which reviews that disagree are adjudicated."""

import json
import threading
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any, Literal

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from chiron.cases.case import Case
from chiron.client.ledger import StoredResult
from chiron.conversation.reasoning import parse_reasoning
from chiron.errors import ChironError, InputError
from chiron.reviews.agreement import agreement_of_reviews
from chiron.reviews.records import REASONS, Kind, ReviewBody, ReviewRecord, current_reviews, hash_path, parse_body
from chiron.view.access import Gate, Reviewer
from chiron.view.calls import CaseNotKnown, read_case
from chiron.view.case_index import case_key
from chiron.view.library import Library
from chiron.view.pages import page, readable
from chiron.view.review_queue import QueueView, ReviewQueue, ReviewSettings
from chiron.view.search_pages import image_names, result_of, search_of
from chiron.view.search_state import SearchState

_MOST_BYTES = 4 * 2**20
"""Maximum size of a review that a page sends."""
_SKIPPED: ReviewBody = {"steps": [], "final": None, "note": ""}
Task = Literal["review", "adjudicate"]


@dataclass(frozen=True)
class _Shown:
    """The path that a page is about."""

    state: SearchState
    queue: ReviewQueue
    result: StoredResult
    reasoning: str

    @property
    def sha256(self) -> str:
        return hash_path(self.reasoning)

    def events(self) -> list[ReviewRecord]:
        return [event for event in self.queue.store.events(self.result.case_id) if event["path_sha256"] == self.sha256]


class ReviewPages:
    """The pages of all reviewers."""

    def __init__(self, library: Library, gate: Gate, settings: ReviewSettings) -> None:
        self._library, self._gate, self._settings = library, gate, settings
        self._queues: dict[str, ReviewQueue] = {}
        self._lock = threading.Lock()

    def routes(self) -> list[Route]:
        """Return the routes; none without reviewers."""
        if not self._gate.reviewers:
            return []
        routes = [Route("/review", self.home)]
        tasks: tuple[Task, ...] = ("review", "adjudicate")
        for task in tasks:
            below = f"/runs/{{run}}/{task}"
            routes += [
                Route(below, partial(self._first, task)),
                Route(f"{below}/{{key}}", partial(self._show, task)),
                Route(f"{below}/{{key}}", partial(self._write, task), methods=["POST"]),
            ]
        return routes

    def home(self, request: Request) -> Response:
        """Return what waits for the reviewer in each search."""
        reviewer = self._person(request)
        rows = [self._row(state, reviewer) for state in self._library.states() if isinstance(state, SearchState)]
        return page("review_home.html", reviewer=reviewer, rows=rows)

    def _row(self, state: SearchState, reviewer: Reviewer) -> dict[str, object]:
        queue = self._queue(state)
        try:
            view = queue.view(reviewer.name) if reviewer.reviews else QueueView((), (), ())
            disputes = queue.disputes() if reviewer.adjudicates else []
            agreed = agreement_of_reviews(queue.store.events()) if reviewer.adjudicates else None
        except ChironError as problem:
            return {"run": state.place, "problem": str(problem)}
        skipped = [(name, case_key(name)) for name in view.skipped[-50:]]
        return {"run": state.place, "problem": "", "view": view, "skipped": skipped, "disputes": len(disputes), "agreed": agreed}

    def _first(self, task: Task, request: Request) -> Response:
        reviewer, state = self._person(request, task), search_of(self._library, request)
        return RedirectResponse(self._next(task, state, reviewer), HTTPStatus.SEE_OTHER)

    def _next(self, task: Task, state: SearchState, reviewer: Reviewer, done: str = "") -> str:
        """Return the address of the next path, or of the reviewer's home if none waits."""
        queue = self._queue(state)
        waiting = queue.view(reviewer.name).waiting if task == "review" else queue.disputes()
        # A damaged record would be first in the queue for ever.
        following = next((name for name in waiting if name != done and queue.has_path(name)), None)
        return "/review" if following is None else f"/runs/{state.place.id}/{task}/{case_key(following)}"

    def _show(self, task: Task, request: Request) -> Response:
        reviewer, shown = self._person(request, task), self._shown(request)
        result = shown.result
        with readable(f"the record of case '{result.case_id.strip()}'"):
            path = parse_reasoning(shown.reasoning)
            reviews = current_reviews(shown.events())
            mine = _mine(shown, task, reviewer, reviews)
            view = shown.queue.view(reviewer.name) if task == "review" else QueueView(tuple(shown.queue.disputes()), (), ())
            return page(
                "review.html",
                script=("view.js", "review.js"),
                reviewer=reviewer,
                task=task,
                run=shown.state.place,
                key=case_key(result.case_id),
                id=result.case_id.strip(),
                sha256=shown.sha256,
                question=str(result.record.get("question") or ""),
                answer=str(result.record.get("answer") or ""),
                case=_case(shown.state, result),
                names=image_names(result),
                steps=path.steps,
                final=path.answer or "",
                entries=_entries(mine, len(path.steps)),
                note=mine.get("note") or "",
                others=list(reviews.values()) if task == "adjudicate" else [],
                reasons=REASONS,
                waiting=len(view.waiting),
                handled=len(view.handled),
                before=_before(view, result.case_id),
                done=reviewer.name in reviews and task == "review",
            )

    async def _write(self, task: Task, request: Request) -> Response:
        reviewer = self._person(request, task)
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > _MOST_BYTES:
                return JSONResponse({"error": "the review is too large: shorten its texts"}, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        try:
            return await run_in_threadpool(self._store, task, request, reviewer, body)
        except ChironError as problem:
            return JSONResponse({"error": str(problem)}, HTTPStatus.UNPROCESSABLE_ENTITY)

    def _store(self, task: Task, request: Request, reviewer: Reviewer, body: bytes) -> Response:
        try:
            sent = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise InputError("the review cannot be read: load the page again") from error
        shown = self._shown(request)
        if not isinstance(sent, dict) or sent.get("path_sha256") != shown.sha256:
            raise InputError("the path has changed since this page was loaded: load the page again")
        store, case_id = shown.queue.store, shown.result.case_id
        kind: Kind = "review" if task == "review" else "adjudication"
        match sent.get("do"):
            case "draft":
                store.save_draft(kind, reviewer.name, case_id, shown.sha256, sent.get("review"))
                return JSONResponse({})
            case "skip" if task == "review":
                store.add("skip", reviewer.name, case_id, shown.sha256, _SKIPPED)
            case "submit":
                with readable(f"the path of case '{case_id.strip()}'"):
                    review = parse_body(sent.get("review"), shown.reasoning)
                store.add(kind, reviewer.name, case_id, shown.sha256, review)
            case _:
                raise InputError("the request names nothing to do: load the page again")
        return JSONResponse({"next": self._next(task, shown.state, reviewer, case_id)})

    def _person(self, request: Request, task: Task | None = None) -> Reviewer:
        reviewer = self._gate.reviewer(request)
        allowed = reviewer is not None and {None: True, "review": reviewer.reviews, "adjudicate": reviewer.adjudicates}[task]
        if reviewer is None or not allowed:
            raise HTTPException(HTTPStatus.FORBIDDEN, "This page needs another reviewer's address, which 'chiron view' printed.")
        return reviewer

    def _queue(self, state: SearchState) -> ReviewQueue:
        with self._lock:
            return self._queues.setdefault(state.place.id, ReviewQueue(state, self._settings))

    def _shown(self, request: Request) -> _Shown:
        state = search_of(self._library, request)
        result = result_of(state, request)
        reasoning = result.record.get("reasoning")
        if not isinstance(reasoning, str) or not reasoning:
            raise HTTPException(HTTPStatus.NOT_FOUND, "This case has no path to review.")
        return _Shown(state, self._queue(state), result, reasoning)


def _case(state: SearchState, result: StoredResult) -> Case | str:
    """Return the case with its history and findings, or why they are not known."""
    try:
        return read_case(state.selection, result)
    except CaseNotKnown as problem:
        return str(problem).replace("so prompts are not shown", "so history and findings are not shown")


def _mine(shown: _Shown, task: Task, reviewer: Reviewer, reviews: dict[str, ReviewRecord]) -> dict[str, Any]:
    """Return what the reviewer began, or decided before, as the form has it."""
    kind: Kind = "review" if task == "review" else "adjudication"
    draft = shown.queue.store.draft(kind, reviewer.name, shown.result.case_id, shown.sha256)
    if isinstance(draft, dict):
        return draft
    known = reviews.get(reviewer.name) if task == "review" else None
    return dict(known) if known is not None else {}


def _entries(mine: dict[str, Any], steps: int) -> list[dict[str, str]]:
    """Return the fields of the form for each step and, last, for the final answer."""
    listed = mine.get("steps")
    listed = listed if isinstance(listed, list) and len(listed) == steps else [None] * steps
    entries = [entry if isinstance(entry, dict) else {} for entry in (*listed, mine.get("final"))]
    return [{name: str(entry.get(name) or "") for name in ("verdict", "reason", "note", "text")} for entry in entries]


def _before(view: QueueView, case_id: str) -> str | None:
    """Return the key of the path that the reviewer handled before this one."""
    at = view.handled.index(case_id) if case_id in view.handled else len(view.handled)
    return case_key(view.handled[at - 1]) if at else None
