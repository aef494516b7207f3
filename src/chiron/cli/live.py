"""What a person sees while a search runs: a live panel on a terminal, a plain line now and then elsewhere."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from chiron.mics.running import Run
from chiron.models.desk import Count
from chiron.terminal import printable

PLAIN_EVERY = 10.0
"""Seconds between plain lines."""
_ROLES = {"mentor": 0, "intern": 1, "judge": 2}


@asynccontextmanager
async def watching(run: Run, console: Console) -> AsyncIterator[None]:
    """Show ``run`` on ``console`` (standard error) while the block lasts."""
    task = asyncio.create_task(_panel(run, console) if console.is_terminal else _lines(run, console))
    try:
        yield
    finally:
        task.cancel()
        # A view that broke is no reason to lose the run that it showed; what broke it is said all the same.
        (broke,) = await asyncio.gather(task, return_exceptions=True)
        if isinstance(broke, Exception):
            console.print(f"the view stopped: {escape(printable(repr(broke)))}; the run did not")
        elif not console.is_terminal and run.progress.total:
            console.print(plain_line(run), soft_wrap=True)


async def _panel(run: Run, console: Console) -> None:
    with Live(console=console, refresh_per_second=8, transient=True, get_renderable=lambda: panel(run)):
        await asyncio.Event().wait()  # until cancelled; the panel refreshes itself


async def _lines(run: Run, console: Console) -> None:
    while True:
        await asyncio.sleep(PLAIN_EVERY)
        console.print(plain_line(run), soft_wrap=True)


def plain_line(run: Run) -> str:
    """The state of a run in one line."""
    p = run.progress
    mean = "" if p.mean_score is None else f", mean MICS-Score {p.mean_score:.2f}"
    left = "" if p.seconds_left is None or not p.in_flight else f", {duration(p.seconds_left)} left"
    calls = ", ".join(f"{role} {c.asked} (+{c.free} known)" for role, c in by_role(run).items())
    cost = f", ${run.desk.budget.spent:.2f}" if run.desk is not None and run.desk.budget.spent else ""
    return (
        f"{time.strftime('%H:%M:%S')} cases {p.already + p.done}/{p.total}: {p.retained} retained, {p.rejected} rejected,"
        f" {p.unsolved} unsolved, {p.pending} pending, {p.bad} bad, {p.in_flight} in flight; calls {calls}{mean}{cost}{left}"
    )


def panel(run: Run) -> Group:
    """The state of a run as a table."""
    p = run.progress
    head = Table.grid(padding=(0, 2))
    head.add_row(
        Text("cases", style="bold"),
        ProgressBar(total=max(1, p.total), completed=p.already + p.done, width=32),
        f"{p.already + p.done}/{p.total}",
        f"in flight {p.in_flight}",
        "" if p.seconds_left is None else f"{duration(p.seconds_left)} left",
    )
    outcomes = Text.assemble(
        (f"retained {p.retained}", "green"),
        "   ",
        (f"rejected {p.rejected}", "yellow"),
        "   ",
        (f"unsolved {p.unsolved}", "yellow"),
        "   ",
        (f"pending {p.pending}", "magenta"),
        "   ",
        (f"bad {p.bad}", "red"),
        "   ",
        "mean MICS-Score " + ("-" if p.mean_score is None else f"{p.mean_score:.2f}"),
    )
    table = Table(box=None, padding=(0, 2), pad_edge=False, header_style="dim")
    for title in ("role", "model", "asked", "from ledger", "in flight", "retries", "failed", "allowed"):
        table.add_column(title, justify="left" if title in {"role", "model"} else "right")
    if run.desk is not None:
        for (model, role), c in sorted(run.desk.counts.items(), key=lambda item: (_ROLES.get(item[0][1], 9), item[0][0])):
            limiter = run.desk.endpoints[model].limiter
            allowed = f"{int(limiter.allowed)}/{limiter.ceiling}"
            numbers = [str(n) for n in (c.asked, c.free, c.in_flight, c.retries, c.failed)]
            table.add_row(role, Text(printable(model)), *numbers, allowed)
        budget = run.desk.budget
        money = f"${budget.spent:.4f}" + (f" of ${budget.limit:.2f}" if budget.limit is not None else "")
        halted = f"   stopping: {printable(run.desk.halted)}" if run.desk.halted is not None else ""
        return Group(head, outcomes, table, Text(f"cost {money}{halted}", style="dim"))
    return Group(head, outcomes)


def by_role(run: Run) -> dict[str, Count]:
    """Counts summed over the models of each role."""
    sums = {role: Count() for role in _ROLES}
    if run.desk is not None:
        for (_, role), c in run.desk.counts.items():
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
