"""Two searches of the same cases side by side: the cases of both, and the two paths of one case."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import urlencode

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from chiron.client.ledger import Ledger
from chiron.errors import InputError
from chiron.jobs.directory import LEDGER
from chiron.reports.case_view import CaseView, case_view
from chiron.view.case_index import CaseHead
from chiron.view.discovery import Place
from chiron.view.evaluation_pages import EvaluationPages
from chiron.view.library import Library
from chiron.view.model_states import EvaluationState
from chiron.view.pages import page, paged, readable
from chiron.view.search_pages import PAGE, READ, image_names
from chiron.view.search_state import SearchState
from chiron.view.states import RunState


@dataclass(frozen=True, slots=True)
class Pair:
    """A case in both searches."""

    first: CaseHead | None
    """``None`` if only the other search has the case."""
    second: CaseHead | None

    @property
    def head(self) -> CaseHead:
        """The case in one of the searches, in the first if it is there."""
        head = self.first or self.second
        assert head is not None  # noqa: S101 - a pair has a case
        return head

    @property
    def difference(self) -> float | None:
        """Score in the second search minus score in the first."""
        scores = [head.score for head in (self.first, self.second) if head is not None and head.score is not None]
        return scores[1] - scores[0] if len(scores) == 2 else None

    @property
    def differs(self) -> bool:
        """Whether the outcome or the score is not the same."""
        a, b = self.first, self.second
        return a is None or b is None or (a.kind, a.score) != (b.kind, b.score)


_FILTERS: Mapping[str, tuple[str, Callable[[Pair], bool]]] = {
    "all": ("all cases", lambda _: True),
    "differ": ("differ", lambda pair: pair.differs),
    "better": ("better in the second", lambda pair: (pair.difference or 0.0) > 1e-9),
    "worse": ("worse in the second", lambda pair: (pair.difference or 0.0) < -1e-9),
    "first": ("retained only in the first", lambda pair: _retained(pair) == (True, False)),
    "second": ("retained only in the second", lambda pair: _retained(pair) == (False, True)),
    "missing": ("in one search only", lambda pair: pair.first is None or pair.second is None),
}


def _retained(pair: Pair) -> tuple[bool, bool]:
    return (pair.first is not None and pair.first.kind == "retained", pair.second is not None and pair.second.kind == "retained")


class ComparePages:
    """The pages that show several runs side by side."""

    def __init__(self, library: Library, evaluations: EvaluationPages) -> None:
        """Show runs of ``library``; ``evaluations`` shows those that are evaluations."""
        self._library, self._evaluations = library, evaluations
        self._known: tuple[object, list[Pair]] = (None, [])

    def routes(self) -> list[Route]:
        return [Route("/compare", self.compare), Route("/compare/cases/{key}", self.case)]

    def _chosen(self, request: Request) -> list[RunState]:
        return self._library.chosen(request.query_params.getlist("run"))

    def compare(self, request: Request) -> Response:
        chosen = self._chosen(request)
        evaluations = [state for state in chosen if isinstance(state, EvaluationState)]
        if evaluations and len(evaluations) == len(chosen):
            return self._evaluations.show(evaluations, request)
        return self._searches(*_two_searches(chosen), request)

    def _searches(self, first: SearchState, second: SearchState, request: Request) -> Response:
        lines = [state.line(time.monotonic() + READ) for state in (first, second)]
        for state in (first, second):
            if state.problem:
                raise InputError(state.problem)
        pairs = self._pairs(first, second)
        kind = request.query_params.get("kind", "all")
        kind = kind if kind in _FILTERS else "all"
        find = request.query_params.get("find", "")[:200]
        words = find.lower().split()[:8]
        fitting = [pair for pair in pairs if _FILTERS[kind][1](pair) and all(word in pair.head.case_id.lower() for word in words)]
        runs = [("run", line.id) for line in lines]
        given = [(name, value) for name, value in (("kind", kind), ("find", find)) if value and value != "all"]
        shown, pager = paged(request, len(fitting), PAGE, [*runs, *given])
        differences = [pair.difference for pair in pairs if pair.difference is not None]
        return page(
            "compare.html",
            lines=lines,
            filters={name: title for name, (title, _) in _FILTERS.items()},
            kind=kind,
            find=find,
            pairs=fitting[shown],
            fitting=len(fitting),
            total=len(pairs),
            retained=Counter(_retained(pair) for pair in pairs),
            differences=len(differences),
            mean_difference=sum(differences) / len(differences) if differences else None,
            **pager,
            case_query="?" + urlencode(runs),
        )

    def _pairs(self, first: SearchState, second: SearchState) -> list[Pair]:
        """Return the cases of both searches in the order of the first; kept until one of them changes."""
        now: list[tuple[str, int, int]] = []
        for state in (first, second):
            with state.lock:
                state.read_details(time.monotonic() + READ)
                now.append((state.place.id, id(state.index), state.index.changes))
        known, pairs = self._known
        if known != now:
            heads = []
            for state in (first, second):
                with state.lock:
                    heads.append({head.key: head for head in state.index.heads()})
            one, other = heads
            pairs = [Pair(one.get(key), other.get(key)) for key in dict.fromkeys((*one, *other))]
            self._known = now, pairs
        return pairs

    def case(self, request: Request) -> Response:
        """Return the page of one case in both searches.

        Raises:
            InputError: a record cannot be read.
        """
        states, key = _two_searches(self._chosen(request)), request.path_params["key"]
        sides: list[tuple[Place, CaseView | None, list[str]]] = []
        for state in states:
            with state.lock:
                state.line(time.monotonic() + READ)
                row = state.index.by_key(key)
            with Ledger.read(state.path / LEDGER) as ledger:
                result = ledger.result(row.case_id) if row is not None else None
            if result is None:
                sides.append((state.place, None, []))
                continue
            with readable(f"the record of case '{result.case_id.strip()}'"):
                sides.append((state.place, case_view(result, 1, ()), image_names(result)))
        found = [(place, case, names) for place, case, names in sides if case is not None]
        if not found:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        run, case, names = found[0]
        query = urlencode([("run", state.place.id) for state in states])
        return page("compare_case.html", sides=sides, run=run, key=key, id=case.id, case=case, names=names, query=query)


def _two_searches(chosen: list[RunState]) -> tuple[SearchState, SearchState]:
    searches = [state for state in chosen if isinstance(state, SearchState)]
    if len(searches) != 2 or len(chosen) != 2:
        raise HTTPException(HTTPStatus.NOT_FOUND, "Choose evaluations, or two searches, to compare on the page of one of them.")
    return searches[0], searches[1]
