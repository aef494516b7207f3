"""Work on many units through one desk: a directory held, a ledger that pays for nothing twice, a budget, and a way to stop.

The search has a loop of its own, since its results are kept; whatever can be made again from the replies alone (a build, an evaluation)
runs here, and resuming it is running it again.
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
    """Counters that the work moves and a view reads."""

    unit: str = "cases"
    """What is counted, in the plural."""
    total: int = 0
    """Units selected."""
    already: int = 0
    """Of these, done by an earlier process; counted in what follows too."""
    done: int = 0
    """Ended by this process, pending and bad ones included."""
    in_flight: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    """Units by how they ended."""
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds_left(self) -> float | None:
        """At the pace so far, a unit in flight taken as half done; ``None`` before the first is done."""
        if not self.done:
            return None
        left = max(0.0, self.total - self.already - self.done - self.in_flight / 2)
        return left * (time.monotonic() - self.began) / (self.done + self.in_flight / 2)

    def tally(self) -> Sequence[tuple[str, int]]:
        """How many units ended how, in the order in which a view shows it."""
        return self.outcomes.most_common()

    def figure(self) -> str:
        """What else there is to say in a few words; empty if nothing is."""
        return ""


Unit = TypeVar("Unit")
Result = TypeVar("Result")

_AHEAD = 4
"""Units that may be done before the oldest one is, in units in flight: what is handed on goes in the order of the units."""


class Job(Protocol):
    """What a view, and whoever obeys the signals, needs to know of work under way."""

    desk: ModelClient | None

    @property
    def progress(self) -> Progress:
        """How far it is."""
        ...

    def stop(self) -> None:
        """Send nothing more; what is under way is still received and kept."""
        ...


@dataclass(frozen=True, slots=True)
class Pending:
    """In place of a unit's result: its calls got no answer, it met a bug of ours, or the work stopped before. Run again, it goes on."""

    problem: str
    refused: bool = False
    """Whether its calls would be refused again, so that running again does not help."""


@dataclass(frozen=True)
class SessionSummary:
    """How work on many units ended."""

    directory: Path
    total: int
    pending: int
    """Units without a result; they go on when the same command is run again."""
    pending_because: str | None
    """The commonest reason of the pending ones."""
    refused: int
    """Of the pending ones, those whose calls would be refused again."""
    outcomes: Mapping[str, int]
    """The others by how they ended."""
    spending: tuple[Spending, ...]
    spent_usd: float
    possibly_spent_usd: float
    """Of ``spent_usd``, what was set aside for calls without a reply."""
    seconds: float
    halted: RunStopped | DiskError | None = None
    """Why it ended early, if it did."""
    notes: tuple[str, ...] = ()
    """What a person should know besides."""


@asynccontextmanager
async def open_client(endpoints: Mapping[str, Endpoint], ledger: Ledger, budget_usd: float | None) -> AsyncIterator[ModelClient]:
    """A desk for as long as the block lasts. At its end what is under way is waited for, unless the block was left by an error."""
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
    """What results depend on; the directory is of this one alone."""
    about: dict[str, Any]
    """What else ``run.json`` should tell."""
    endpoints: Mapping[str, Endpoint]
    budget_usd: float | None = None
    in_flight: int = 256
    """Units at once, at most."""
    progress: Progress = field(default_factory=Progress)
    desk: ModelClient | None = None
    _crashes: CrashLog | None = None
    _pending: list[Pending] = field(default_factory=list)

    def stop(self) -> None:
        """Send nothing more; what is under way is still received and kept."""
        if self.desk is not None:
            self.desk.stop()

    async def execute(self, job: Callable[["Session"], Awaitable[None]]) -> SessionSummary:
        """Do ``job``, which goes over its units by :meth:`over`, with the directory held.

        Raises:
            InputError: the directory is in use, or of another identity.
            DiskError: what the job writes cannot be written.
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
        """Every unit and what ``work`` made of it, in the order of the units, many at once.

        Where a reply is missing ``work`` raises :class:`CallFailed` or :class:`RunStopped`, and the unit is pending. It is so too where
        ``work`` meets a bug (:mod:`chiron.jobs.crashes`). Units are taken from the iterable as places become free, so that there may be any
        number of them.

        Raises:
            InputError: ``work`` met something that a person has to mend before any unit can go on, such as a damaged ledger.
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
                    await asyncio.sleep(0)  # what the ledger answers never waits, and others must have their turn
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
