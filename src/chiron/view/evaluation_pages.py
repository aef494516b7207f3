"""Pages of evaluations: the table, the items with filters, and models side by side."""

import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from chiron.cases.images import ImageFolder
from chiron.errors import ChironError
from chiron.evaluation.figures import shown_scores
from chiron.evaluation.item_figure import item_figure
from chiron.evaluation.items import Verdict
from chiron.evaluation.read_runs import REAL
from chiron.view.evaluations import FILTERS, AskedItem, Comparison, Comparisons
from chiron.view.images import image_response
from chiron.view.library import Library
from chiron.view.model_states import EvaluationState
from chiron.view.pages import filters_of, page, paged

PAGE = 25
"""Items on one page."""
MOST_REPLY = 20_000
"""Characters of a reply that are shown."""
_READ = 0.1
_FILTERED = ("kind", "benchmark", "find", "control", "as")


class EvaluationPages:
    """The pages, and the comparisons that they share."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._comparisons = Comparisons(changed=self._changed)

    def _changed(self) -> None:
        self._library.version += 1

    def routes(self) -> list[Route]:
        """Return the routes other than the page of one evaluation."""
        return [Route("/compare/item", self.item), Route("/runs/{run}/answers/{line:place}/images/{number:place}", self.image)]

    def show(self, states: list[EvaluationState], request: Request) -> Response:
        """Return the page of one or more evaluations."""
        lines = [state.line(time.monotonic() + _READ) for state in states]
        found: Comparison | None = None
        problem = ""
        try:
            found = self._comparisons.get(states)
        except ChironError as error:
            problem = str(error)
        chosen = {state.place.id for state in states}
        others = [s for s in self._library.states() if isinstance(s, EvaluationState) and s.place.id not in chosen]
        return page(
            "evaluation.html",
            lines=lines,
            watch=states[0].place.id if len(states) == 1 else "",
            problem=problem,
            found=found,
            others=[state.place for state in others],
            verdicts=[str(verdict) for verdict in Verdict],
            most_reply=MOST_REPLY,
            shown_scores=shown_scores,
            **_items(found, states, request),
        )

    def item(self, request: Request) -> Response:
        """Return the page of one item, with the answers of the chosen evaluations in columns."""
        chosen = self._library.chosen(request.query_params.getlist("run"))
        states = [state for state in chosen if isinstance(state, EvaluationState)]
        if not states:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        found = self._comparisons.get(states)
        wanted, control = request.query_params.get("item", ""), request.query_params.get("control", REAL)
        items = _fitting(found, request)[0]
        names = [item.name for item in items]
        figure = item_figure(found.models, wanted, found.folders, control=control)
        at = names.index(wanted) if wanted in names else None
        return page(
            "evaluation_item.html",
            styles=("report.css", "items.css", "view.css"),
            figure=figure,
            item=figure.item,
            before=items[at - 1] if at else None,
            after=items[at + 1] if at is not None and at + 1 < len(items) else None,
            item_link=_linker(states, request),
            query=_query(states, request),
        )

    def image(self, request: Request) -> Response:
        """Return an image of an item, by the line of an answer and its place in the item."""
        state = self._library.get(request.path_params["run"])
        if not isinstance(state, EvaluationState):
            raise HTTPException(HTTPStatus.NOT_FOUND)
        with state.lock:
            state.lines.advance(float("inf"))
            try:
                record = state.lines.record(request.path_params["line"])
            except IndexError as error:
                raise HTTPException(HTTPStatus.NOT_FOUND) from error
        names, benchmark = record.get("images"), record.get("benchmark")
        number = request.path_params["number"]
        if not isinstance(names, list) or number >= len(names):
            raise HTTPException(HTTPStatus.NOT_FOUND)
        folder = self._comparisons.folder(state, str(benchmark))
        if folder is None:
            raise HTTPException(HTTPStatus.NOT_FOUND, f"the image folder of {benchmark} is not known, or does not exist any more")
        return image_response(ImageFolder(folder), str(names[number]), request)


def _items(found: Comparison | None, states: list[EvaluationState], request: Request) -> dict[str, Any]:
    """Return the items that fit the filters, for the template."""
    fitting, kept = _fitting(found, request)
    shown, pager = paged(request, len(fitting), PAGE, _query(states, request))
    of_models = [{answer.model: answer for answer in item.answers} for item in fitting[shown]]
    return {
        "kinds": FILTERS,
        "chosen": kept,
        "items": fitting[shown],
        "models": list(dict.fromkeys(model for answers in of_models for model in answers)),
        "cells": of_models,
        "full": len(states) == 1 or request.query_params.get("as") == "full",
        "item_link": _linker(states, request),
        "fitting": len(fitting),
        "total": len(found.items.get(kept["control"], [])) if found is not None else 0,
        **pager,
    }


def _fitting(found: Comparison | None, request: Request) -> tuple[list[AskedItem], dict[str, str]]:
    """Return the items that fit the filters of a request, and these filters."""
    wanted = dict.fromkeys(_FILTERED, "") | filters_of(request, _FILTERED)
    kind = wanted["kind"] if wanted["kind"] in FILTERS else "all"
    items = found.items if found is not None else {}
    control = wanted["control"] if wanted["control"] in items else REAL if REAL in items else next(iter(items), REAL)
    words = wanted["find"].lower().split()[:8]
    fitting = [item for item in items.get(control, []) if item.fits(kind, wanted["benchmark"], words)]
    return fitting, wanted | {"kind": kind, "control": control}


def _query(states: list[EvaluationState], request: Request) -> list[tuple[str, str]]:
    """Return the evaluations and filters of a request for the address of another page."""
    runs = [("run", state.place.id) for state in states] if request.url.path.startswith("/compare") else []
    return [*runs, *((name, value) for name, value in filters_of(request, _FILTERED).items() if value)]


def _linker(states: list[EvaluationState], request: Request) -> Callable[[AskedItem], str]:
    """Return a function that returns the address of an item's page."""
    given = [(name, value) for name, value in _query(states, request) if name != "run"]
    runs = [("run", state.place.id) for state in states]
    return lambda item: "/compare/item?" + urlencode([*runs, *given, ("item", item.name)])
