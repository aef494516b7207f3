"""Run one part of a job in a worker process: in a local directory, with copies of its ledger in the storage of the run."""

import asyncio
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from chiron.client.client import Count
from chiron.client.failures import RunStopped
from chiron.client.lease import LeasedBudget, Leases
from chiron.errors import ChironError, DiskError
from chiron.jobs.crashes import LOG
from chiron.jobs.engine import Part
from chiron.jobs.storage import Storage


@dataclass(frozen=True, kw_only=True)
class PartTask:
    """What a worker needs to run a part."""

    name: str
    """Name of this attempt to run the part; its copy is stored under it."""
    part: Part
    units: int
    resumes: str | None = None
    """Name of the copy of an attempt whose worker was lost."""
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


def check_worker(part: Part, about: tuple[str, dict[str, Any]], storage: str, token: str, folder: str) -> str | None:
    """Return why this process cannot run parts of the job, or ``None``.

    Args:
        part: any part of the job.
        about: version of chiron, and identity of the job, in the process that asks.
        storage: storage of the run.
        token: name of a file that the other process wrote there.
        folder: its working directory, to which paths in the configuration are relative.
    """
    try:
        if os.path.isdir(folder):
            os.chdir(folder)
        with tempfile.TemporaryDirectory() as scratch:
            if not Storage(storage).get(token, Path(scratch) / "token"):
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


class PartRunner:
    """One part of a job in this process."""

    def __init__(self, task: PartTask, leases: Leases | None) -> None:
        """``leases``: connection to the broker of the budget, if there is one."""
        self._task, self._leases = task, leases
        self._storage = Storage(task.storage)
        self._folder = Path(tempfile.mkdtemp(prefix=f"chiron-{task.name}-"))
        self._job: Any = None
        self._over = False
        self._storing = threading.Lock()

    async def run(self) -> PartEnd:
        """Run the part, store its ledger at an interval and at the end, and remove the local directory."""
        try:
            summary_halt, notes = await self._run_job()
        except ChironError as problem:
            self._over = True
            return PartEnd(state=self.state(), problem=str(problem))
        try:
            await asyncio.to_thread(self._store)
        except DiskError as problem:
            kept = f"{problem}; the replies of this part are in {self._folder} on {socket.gethostname()}"
            return PartEnd(state=self.state(), halted=DiskError(kept))
        log = self._folder / LOG
        crashes = log.read_text("utf-8", "replace") if log.is_file() else ""
        shutil.rmtree(self._folder, ignore_errors=True)
        return PartEnd(state=self.state(), halted=summary_halt, notes=notes, crashes=crashes)

    async def _run_job(self) -> tuple[RunStopped | DiskError | None, dict[str, str]]:
        task = self._task
        if task.resumes is not None:
            await asyncio.to_thread(self._storage.get_ledger, task.resumes, self._folder / "ledger.sqlite")
        job = task.part.open(self._folder, task.workers)
        job.make_budget = self._budget_maker()
        self._job = job
        copying = asyncio.create_task(self._copy_now_and_then())
        try:
            await job.execute()
        finally:
            self._over = True
            copying.cancel()
            await asyncio.gather(copying, return_exceptions=True)
        return job.client.halted, dict(job.client.notes)

    def _budget_maker(self) -> Callable[[float], LeasedBudget] | None:
        leases, total = self._leases, self._task.budget_usd
        if leases is None or total is None:
            return None
        return lambda spent: LeasedBudget(leases, total, spent=spent)

    def stop(self) -> None:
        """Send no more calls. If the job has no client yet, stop it as soon as it has one."""
        if self._job is not None and self._job.client is not None:
            self._job.stop()
        elif not self._over:
            asyncio.get_running_loop().call_later(0.05, self.stop)

    async def _copy_now_and_then(self) -> None:
        """Store copies until cancelled. A storage that cannot be written stops the part: a lost worker would lose more and more."""
        while True:
            await asyncio.sleep(self._task.copy_every)
            if (self._folder / "ledger.sqlite").is_file():
                try:
                    await asyncio.shield(asyncio.to_thread(self._store))
                except DiskError as problem:
                    self._job.client.halt(problem)
                    return

    def _store(self) -> None:
        with self._storing:  # a thread that stores a copy cannot be cancelled: the last copy waits for it
            self._storage.put_ledger(self._folder / "ledger.sqlite", self._task.name)

    def state(self) -> WorkerState:
        """Return the progress so far."""
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
