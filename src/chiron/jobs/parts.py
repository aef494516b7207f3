"""Run one part of a job in a worker process: in a local directory, with copies of its ledger in the storage of the run."""

import asyncio
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from chiron.client.client import Count
from chiron.client.failures import RunStopped, UserStopped
from chiron.client.lease import LeasedBudget, Leases, SharedPace
from chiron.client.ledger import Ledger
from chiron.errors import ChironError, DiskError, InputError
from chiron.jobs.crashes import LOG
from chiron.jobs.engine import EngineOptions, OpenJob, Part
from chiron.jobs.job import JobSummary
from chiron.jobs.storage import PROBE, Storage

_COPY_AT_END_EVERY = 5.0
"""Maximum seconds between copies of a part that was asked to stop."""
_EXCHANGE_EVERY = 1.0
"""Seconds between exchanges of the pace with other processes."""


@dataclass(frozen=True, kw_only=True)
class PartTask:
    """What a worker needs to run a part."""

    name: str
    """Name of this attempt to run the part, ``RUN-PART-ATTEMPT``; its copy is stored under it. Before the first one, ``RUN-PART``."""
    part: Part
    units: int
    resumes: str | None = None
    """Name of the newest copy of an earlier attempt, whose worker was lost."""
    storage: str
    copy_every: float
    """Seconds between copies."""
    workers: int
    budget_usd: float | None
    """The whole budget of the run; ``None`` without one."""


@dataclass(frozen=True, kw_only=True)
class WorkerState:
    """Progress of a part, for the display."""

    progress: Any = None
    counts: dict[tuple[str, str], Count] = field(default_factory=dict)
    allowed: dict[str, float] = field(default_factory=dict)
    """Calls that each model's limiter allows at once."""
    spent_usd: float = 0.0


@dataclass(frozen=True, kw_only=True)
class PartEnd:
    """How a part ended in its worker."""

    state: WorkerState = WorkerState()
    halted: RunStopped | DiskError | None = None
    notes: dict[str, str] = field(default_factory=dict)
    crashes: str = ""
    """Content of the worker's log of crashes."""
    problem: str | None = None
    """Why the part could not run."""
    summary: JobSummary | None = None


_LARGEST = 1000
"""Maximum number of units of a part, unless there would be too many parts."""


def divide(
    job: OpenJob,
    left: Sequence[tuple[Any, set[str]]],
    storage: Storage,
    options: EngineOptions,
    workers: int,
    *,
    run: str,
    parts: int,
    most: int | None = None,
    budget_usd: float | None,
) -> list[tuple[PartTask, list[Any]]]:
    """Divide units into parts of consecutive ones, about ``parts`` for each of the ``workers`` and at most ``most`` in total.

    Args:
        left: units without a result, each with the keys of its calls that the ledger contains.
        storage: gets these calls, as the copy of an attempt before the first one.
        options: how often copies are stored.
        workers: number of processes that run parts at the same time.
        run: prefix of the names of the parts.
        budget_usd: the whole budget.

    Returns each part with its units.

    Raises:
        InputError: the job cannot be divided.
        DiskError: the storage cannot be written.
    """
    size = min(_LARGEST, max(1, -(-len(left) // (parts * workers))))
    if most is not None:
        size = max(size, -(-len(left) // most))
    firsts = range(0, len(left), size)
    tasks = []
    for number, first in enumerate(firsts):
        units = [unit for unit, _ in left[first : first + size]]
        name, resumes = f"{run}-{number:05d}", None
        if keys := set[str]().union(*(keys for _, keys in left[first : first + size])):
            resumes = f"{name}-0"
            storage.put_replies(job.directory.ledger, keys, resumes)
        task = PartTask(
            name=name, part=job.part_of(units), units=len(units), resumes=resumes, storage=storage.url, copy_every=options.copy_every,
            workers=min(workers, len(firsts)), budget_usd=budget_usd,
        )  # fmt: skip
        tasks.append((task, units))
    return tasks


def pass_on(end: PartEnd, job: OpenJob) -> None:
    """Keep a part's notes, crashes and reason to stop in the job that it is a part of."""
    client = job.client
    for note, text in end.notes.items():
        if not note.startswith("\0") and note != "lost":
            client.note(note, text)
    if end.crashes:
        with (job.directory.path / LOG).open("a", encoding="utf-8") as log:
            log.write(end.crashes)
        client.note("\0bugs", end.notes.get("\0bugs", "cases crashed because of a bug in chiron"))
    if end.halted is not None and not isinstance(end.halted, UserStopped):
        client.halt(end.halted)


def check_worker(part: Part, about: tuple[str, dict[str, Any]], storage: str, run: str, folder: str) -> str | None:
    """Return why this process cannot run parts of the job, or ``None``.

    Args:
        about: version of chiron, and identity of the job, in the process that asks.
        storage: storage of the run.
        run: prefix of the names of the parts; see :func:`~chiron.jobs.storage.begin_parts`.
        folder: its working directory, to which paths in the configuration are relative.
    """
    try:
        if os.path.isdir(folder):
            os.chdir(folder)
        with tempfile.TemporaryDirectory() as scratch:
            if not Storage(storage).get(run + PROBE, Path(scratch) / "token"):
                return f"storage {storage} is not shared with this machine: name a shared folder or an object store with --storage"
            here = part.open(Path(scratch), 1).identity
        if about != (version("chiron-med"), here):
            return (
                f"its prompts, models or rules differ (chiron {version('chiron-med')}, here {about[0]}): install the same version of"
                " chiron-med and the same files on every machine"
            )
    except ChironError as problem:
        return str(problem)
    return None


def store_remains(name: str, storage: str) -> None:
    """Store the ledger that a killed process left on this machine, and remove its directory. It has more than the last copy.

    ``name``: that of the attempt that was lost.

    Raises:
        ChironError: the ledger is damaged, or the storage cannot be written.
    """
    for folder in Path(tempfile.gettempdir()).glob(f"chiron-{name}-*"):
        ledger = folder / "ledger.sqlite"
        if ledger.is_file():
            with Ledger.open(ledger):  # completes what the process was writing
                Storage(storage).put_ledger(ledger, name)
        shutil.rmtree(folder, ignore_errors=True)


class PartRunner:
    """One part of a job in this process."""

    def __init__(self, task: PartTask, leases: Leases | None) -> None:
        """``leases``: connection to the broker, if other processes run other parts."""
        self._task, self._leases = task, leases
        self._storage = Storage(task.storage)
        self._folder = Path(tempfile.mkdtemp(prefix=f"chiron-{task.name}-"))
        self._job: Any = None
        self._over = False
        self._crashes = ""
        self._stopping = asyncio.Event()
        self._storing = threading.Lock()

    async def run(self) -> PartEnd:
        """Run the part, store its ledger at an interval and at the end, and remove the local directory."""
        try:
            summary, notes = await self._run_job()
        except ChironError as problem:
            self._over = True
            unstored = await self._store_last()
            kept = "" if unstored is None else f"; {unstored}"
            return PartEnd(state=self.state(), problem=f"{problem}{kept}")
        if (unstored := await self._store_last()) is not None:
            return PartEnd(state=self.state(), halted=unstored, summary=replace(summary, halted=unstored))
        return PartEnd(state=self.state(), halted=summary.halted, notes=notes, crashes=self._crashes, summary=summary)

    async def _store_last(self) -> DiskError | None:
        """Store the last copy and remove the local directory. Returns an error that names this directory if it has to be kept."""
        log = self._folder / LOG
        self._crashes = log.read_text("utf-8", "replace") if log.is_file() else ""
        # Without a job, the ledger is at most half of a fetched copy.
        if self._job is not None and (self._folder / "ledger.sqlite").is_file():
            try:
                await asyncio.to_thread(self._store)
            except ChironError as problem:
                return DiskError(f"{problem}; the replies of this part are in {self._folder} on {socket.gethostname()}")
        shutil.rmtree(self._folder, ignore_errors=True)
        return None

    async def _run_job(self) -> tuple[JobSummary, dict[str, str]]:
        task = self._task
        if task.resumes is not None:
            fetched = self._folder / "fetched.sqlite"
            if not await asyncio.to_thread(self._storage.get_ledger, task.resumes, fetched):
                raise InputError(
                    f"the copy '{task.resumes}' of a lost worker's ledger is not in {task.storage}: check that no other process deletes"
                    " files there, and run again"
                )
            fetched.rename(self._folder / "ledger.sqlite")  # whole, also for store_remains()
        job = task.part.open(self._folder, task.workers)
        leases, total = self._leases, task.budget_usd
        if leases is not None and total is not None:
            job.make_budget = lambda spent: LeasedBudget(leases, total, spent=spent)
        self._job = job
        others = [asyncio.create_task(work) for work in (self._copy_now_and_then(), self._share_pace())]
        try:
            summary: JobSummary = await job.execute()
        finally:
            self._over = True
            for other in others:
                other.cancel()
            await asyncio.gather(*others, return_exceptions=True)
        return summary, dict(job.client.notes)

    def stop(self) -> None:
        """Send no more calls. If the job has no client yet, stop it as soon as it has one."""
        self._stopping.set()
        if self._job is not None and self._job.client is not None:
            self._job.stop()
        elif not self._over:
            asyncio.get_running_loop().call_later(0.05, self.stop)

    async def _copy_now_and_then(self) -> None:
        """Store copies until cancelled. A storage that cannot be written stops the part: a lost worker would lose more and more."""
        while True:
            await self._until_next_copy()
            if (self._folder / "ledger.sqlite").is_file():
                try:
                    await asyncio.shield(asyncio.to_thread(self._store))
                except DiskError as problem:
                    self._job.client.halt(problem)
                    return

    async def _until_next_copy(self) -> None:
        """Wait. A part that was asked to stop may be killed soon, so it is copied at once and then more often."""
        if self._stopping.is_set():
            await asyncio.sleep(min(_COPY_AT_END_EVERY, self._task.copy_every))
            return
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), self._task.copy_every)

    async def _share_pace(self) -> None:
        """Exchange rate limits with the other processes, until cancelled."""
        pace = None
        while self._leases is not None:
            client = None if self._job is None else self._job.client
            if client is not None:
                limiters = {name: endpoint.limiter for name, endpoint in client.endpoints.items()}
                pace = pace or SharedPace(self._leases, limiters)
                try:
                    await pace.exchange()
                except RunStopped as problem:
                    client.halt(problem)
                    return
            await asyncio.sleep(_EXCHANGE_EVERY)

    def _store(self) -> None:
        with self._storing:  # a thread that stores a copy cannot be cancelled: the last copy waits for it
            self._storage.put_ledger(self._folder / "ledger.sqlite", self._task.name)

    def state(self) -> WorkerState:
        job = self._job
        if job is None or job.client is None:
            return WorkerState()
        client = job.client
        return WorkerState(
            progress=replace(job.progress, outcomes=job.progress.outcomes.copy()),
            counts={key: replace(count) for key, count in client.counts.items()},
            allowed={name: endpoint.limiter.allowed for name, endpoint in client.endpoints.items()},
            spent_usd=client.budget.spent,
        )
