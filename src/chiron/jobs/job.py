"""One job: units of work sent through one model client, in a locked run directory, with progress, stop and resume.

The search, the builds and the evaluation are jobs. To resume a job, run it again: no call is paid for twice.
"""

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar, cast

from chiron.client.attempts import Budget
from chiron.client.client import ModelClient
from chiron.client.failures import CallFailed, RunStopped, UnitAsk, commonest
from chiron.client.ledger import Ledger, Spending
from chiron.client.provider import Endpoint
from chiron.errors import DiskError, InputError
from chiron.jobs.crashes import CrashLog, UnitCrashed
from chiron.jobs.directory import WorkDirectory
from chiron.jobs.engine import Engine, LocalEngine, OpenJob, Part
from chiron.jobs.storage import recover_parts

_log = logging.getLogger(__name__)
IN_FLIGHT, IN_FLIGHT_BATCHES = 256, 2000
"""Default maximum number of concurrent units, without and with models that are asked through batches."""


class Resume(StrEnum):
    """How a job continues where an earlier process stopped."""

    RESULTS = "results"
    """Results are stored in the ledger, and finished units are skipped. A later success of a failed call does not change them."""
    REPLIES = "replies"
    """Only replies are stored. All units run again and read their replies from the ledger, so better rules change the results."""


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

    def counts(self) -> Sequence[tuple[str, int]]:
        """Units by outcome, in display order."""
        return self.outcomes.most_common()

    def figure(self) -> str:
        """Short additional text for the display; may be empty."""
        return ""

    def add(self, other: Self, sign: int = 1) -> None:
        """Add the progress of a part of the job, which another process runs; ``sign`` -1 removes it."""
        self.done += sign * (other.already + other.done)
        self.in_flight += sign * other.in_flight
        for name, count in other.outcomes.items():
            self.outcomes[name] += sign * count


@dataclass(frozen=True, slots=True)
class Pending:
    """Placeholder for the result of a unit whose calls failed, which crashed, or which was stopped. Running again resumes it."""

    problem: str
    refused: bool = False
    """Whether its calls would be rejected again, so that rerunning does not help."""
    crashed: bool = False


@dataclass(frozen=True, kw_only=True)
class JobSummary:
    """Summary of a finished or stopped job."""

    directory: Path
    total: int
    pending: int
    """Units without a result; the same command resumes them."""
    pending_because: str | None
    """Most common reason for pending units."""
    refused: int
    """Pending units whose calls would be rejected again."""
    crashed: int
    """Pending units on which chiron failed because of a bug."""
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

    def to_record(self) -> dict[str, Any]:
        """Convert to a JSON object."""
        return {**asdict(self), "directory": str(self.directory), "halted": str(self.halted) if self.halted else None}


Unit = TypeVar("Unit")
Result = TypeVar("Result")
Summary = TypeVar("Summary", bound=JobSummary)


@asynccontextmanager
async def open_client(endpoints: Mapping[str, Endpoint], ledger: Ledger, budget: Budget) -> AsyncIterator[ModelClient]:
    """Open a model client for the duration of the block. At its end, wait for calls in flight, unless the block raised an error."""
    client = ModelClient(endpoints, ledger, budget)
    try:
        yield client
        await client.drain()
    finally:
        await client.close()


@dataclass(kw_only=True)
class Job(ABC, Generic[Unit, Result, Summary]):
    """One process's work in one directory."""

    resume: ClassVar[Resume]
    directory: WorkDirectory
    identity: dict[str, Any]
    """Everything that results depend on. The directory accepts only this identity."""
    about: dict[str, Any] = field(default_factory=dict)
    """Further content of ``run.json``."""
    endpoints: Mapping[str, Endpoint] = field(default_factory=dict)
    budget_usd: float | None = None
    make_budget: Callable[[float], Budget] | None = None
    """Creates the budget of this process, from the USD that its ledger has as spent. By default, the whole ``budget_usd``."""
    in_flight: int = IN_FLIGHT
    """Maximum number of concurrent units."""
    progress: Progress = field(default_factory=Progress)
    engine: Engine = field(default_factory=LocalEngine)
    client: ModelClient | None = field(default=None, init=False)
    """``None`` before the client is open."""
    paid_twice: frozenset[str] | None = field(default=None, init=False)
    """Keys of the calls that several workers of an earlier process paid for; see :func:`~chiron.jobs.storage.recover_parts`."""
    _pending: list[Pending] = field(default_factory=list, init=False)
    _taken: int = field(default=0, init=False)
    """Number of units that the engine took."""

    @abstractmethod
    def units(self) -> Iterable[Unit]:
        """Yield the units in order. Units are read only as slots become free, so there may be any number of them."""

    @abstractmethod
    def count(self) -> int:
        """Return the number of units."""

    @abstractmethod
    async def work(self, unit: Unit, ask: UnitAsk) -> Result:
        """Return the result of a unit.

        Raises:
            CallFailed: a reply is missing; the unit is then pending.
            RunStopped: no more calls are sent; the unit is then pending.
            InputError: a problem that affects all units, such as a damaged ledger.
        """

    @abstractmethod
    async def process(self, results: AsyncIterator[tuple[Unit, Result | Pending]], client: ModelClient) -> None:
        """Use the results: in the order of the units, or as soon as they are ready if the job stores them (:class:`Resume`)."""

    @abstractmethod
    def summarize(self, summary: JobSummary, client: ModelClient) -> Summary:
        """Complete the summary of the job."""

    def is_finished(self, unit: Unit, client: ModelClient) -> bool:
        """Return whether the result of a unit is stored (:attr:`Resume.RESULTS` only)."""
        del unit, client
        return False

    def start(self, ledger: Ledger) -> None:
        """Check and prepare the directory before ``run.json`` is written."""

    def run_record(self) -> dict[str, Any]:
        """Return the content of ``run.json`` without the identity."""
        return {"chiron": version("chiron-med"), **self.about}

    def finish(self, ledger: Ledger) -> None:
        """Write what is derived from the ledger, also after an error."""

    def count_result(self, result: Result | Pending) -> None:
        """Count a result in the progress."""

    def part_of(self, units: Sequence[tuple[int, Unit]]) -> Part:
        """Return a part for an engine; see :class:`~chiron.jobs.engine.OpenJob`."""
        del units
        raise InputError(f"{type(self).__name__} cannot be divided among machines: use the local engine, or --shard I/N")

    def find_result(self, unit: Unit, client: ModelClient) -> Result | None:
        """Return the result of a unit that the ledger contains (:attr:`Resume.RESULTS` only)."""
        del unit, client
        return None

    def stored_result(self, unit: tuple[int, Unit]) -> Result | None:
        """Return a result for an engine; see :class:`~chiron.jobs.engine.OpenJob`."""
        return None if self.client is None else self.find_result(unit[1], self.client)

    def _open_budget(self, spent: float) -> Budget:
        return Budget(self.budget_usd, spent=spent) if self.make_budget is None else self.make_budget(spent)

    def stop(self) -> None:
        if self.client is not None:
            self.client.stop()

    async def execute(self) -> Summary:
        """Run all units that have no result yet, and return the summary.

        Raises:
            InputError: the directory is in use or its identity differs, an input is unusable, or the engine left out units.
            DiskError: the output cannot be written; existing files are unchanged.
        """
        with self.directory.opened(self.identity) as ledger:
            self.paid_twice = recover_parts(self.directory)
            self.start(ledger)
            self.directory.write_run(self.identity, self.run_record())
            try:
                async with open_client(self.endpoints, ledger, self._open_budget(ledger.spent_usd())) as client:
                    self.client = client
                    self.progress.total = self.count()
                    self.progress.began = time.monotonic()
                    async with aclosing(self._results(client, CrashLog(self.directory.path, client))) as results:
                        await self.process(results, client)
            finally:
                self.finish(ledger)
            if client.halted is not None:
                _log.info("%s stopped early: %s", self.directory.path, client.halted)
            return self.summarize(self._summary(client), client)

    async def _results(self, client: ModelClient, crashes: CrashLog) -> AsyncGenerator[tuple[Unit, Result | Pending], None]:
        async def work(ranked: tuple[int, Unit]) -> Result | Pending:
            return await self._run_unit(*ranked, client, crashes)

        units = self._unfinished(client, crashes)
        async with aclosing(self.engine.run(cast("OpenJob", self), units, work, in_order=self.resume is Resume.REPLIES)) as ended:
            async for (_, unit), result in ended:
                self.progress.done += 1
                self.count_result(result)
                if isinstance(result, Pending):
                    self._pending.append(result)
                yield unit, result
        if self.resume is Resume.REPLIES:
            self._check_all_ended(units)

    def _check_all_ended(self, units: Iterator[tuple[int, Unit]]) -> None:
        """Raise if the engine left out units: files without their rows would look complete. Stored results are counted from the ledger."""
        deque(units, maxlen=0)  # counts those that the engine did not take
        if self.progress.done != self._taken:
            engine = f"engine '{type(self.engine).__name__}' returned {self.progress.done} of {self._taken} units"
            raise InputError(f"{engine} ({self.directory.path}): correct the engine, or use 'local'")

    def _unfinished(self, client: ModelClient, crashes: CrashLog) -> Iterator[tuple[int, Unit]]:
        """Yield the units to run with their ranks. Where results are stored, units that a halt leaves out need no placeholder."""
        for rank, unit in enumerate(self.units()):
            if self.resume is Resume.RESULTS:
                if self.is_finished(unit, client):
                    crashes.survived()
                    continue
                if client.halted is not None:
                    return
            self._taken += 1
            yield rank, unit

    async def _run_unit(self, rank: int, unit: Unit, client: ModelClient, crashes: CrashLog) -> Result | Pending:
        if client.halted is not None and client.answers is None:
            return Pending(str(client.halted))
        ask = client.with_priority(rank)
        client.units.add(ask)
        self.progress.in_flight += 1
        try:
            return await crashes.watch(self.work(unit, ask), rank)
        except DiskError as reason:
            client.halt(reason)
            return Pending(str(reason))
        except CallFailed as failure:
            return Pending(failure.public, ask.is_refused)
        except (RunStopped, UnitCrashed) as reason:
            return Pending(str(reason), crashed=isinstance(reason, UnitCrashed))
        finally:
            client.units.discard(ask)
            self.progress.in_flight -= 1

    def _summary(self, client: ModelClient) -> JobSummary:
        ledger = client.ledger
        return JobSummary(
            directory=self.directory.path,
            total=self.progress.total,
            pending=len(self._pending),
            pending_because=commonest(unit.problem for unit in self._pending),
            refused=sum(unit.refused for unit in self._pending),
            crashed=sum(unit.crashed for unit in self._pending),
            outcomes=dict(self.progress.outcomes),
            spending=tuple(ledger.spending()),
            spent_usd=ledger.spent_usd(),
            possibly_spent_usd=ledger.possibly_spent_usd(),
            seconds=time.monotonic() - self.progress.began,
            halted=client.halted,
            notes=tuple(client.notes.values()),
        )


def units_in_flight(configured: int | None, endpoints: Mapping[str, Endpoint]) -> int:
    """Return the maximum number of concurrent units. Batches need many: what runs at the same time is sent together."""
    return configured or (IN_FLIGHT_BATCHES if any(endpoint.batch is not None for endpoint in endpoints.values()) else IN_FLIGHT)


AnyJob = Job[Any, Any, Any]


def run_job(job: Job[Any, Any, Summary]) -> Summary:
    """Execute a job and return its summary; also works where an event loop is already running (a notebook).

    In a notebook, the job gets its own thread and loop. After an interrupt, it waits for the calls in flight and stores them; a second
    interrupt cancels them. Then the interrupt is raised.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(job.execute())
    return _run_in_thread(job)


def _run_in_thread(job: Job[Any, Any, Summary]) -> Summary:
    begun: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[Summary]]] = Future()

    async def main() -> Summary:
        task = asyncio.create_task(job.execute())
        begun.set_result((asyncio.get_running_loop(), task))
        return await task

    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(lambda: asyncio.run(main()))
        try:
            return ended.result()
        except KeyboardInterrupt:
            # As on the command line: the first interrupt waits for calls in flight, which are paid for; the second one cancels them.
            loop, task = begun.result()
            _call_in(loop, lambda: _stop(loop, job, task))
            try:
                wait([ended])
            except KeyboardInterrupt:
                _call_in(loop, task.cancel)
                wait([ended])
            raise


def _stop(loop: asyncio.AbstractEventLoop, job: AnyJob, task: "asyncio.Task[Any]") -> None:
    """Stop the job. If it has not sent its first call, there is no client to stop yet."""
    if job.client is not None:
        job.stop()
    elif not task.done():
        loop.call_later(0.05, _stop, loop, job, task)


def _call_in(loop: asyncio.AbstractEventLoop, what: Callable[[], object]) -> None:
    with suppress(RuntimeError):  # the loop is closed: the job has ended
        loop.call_soon_threadsafe(what)
