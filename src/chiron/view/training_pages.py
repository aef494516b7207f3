"""Page of a training: loss, learning rate, gradient norm and throughput by step, and a table of the stages."""

import time
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from chiron.errors import InputError
from chiron.view.charts import HEIGHT, WIDTH, Chart, Point, chart
from chiron.view.model_states import Stage, TrainingState
from chiron.view.pages import filters_of, page, paged

_READ = 0.1
_ROWS = 20
"""Sampled rows on one page."""
_KINDS = {"": "all rows", "wrong": "last answer wrong", "right": "last answer right", "changed": "verdict changed"}


def training_page(state: TrainingState, request: Request) -> Response:
    """Return the page of a training.

    Raises:
        InputError: its metrics cannot be read.
    """
    with state.lock:
        line = state.line(time.monotonic() + _READ)
        if state.problem:
            raise InputError(state.problem)
        stages = list(state.stages.values())
        return page(
            "training.html",
            line=line,
            stages=[_stage_row(stage) for stage in stages],
            charts=_charts(stages),
            unreadable=state.unreadable,
            size=(WIDTH, HEIGHT),
            **_samples(state, request),
        )


def _samples(state: TrainingState, request: Request) -> dict[str, Any]:
    """Return the rows that were answered during the training, a page of them with the answer of every checkpoint."""
    state.samples.advance(time.monotonic() + _READ)
    by_row: dict[str, list[dict[str, Any]]] = {}
    unreadable = 0
    for number in range(len(state.samples)):
        try:
            sample = state.samples.record(number)
            by_row.setdefault(str(sample["id"]), []).append({**sample, "total_steps": int(sample["total_steps"])})
        except (InputError, KeyError, TypeError, ValueError, OverflowError):
            unreadable += 1
    given = {"find": "", "kind": ""} | filters_of(request, ("find", "kind"))
    words = given["find"].lower().split()[:8]
    rows = [samples for samples in by_row.values() if _fits(samples, given["kind"], words)]
    shown, pager = paged(request, len(rows), _ROWS, [item for item in given.items() if item[1]], anchor="#samples-title")
    return {
        "samples": rows[shown],
        "sampled": len(by_row),
        "fitting": len(rows),
        "samples_unreadable": unreadable,
        "kinds": _KINDS,
        **given,
        **pager,
    }


def _fits(samples: list[dict[str, Any]], kind: str, words: list[str]) -> bool:
    verdicts = [sample.get("correct") for sample in samples]
    if not {"wrong": verdicts[-1] is False, "right": verdicts[-1] is True, "changed": len(set(verdicts)) > 1}.get(kind, True):
        return False
    text = " ".join(str(sample.get(name)) for sample in samples for name in ("id", "question", "reference", "reply")).lower()
    return all(word in text for word in words)


def _stage_row(stage: Stage) -> dict[str, object]:
    """Return the cells of a stage in the table."""
    points = stage.points
    seconds = sum(point["seconds"] for point in points)
    tokens = sum(point["tokens"] for point in points)
    last = [point["loss"] for point in points[-20:]]
    return {
        "name": stage.name,
        "done": len(points),
        "steps": stage.steps,
        "first_loss": points[0]["loss"] if points else None,
        "last_loss": sum(last) / len(last) if last else None,
        "held_out": stage.held_out[-1][1] if stage.held_out else None,
        "accuracy": stage.accuracy[-1][1] if stage.accuracy else None,
        "tokens": tokens,
        "tokens_per_second": tokens / seconds if seconds else None,
        "seconds": seconds,
        "memory_gib": max((point["memory_gib"] for point in points), default=None),
    }


def _charts(stages: list[Stage]) -> list[tuple[str, str, Chart | None]]:
    """Return the charts with title and unit."""
    speed: Callable[[dict[str, float]], float] = lambda p: p["tokens"] / p["seconds"] if p["seconds"] else float("nan")  # noqa: E731
    kinds: list[tuple[str, str, Callable[[dict[str, float]], float]]] = [
        ("Loss", "nats a trained token; a dot is the loss on held-out rows", lambda p: p["loss"]),
        ("Learning rate", "", lambda p: p["learning_rate"]),
        ("Gradient norm", "before clipping", lambda p: p["gradient_norm"]),
        ("Throughput", "tokens a second, without padding", speed),
    ]
    found = [
        (
            "Held-out loss",
            "nats a trained token",
            chart([(stage.name, stage.held_out, stage.held_out) for stage in stages if stage.held_out]),
        ),
        (
            "Held-out accuracy",
            "share of the generated answers that are right",
            chart([(stage.name, stage.accuracy, stage.accuracy) for stage in stages if stage.accuracy]),
        ),
    ]
    for title, unit, value in kinds:
        series = []
        for stage in stages:
            points: list[Point] = [(point["total_steps"], value(point)) for point in stage.points]
            series.append((stage.name, points, stage.held_out if title == "Loss" else []))
        found.append((title, unit, chart(series)))
    return found
