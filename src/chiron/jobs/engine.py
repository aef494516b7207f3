"""Engines run the units of a job: this process, Ray, Slurm, or an engine of another package (entry point group ``chiron.engines``).

An engine either runs single units with the job's own client, or hands whole parts of the job to other processes: each of them runs the
same kind of job in a directory of its own, and the engine merges that directory's ledger into the job's.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from chiron.client.client import ModelClient
from chiron.client.failures import UnitAsk
from chiron.client.provider import Endpoint
from chiron.errors import InputError
from chiron.jobs.directory import WorkDirectory
from chiron.jobs.slurm import SlurmOptions
from chiron.plugins import load, plugins

Unit = TypeVar("Unit")
Result = TypeVar("Result")

GROUP = "chiron.engines"
_AHEAD = 4
"""Maximum completed units that wait for the oldest unfinished one, as a multiple of the units in flight."""


class Part(Protocol):
    """A part of a job that another process can run. It can be pickled."""

    def open(self, directory: Path, workers: int) -> Any:
        """Return the job that runs this part in ``directory``, with its limits divided by the number of ``workers``.

        Raises:
            InputError: this machine lacks an input, or has another one than the job.
        """

    def to_record(self) -> dict[str, Any]:
        """Convert to a JSON object, for a process that starts later."""


class OpenJob(Protocol):
    """What an engine can use of a job. Its directory is locked and its client is open while the engine runs."""

    directory: WorkDirectory
    identity: dict[str, Any]
    endpoints: Mapping[str, Endpoint]
    in_flight: int
    client: ModelClient
    progress: Any
    paid_twice: frozenset[str] | None

    def part_of(self, units: Sequence[Any]) -> Part:
        """Return a part of the job with these units.

        Raises:
            InputError: the job cannot be divided.
        """

    async def work(self, unit: Any, ask: UnitAsk) -> Any:
        """Return the result of a unit, without its rank."""

    def stored_result(self, unit: Any) -> Any:
        """Return the result of a unit that the ledger contains, or ``None``."""


@runtime_checkable
class Engine(Protocol):
    """Interface of an engine. A job passes its units to the engine, and does not know where they run."""

    def run(
        self, job: OpenJob, units: Iterable[Unit], work: Callable[[Unit], Awaitable[Result]], *, in_order: bool
    ) -> AsyncGenerator[tuple[Unit, Result], None]:
        """Yield every unit with its result; at most ``job.in_flight`` units run at the same time in one process.

        Args:
            units: of any length. Take a unit only when it can start soon: the job ends the iteration when it is halted.
            work: runs one unit with the job's client. It handles failed calls and crashes. An engine that runs parts of the job elsewhere
                does not call it, and may leave out units that the halted job did not start.
            in_order: yield the results in the order of the units, instead of as soon as they are ready.

        Raises:
            InputError: ``work`` found a problem that affects all units, such as a damaged ledger.
        """


class GatheredJobs(Protocol):
    """Jobs that an engine runs later, all together."""

    def submit(self, spent: float) -> str | None:
        """Submit what the jobs left to do. ``spent``: USD that they have spent. Returns a message; ``None`` if nothing is left."""


@runtime_checkable
class GatheringEngine(Protocol):
    """Interface of an engine that runs jobs later, and several of them together."""

    def gather(
        self, directory: Path, record: dict[str, Any], *, jobs: int, budget_usd: float | None
    ) -> AbstractContextManager[GatheredJobs]:
        """Collect what the jobs that are executed in the block leave to do.

        Args:
            directory: contains the directories of the jobs.
            record: a JSON object from which a later process can finish the jobs.
            budget_usd: one budget for all of them.

        Raises:
            InputError: another process uses the directory, or jobs in it still run.
        """


class LocalEngine:
    """Run units as tasks of this process's event loop."""

    def run(
        self, job: OpenJob, units: Iterable[Unit], work: Callable[[Unit], Awaitable[Result]], *, in_order: bool
    ) -> AsyncGenerator[tuple[Unit, Result], None]:
        return _run_tasks(units, work, job.in_flight, in_order=in_order)


async def _run_tasks(
    units: Iterable[Unit], work: Callable[[Unit], Awaitable[Result]], in_flight: int, *, in_order: bool
) -> AsyncGenerator[tuple[Unit, Result], None]:
    slots = asyncio.Semaphore(in_flight)

    async def in_slot(unit: Unit) -> Result:
        async with slots:
            return await work(unit)

    window: _Window[Unit, Result] = _Window(in_order=in_order)
    most = _AHEAD * in_flight if in_order else in_flight
    try:
        for number, unit in enumerate(units):
            window.add(unit, asyncio.create_task(in_slot(unit)))
            while len(window) >= most or window.is_ready:
                yield await window.next()
            if number % 64 == 0:
                await asyncio.sleep(0)  # ledger replies never suspend, so let other tasks run
        while len(window):
            yield await window.next()
    finally:
        await window.cancel()


class _Window(Generic[Unit, Result]):
    """Tasks whose results have not been yielded yet."""

    def __init__(self, *, in_order: bool) -> None:
        self._in_order = in_order
        self._units: dict[asyncio.Task[Result], Unit] = {}  # in the order of the units
        self._ended: asyncio.Queue[asyncio.Task[Result]] = asyncio.Queue()

    def __len__(self) -> int:
        return len(self._units)

    def add(self, unit: Unit, task: asyncio.Task[Result]) -> None:
        self._units[task] = unit
        if not self._in_order:
            task.add_done_callback(self._ended.put_nowait)

    @property
    def is_ready(self) -> bool:
        """Whether the next result is there."""
        return any(task.done() for task in islice(self._units, 1)) if self._in_order else not self._ended.empty()

    async def next(self) -> tuple[Unit, Result]:
        """Wait for the next result: of the oldest unit, or of the first one that ends."""
        if self._in_order:
            task = next(iter(self._units))
            await asyncio.wait([task])
        else:
            task = await self._ended.get()
        return self._units.pop(task), task.result()

    async def cancel(self) -> None:
        for task in self._units:
            task.cancel()
        await asyncio.gather(*self._units, return_exceptions=True)


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Where the workers of an engine are. An engine ignores what does not apply to it."""

    address: str | None = None
    """Address of the cluster; by default, one is started on this machine."""
    workers: int | None = None
    """Number of worker processes; by default one for each machine of the cluster."""
    storage: str | None = None
    """Folder or URL (fsspec) for copies of the workers' ledgers; by default a folder in the run directory."""
    copy_every: float = 30.0
    """Seconds between two copies."""
    slurm: SlurmOptions = field(default_factory=SlurmOptions)


def _local(options: EngineOptions) -> Engine:
    if options != EngineOptions():
        raise InputError("--address, --workers and --storage need an engine with workers: add --engine ray or slurm")
    return LocalEngine()


def _ray(options: EngineOptions) -> Engine:
    from chiron.jobs.ray_engine import RayEngine

    return RayEngine(options)


def _slurm(options: EngineOptions) -> Engine:
    from chiron.jobs.slurm_engine import SlurmEngine

    return SlurmEngine(options)


_BUILT_IN: dict[str, Callable[[EngineOptions], Engine]] = {"local": _local, "ray": _ray, "slurm": _slurm}


def engine_of(name: str, options: EngineOptions | None = None) -> Engine:
    """Return an engine by name.

    Raises:
        InputError: no such engine, its package cannot be loaded, it uses the name of a built-in engine, or the options do not fit it.
    """
    others = plugins(GROUP, _BUILT_IN)
    if name in _BUILT_IN:
        return _BUILT_IN[name](options or EngineOptions())
    if name not in others:
        raise InputError(f"unknown engine '{name}'; choose one of {', '.join((*_BUILT_IN, *others))}")
    return load(GROUP, name, Engine)  # type: ignore[type-abstract]  # checked at run time
