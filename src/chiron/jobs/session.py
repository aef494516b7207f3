"""Run many units through one model client, with a locked directory, a ledger, a budget, and a way to stop.

The search has its own loop, because it stores results. Jobs whose results can be derived from the replies (a build, an evaluation) run
here. To resume such a job, run it again: no call is paid for twice.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, TypeVar

from chiron.client.budget import Budget
from chiron.client.call import Ask
from chiron.client.client import Endpoint, ModelClient
from chiron.client.failures import CallFailed, RunStopped, commonest
from chiron.client.ledger import Ledger, Spending
from chiron.errors import DiskError
from chiron.jobs.crashes import CrashLog, UnitCrashed
from chiron.jobs.directory import WorkDirectory


@dataclass
class Progress:
    """Progress counters, updated by the job and read by a view."""

    unit: str = "cases"
    """Name of the counted units, in the plural."""
    total: int = 0
    """Number of selected units."""
    already: int = 0
    """Units done by an earlier process, which are also included in the counters below."""
    done: int = 0
    """Units ended by this process, including pending and bad ones."""
    in_flight: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    """Units by outcome."""
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds_left(self) -> float | None:
        """Estimated seconds left; a unit in flight counts as half done. ``None`` before the first unit is done."""
        if not self.done:
            return None
        left = max(0.0, self.total - self.already - self.done - self.in_flight / 2)
        return left * (time.monotonic() - self.began) / (self.done + self.in_flight / 2)

    def tally(self) -> Sequence[tuple[str, int]]:
        """Units by outcome, in display order."""
        return self.outcomes.most_common()

    def figure(self) -> str:
        """Short additional text for the display; may be empty."""
        return ""


Unit = TypeVar("Unit")
Result = TypeVar("Result")

_AHEAD = 4
"""Maximum completed units that wait for the oldest unfinished one, as a multiple of the units in flight. Results are returned in the order
of the units.
"""


class Job(Protocol):
    """Interface required by the progress display and the signal handler."""

    desk: ModelClient | None

    @property
    def progress(self) -> Progress:
        """Progress of the job."""
        ...

    def stop(self) -> None:
        """Send no more calls. Replies to calls in flight are still received and stored."""
        ...


@dataclass(frozen=True, slots=True)
class Pending:
    """Placeholder for the result of a unit whose calls failed, which crashed, or which was stopped. Running again resumes it."""

    problem: str
    refused: bool = False
    """Whether its calls would be rejected again, so that rerunning does not help."""


@dataclass(frozen=True)
class SessionSummary:
    """Summary of a finished or stopped job."""

    directory: Path
    total: int
    pending: int
    """Units without a result; the same command resumes them."""
    pending_because: str | None
    """Most common reason for pending units."""
    refused: int
    """Pending units whose calls would be rejected again."""
    outcomes: Mapping[str, int]
    """The other units, by outcome."""
    spending: tuple[Spending, ...]
    spent_usd: float
    possibly_spent_usd: float
    """Part of ``spent_usd`` that was reserved for calls without a reply."""
    seconds: float
    halted: RunStopped | DiskError | None = None
    """Why the job stopped early, if it did."""
    notes: tuple[str, ...] = ()
    """Further notes for the user."""


@asynccontextmanager
async def open_client(endpoints: Mapping[str, Endpoint], ledger: Ledger, budget_usd: float | None) -> AsyncIterator[ModelClient]:
    """Open a model client for the duration of the block. At its end, wait for calls in flight, unless the block raised an error."""
    desk = ModelClient(endpoints, ledger, Budget(budget_usd, spent=ledger.spent_usd()))
    try:
        yield desk
        await desk.drain()
    finally:
        await desk.close()


@dataclass
class Session:
    """One process's work in one directory."""

    directory: WorkDirectory
    identity: dict[str, Any]
    """Everything that results depend on. The directory accepts only this identity."""
    about: dict[str, Any]
    """Further content of ``run.json``."""
    endpoints: Mapping[str, Endpoint]
    budget_usd: float | None = None
    in_flight: int = 256
    """Maximum number of concurrent units."""
    progress: Progress = field(default_factory=Progress)
    desk: ModelClient | None = None
    _crashes: CrashLog | None = None
    _pending: list[Pending] = field(default_factory=list)

    def stop(self) -> None:
        """Send no more calls. Replies to calls in flight are still received and stored."""
        if self.desk is not None:
            self.desk.stop()

    async def execute(self, job: Callable[["Session"], Awaitable[None]]) -> SessionSummary:
        """Run ``job``, which iterates over its units with :meth:`over`, while the directory is locked.

        Raises:
            InputError: the directory is in use, or its identity differs.
            DiskError: the job's output cannot be written.
        """
        with self.directory.opened(self.identity) as ledger:
            self.directory.write_run(self.identity, {"chiron": version("chiron-med"), **self.about})
            self.progress.began = time.monotonic()
            async with open_client(self.endpoints, ledger, self.budget_usd) as desk:
                self.desk, self._crashes = desk, CrashLog(self.directory.path, desk)
                await job(self)
            return self._summary(ledger, desk)

    async def over(
        self, units: Iterable[Unit], work: Callable[[Unit, Ask], Awaitable[Result]]
    ) -> AsyncIterator[tuple[Unit, Result | Pending]]:
        """Yield every unit with the result of ``work``, in the order of the units. Many units run concurrently.

        A unit is pending if ``work`` raises :class:`CallFailed` or :class:`RunStopped` because a reply is missing, or if it crashes
        (:mod:`chiron.jobs.crashes`). Units are read from the iterable only as slots become free, so it may be of any length.

        Raises:
            InputError: ``work`` found a problem that the user must fix before any unit can continue, such as a damaged ledger.
        """
        places = asyncio.Semaphore(self.in_flight)
        window: deque[tuple[Unit, asyncio.Task[Result | Pending]]] = deque()

        async def taken() -> tuple[Unit, Result | Pending]:
            await asyncio.wait([window[0][1]])
            unit, task = window.popleft()
            result = task.result()
            self.progress.done += 1
            if isinstance(result, Pending):
                self._pending.append(result)
            return unit, result

        try:
            for rank, unit in enumerate(units):
                window.append((unit, asyncio.create_task(self._one(unit, rank, work, places))))
                while window and (window[0][1].done() or len(window) >= _AHEAD * self.in_flight):
                    yield await taken()
                if rank % 64 == 0:
                    await asyncio.sleep(0)  # ledger replies never suspend, so let other tasks run
            while window:
                yield await taken()
        finally:
            for _, task in window:
                task.cancel()
            await asyncio.gather(*(task for _, task in window), return_exceptions=True)

    async def _one(
        self, unit: Unit, rank: int, work: Callable[[Unit, Ask], Awaitable[Result]], places: asyncio.Semaphore
    ) -> Result | Pending:
        assert self.desk is not None and self._crashes is not None  # noqa: S101, PT018 - set before any job begins
        desk, crashes = self.desk, self._crashes
        line = desk.line(rank)
        try:
            async with places:
                if desk.halted is not None:
                    return Pending(str(desk.halted))
                self.progress.in_flight += 1
                try:
                    return await crashes.watch(work(unit, line), rank)
                finally:
                    self.progress.in_flight -= 1
        except DiskError as reason:
            desk.halt(reason)
            return Pending(str(reason))
        except CallFailed as failure:
            return Pending(failure.public, line.is_refused)
        except (RunStopped, UnitCrashed) as reason:
            return Pending(str(reason))

    def _summary(self, ledger: Ledger, desk: ModelClient) -> SessionSummary:
        return SessionSummary(
            directory=self.directory.path,
            total=self.progress.total,
            pending=len(self._pending),
            pending_because=commonest(unit.problem for unit in self._pending),
            refused=sum(unit.refused for unit in self._pending),
            outcomes=dict(self.progress.outcomes),
            spending=tuple(ledger.spending()),
            spent_usd=ledger.spent_usd(),
            possibly_spent_usd=ledger.possibly_spent_usd(),
            seconds=time.monotonic() - self.progress.began,
            halted=desk.halted,
            notes=tuple(desk.notes.values()),
        )
