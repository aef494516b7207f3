"""Page of a training: loss, learning rate, gradient norm and throughput by step, and a table of the stages."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from starlette.responses import Response

from chiron.view.charts import HEIGHT, WIDTH, Chart, Point, chart
from chiron.view.model_states import Stage, TrainingState
from chiron.view.pages import page
from chiron.view.sources import InputError

_READ = 0.1


@dataclass(frozen=True, slots=True)
class StageRow:
    """One stage in the table."""

    name: str
    done: int
    steps: int
    first_loss: float | None
    last_loss: float | None
    """Mean of the last steps, up to 20."""
    held_out: float | None
    tokens: float
    tokens_per_second: float | None
    seconds: float
    memory_gib: float | None


def training_page(state: TrainingState) -> Response:
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
            stages=[stage_row(stage) for stage in stages],
            charts=_charts(stages),
            unreadable=state.unreadable,
            size=(WIDTH, HEIGHT),
        )


def stage_row(stage: Stage) -> StageRow:
    """Summarize a stage."""
    points = stage.points
    seconds = sum(point["seconds"] for point in points)
    tokens = sum(point["tokens"] for point in points)
    last = [point["loss"] for point in points[-20:]]
    return StageRow(
        stage.name,
        len(points),
        stage.steps,
        points[0]["loss"] if points else None,
        sum(last) / len(last) if last else None,
        stage.held_out[-1][1] if stage.held_out else None,
        tokens,
        tokens / seconds if seconds else None,
        seconds,
        max((point["memory_gib"] for point in points), default=None),
    )


def _charts(stages: list[Stage]) -> list[tuple[str, str, Chart | None]]:
    """Return the charts with title and unit."""
    speed: Callable[[dict[str, float]], float] = lambda p: p["tokens"] / p["seconds"] if p["seconds"] else float("nan")  # noqa: E731
    kinds: list[tuple[str, str, Callable[[dict[str, float]], float]]] = [
        ("Loss", "nats a trained token; a dot is the loss on held-out rows", lambda p: p["loss"]),
        ("Learning rate", "", lambda p: p["learning_rate"]),
        ("Gradient norm", "before clipping", lambda p: p["gradient_norm"]),
        ("Throughput", "tokens a second, without padding", speed),
    ]
    found = []
    for title, unit, value in kinds:
        series = []
        for stage in stages:
            points: list[Point] = [(point["total_steps"], value(point)) for point in stage.points]
            series.append((stage.name, points, stage.held_out if title == "Loss" else []))
        found.append((title, unit, chart(series)))
    return found
