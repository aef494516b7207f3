"""Progress displays: a live panel on a terminal, plain lines elsewhere."""

import asyncio
import textwrap
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Self

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from chiron.cli.streams import PLAIN_EVERY, plain_table
from chiron.client.client import Count
from chiron.jobs.job import AnyJob
from chiron.terminal import printable
from chiron.training.metrics import HeldOut, StepMetrics

if TYPE_CHECKING:
    from chiron.training.packing import StagePlan

_NARROW, _WIDE = 72, 100
"""Terminal widths in columns: below the first there is no room for a table, from the second on there is room for wide padding."""
_WORK = ("mentor", "intern", "author", "reader", "model", "extractor", "ranker", "reward_model", "grader", "checker", "judge")
_ROLES = {name: rank for rank, name in enumerate(_WORK)}
"""Roles in the order of their work."""
_STYLES = {"retained": "green", "kept": "green", "right": "green", "pending": "magenta", "bad": "red", "unparsed": "magenta"}


@asynccontextmanager
async def watching(run: AnyJob, console: Console) -> AsyncIterator[None]:
    """Show the progress of ``run`` on ``console`` (standard error) while the block runs."""
    task = asyncio.create_task(_panel(run, console) if console.is_terminal else _lines(run, console))
    try:
        yield
    finally:
        task.cancel()
        # An error in the display must not stop the run, but it is reported.
        (broke,) = await asyncio.gather(task, return_exceptions=True)
        if not console.is_terminal and run.progress.total and not isinstance(broke, Exception):
            (broke,) = await asyncio.gather(_line(run, console), return_exceptions=True)
        if isinstance(broke, Exception):
            console.print(f"the progress display failed ({escape(printable(repr(broke)))}); the run continued")


async def _panel(run: AnyJob, console: Console) -> None:
    with Live(console=console, refresh_per_second=8, transient=True, get_renderable=lambda: panel(run, console.width)):
        await asyncio.Event().wait()  # until cancelled; the panel refreshes itself


async def _lines(run: AnyJob, console: Console) -> None:
    while True:
        await asyncio.sleep(PLAIN_EVERY)
        await _line(run, console)


async def _line(run: AnyJob, console: Console) -> None:
    console.print(plain_line(run), soft_wrap=True)
    if run.client is not None:
        for line in (*run.client.batches(), *run.client.down()):
            console.print(escape(printable(line)), soft_wrap=True)


def plain_line(run: AnyJob) -> str:
    """Format the state of a run in one line."""
    p = run.progress
    figure = f", {p.figure()}" if p.figure() else ""
    left = "" if p.seconds_left is None or not p.in_flight else f", {duration(p.seconds_left)} left"
    ended = "".join(f"{count} {name}, " for name, count in p.counts())
    calls = ", ".join(f"{role} {c.asked} (+{c.free} known)" for role, c in by_role(run).items())
    cost = f", ${run.client.budget.spent:.2f}" if run.client is not None and run.client.budget.spent else ""
    return (
        f"{time.strftime('%H:%M:%S')} {p.unit} {p.already + p.done}/{p.total}: {ended}{p.in_flight} in flight;"
        f" calls {calls or 'none'}{figure}{cost}{left}"
    )


def panel(run: AnyJob, width: int) -> Group:
    """Format the state of a run as a table, or as text if ``width`` (in columns) has no room for a table."""
    if width < _NARROW:
        # Wrap here, because a live display cuts lines at the width of the terminal.
        return Group(*(Text(line) for line in textwrap.wrap(plain_line(run), max(20, width - 1))))
    p = run.progress
    head = Table.grid(padding=(0, 2))
    head.add_row(
        Text(p.unit, style="bold"),
        ProgressBar(total=max(1, p.total), completed=p.already + p.done, width=32),
        f"{p.already + p.done}/{p.total}",
        f"in flight {p.in_flight}",
        "" if p.seconds_left is None else f"{duration(p.seconds_left)} left",
    )
    outcomes = Text("   ").join(
        [*(Text(f"{name} {count}", style=_STYLES.get(name, "")) for name, count in p.counts()), *([Text(p.figure())] if p.figure() else [])]
    )
    if run.client is not None:
        figures = ("asked", "from ledger", "in flight", "retries", "failed", "allowed")
        table = plain_table(("role", "model"), figures, gap=2 if width >= _WIDE else 1, overflow="fold")
        for (model, role), c in sorted(run.client.counts.items(), key=lambda item: (_ROLES.get(item[0][1], 9), item[0][0])):
            limiter = run.client.endpoints[model].limiter
            allowed = f"{int(limiter.allowed)}/{limiter.ceiling}"
            numbers = [str(n) for n in (c.asked, c.free, c.in_flight, c.retries, c.failed)]
            table.add_row(role, Text(printable(model)), *numbers, allowed)
        budget = run.client.budget
        money = f"${budget.spent:.4f}" + (f" of ${budget.limit:.2f}" if budget.limit is not None else "")
        halted = f"   stopping: {printable(run.client.halted)}" if run.client.halted is not None else ""
        down = [Text(printable(line), style="red") for line in run.client.down()]
        batches = [Text(printable(line)) for line in run.client.batches()]
        return Group(head, outcomes, table, *batches, *down, Text(f"cost {money}{halted}", style="dim"))
    return Group(head, outcomes)


def by_role(run: AnyJob) -> dict[str, Count]:
    """Sum the counts over the models of each role."""
    sums: dict[str, Count] = {}
    if run.client is not None:
        for (_, role), c in sorted(run.client.counts.items(), key=lambda item: _ROLES.get(item[0][1], 9)):
            s = sums.setdefault(role, Count())
            s.asked += c.asked
            s.free += c.free
    return sums


def duration(seconds: float) -> str:
    """``3 s``, ``2 min 05 s``, ``4 h 10 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class TrainingView:
    """Progress bars of a training run."""

    def __init__(self, console: Console, plans: "list[StagePlan]") -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[detail]}"), TimeRemainingColumn(),
            console=console, disable=not console.is_terminal,
        )  # fmt: skip
        self._tasks = {p.stage.name: self._bar.add_task(p.stage.name, total=p.steps, detail="", start=False) for p in plans}
        self._last = 0.0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def tell(self, metrics: StepMetrics | HeldOut) -> None:
        """Show a step, or the end of a stage."""
        if isinstance(metrics, HeldOut):
            answers = f", {metrics.accuracy:.0%} of {metrics.answers} answers right" if metrics.accuracy is not None else ""
            loss = f"held-out loss {metrics.held_out_loss:.4f} over {metrics.rows} rows"
            self._console.print(f"stage {metrics.stage}, step {metrics.total_steps}: {loss}{answers}")
            return
        task = self._tasks[metrics.stage]
        self._bar.start_task(task)
        detail = (
            f"loss {metrics.loss:.3f}  {metrics.tokens / metrics.seconds:,.0f} tokens/s  {metrics.utilisation:.0%} used"
            f"  {metrics.memory_gib:.1f} GiB"
        )
        self._bar.update(task, completed=metrics.step, detail=detail)
        now = time.monotonic()
        if not self._console.is_terminal and (now - self._last >= PLAIN_EVERY or metrics.step == metrics.steps):
            self._last = now
            self._console.print(f"stage {metrics.stage} step {metrics.step}/{metrics.steps} {detail}")
