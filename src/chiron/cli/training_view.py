"""What a person sees while a model trains: a live line on a terminal, a plain one now and then elsewhere."""

import time
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from chiron.training.metrics import HeldOut, StepMetrics
from chiron.training.plan import StagePlan

PLAIN_EVERY = 10.0
"""Seconds between plain lines."""


class TrainingView:
    """Told of every step; shows what matters of it."""

    def __init__(self, console: Console, plans: list[StagePlan]) -> None:
        """``plans``: the stages to come."""
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[told]}"), TimeRemainingColumn(),
            console=console, disable=not console.is_terminal,
        )  # fmt: skip
        self._tasks = {p.stage.name: self._bar.add_task(p.stage.name, total=p.steps, told="", start=False) for p in plans}
        self._last = 0.0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def tell(self, metrics: StepMetrics | HeldOut) -> None:
        """Show a step, or a stage's end."""
        if isinstance(metrics, HeldOut):
            self._console.print(f"stage {metrics.stage}: held-out loss {metrics.held_out_loss:.4f} over {metrics.rows} rows")
            return
        task = self._tasks[metrics.stage]
        self._bar.start_task(task)
        told = (
            f"loss {metrics.loss:.3f}  {metrics.tokens / metrics.seconds:,.0f} tokens/s  {metrics.utilisation:.0%} used"
            f"  {metrics.memory_gib:.1f} GiB"
        )
        self._bar.update(task, completed=metrics.step, told=told)
        now = time.monotonic()
        if not self._console.is_terminal and (now - self._last >= PLAIN_EVERY or metrics.step == metrics.steps):
            self._last = now
            self._console.print(f"stage {metrics.stage} step {metrics.step}/{metrics.steps} {told}")
