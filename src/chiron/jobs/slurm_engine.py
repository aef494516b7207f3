"""Engine that submits the parts of a job to Slurm as a job array, and a merge that runs after it."""

import asyncio
import json
import logging
import signal
import sqlite3
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator
from contextlib import aclosing, closing, contextmanager
from importlib.metadata import version
from os.path import relpath
from pathlib import Path
from typing import Any

from chiron.client import failures
from chiron.client.broker import Broker
from chiron.client.failures import RunStopped, Submitted, UserStopped, failure_of
from chiron.client.lease import FileLeases
from chiron.errors import ChironError, DiskError, InputError
from chiron.io import write_atomically
from chiron.jobs.directory import WorkDirectory
from chiron.jobs.engine import EngineOptions, LocalEngine, OpenJob, Part
from chiron.jobs.job import JobSummary
from chiron.jobs.parts import PartEnd, PartRunner, PartTask, check_worker, divide, pass_on
from chiron.jobs.replies import KnownCalls, RepliesSummary, look_up, rebuild
from chiron.jobs.slurm import FOLDER, JOB, need_ended, need_same_version, recorded, submit, write_scripts
from chiron.jobs.storage import COPIES, LEASES, WORKERS, Storage, attempt_of, begin_parts, part_of, recover_parts, spent_in_copy

_log = logging.getLogger(__name__)

GATHERED = "jobs.json"
"""In the folder of scripts: what was submitted together, for the merge."""
_MERGED = "merged.json"
"""In the same folder: the first file of a submission whose merge wrote everything, until the others are deleted."""
_PARTS = 4
"""Parts for each task that runs at the same time."""
_MOST_PARTS = 1000
"""Slurm's default MaxArraySize is 1001."""


class SlurmEngine:
    """Submit the parts of a job. The results come with the merge, when the array has ended."""

    def __init__(self, options: EngineOptions) -> None:
        """Create an engine.

        Raises:
            InputError: an option is missing or invalid.
        """
        if options.workers is None:
            raise InputError("--engine slurm needs --workers N, the number of tasks that may run at the same time")
        if options.address is not None:
            raise InputError("--address names a Ray cluster; --engine slurm submits to the Slurm cluster of this machine")
        options.slurm.check()
        self.options = options
        self._gathered: _Submission | None = None

    async def run(
        self, job: OpenJob, units: Iterable[Any], work: Callable[[Any], Awaitable[Any]], *, in_order: bool
    ) -> AsyncGenerator[tuple[Any, Any], None]:
        """Write and submit the scripts, and halt the job; see :meth:`Engine.run`. A job without stored results gets those of its ledger."""
        client, every = job.client, list(units)
        left = await look_up(job, every, all_units=not in_order)
        if left and client.halted is None:
            submission = self._gathered or _Submission(job.directory.path, self.options, client.budget.limit)
            await asyncio.to_thread(submission.add, job, left)
            message = None if self._gathered else await asyncio.to_thread(submission.submit, client.ledger.spent_usd())
            client.halt(Submitted(message or "its parts are submitted with those of the other jobs"))
        if in_order:
            # Without replies, every unit is pending: nothing has to be tried.
            local = (
                rebuild(job, every, work, KnownCalls(client))
                if client.ledger.has_calls()
                else LocalEngine().run(job, every, work, in_order=True)
            )
            async with aclosing(local) as ended:
                async for result in ended:
                    yield result

    @contextmanager
    def gather(self, directory: Path, record: dict[str, Any], *, jobs: int, budget_usd: float | None) -> Iterator["_Submission"]:
        """Submit several jobs as one array; see :meth:`GatheringEngine.gather`."""
        need_ended(directory.resolve())
        with WorkDirectory(directory).locked():
            for mark in directory.glob(f"*/*/{WORKERS}"):  # they would lose their leases to the new ones
                job = WorkDirectory(mark.parent)
                with job.locked():
                    recover_parts(job)
            self._gathered = _Submission(directory, self.options, budget_usd, jobs=jobs, record=record)
            try:
                yield self._gathered
            finally:
                self._gathered = None


class _Submission:
    """One job array: the parts of one job, or of several."""

    def __init__(
        self, directory: Path, options: EngineOptions, budget_usd: float | None, *, jobs: int = 1, record: dict[str, Any] | None = None
    ) -> None:
        """``directory``: that of the scripts and leases, also of the job if there is only one. See :meth:`GatheringEngine.gather`."""
        self._run, self._options, self._workers = directory.resolve(), options, options.workers or 1
        self._budget_usd, self._most, self._record = budget_usd, max(1, _MOST_PARTS // jobs), record
        self._tasks = 0

    def add(self, job: OpenJob, left: list[tuple[Any, set[str]]]) -> None:
        """Write the parts of a job. ``left``: see :func:`divide`."""
        job.part_of([unit for unit, _ in left[:1]]).to_record()  # raises before anything is written if the job cannot be divided
        if not self._tasks:
            self._begin()
        directory = job.directory.path.resolve()
        storage = Storage(self._options.storage or str(directory / COPIES))
        prefix = begin_parts(directory, storage, self._run)
        tasks = divide(
            job, left, storage, self._options, self._workers, run=prefix, parts=_PARTS, most=self._most, budget_usd=self._budget_usd
        )  # fmt: skip
        place = relpath(directory, self._run)  # the run may be moved, or mounted elsewhere on the machine that merges
        common = {"about": [version("chiron-med"), job.identity], "run": prefix, "folder": str(Path.cwd()), "directory": place}
        for number, (task, _) in enumerate(tasks, self._tasks):
            names = ("name", "units", "storage", "copy_every", "workers", "budget_usd")
            values = {name: getattr(task, name) for name in names}
            if self._record is not None:
                values["workers"] = self._workers  # tasks of the other jobs run at the same time
            record = {**common, "task": values, "part": task.part.to_record()}
            write_atomically(self._run / FOLDER / f"{number}.json", [json.dumps(record) + "\n"])
        self._tasks += len(tasks)

    def _begin(self) -> None:
        (self._run / FOLDER).mkdir(mode=0o700, exist_ok=True)
        for old in [path for path in (self._run / FOLDER).iterdir() if path.suffix in {".json", ".sh"} or path.name == JOB]:
            old.unlink()
        for old in self._run.glob(f"{LEASES}*"):
            old.unlink()

    def submit(self, spent: float) -> str | None:
        """Submit all parts, unless only the scripts are wanted; see :meth:`GatheredJobs.submit`."""
        if not self._tasks:
            return None
        workers = min(self._workers, self._tasks)
        Broker(self._budget_usd, spent, workers, self._run / LEASES, shared=True).disconnect()
        if self._record is not None:
            record = {"about": [version("chiron-med")], **self._record}
            write_atomically(self._run / FOLDER / GATHERED, [json.dumps(record) + "\n"])
        script = write_scripts(self._run, self._tasks, workers, self._options.slurm)
        if self._options.slurm.write_only:
            return f"the scripts are in {script.parent}; submit them with: bash {script}"
        array, merge = submit(script)
        return (
            f"submitted as Slurm job {array}; job {merge} merges the results when it has ended. Follow it with 'squeue --job {array}' and"
            f" the logs in {script.parent}"
        )


async def run_task(run: Path, number: int, read_part: Callable[[dict[str, Any]], Part]) -> JobSummary:
    """Run one part in a task of the job array. A part that a killed task began continues from its last copy.

    ``run`` has to be absolute: the working directory changes to that of the command that submitted the run. ``read_part`` makes a part
    from its record.

    Raises:
        InputError: the part was not submitted, or this machine lacks what it needs.
        DiskError: the storage cannot be read.
    """
    record = recorded(run, f"{number}.json")
    try:
        need_same_version(run, record)
        end = await _run_part(run, number, record, read_part(record["part"]))
    except ChironError as problem:
        _write_end(run, number, PartEnd(problem=str(problem)))
        raise
    _write_end(run, number, end)
    if end.problem is not None or end.summary is None:
        raise InputError(f"part {number} of {run} could not run: {end.problem}")
    return end.summary


async def _run_part(run: Path, number: int, record: dict[str, Any], part: Part) -> PartEnd:
    fields = record["task"]
    problem = await asyncio.to_thread(check_worker, part, tuple(record["about"]), fields["storage"], record["run"], record["folder"])
    if problem is not None:
        raise InputError(f"this machine cannot run part {number} of {run}: {problem}")
    storage = Storage(fields["storage"])
    earlier = await asyncio.to_thread(storage.copies_of, fields["name"])
    resumes = earlier[-1] if earlier else None
    name = await asyncio.to_thread(_take_over, run / LEASES, fields["name"], earlier, spent_in_copy(storage, resumes))
    with closing(FileLeases(run / LEASES, name)) as leases:
        runner = PartRunner(PartTask(**{**fields, "name": name, "part": part, "resumes": resumes}), leases)
        for number_of_signal in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
            # Slurm sends some of them twice: to the script, which passes them on, and to all processes.
            asyncio.get_running_loop().add_signal_handler(number_of_signal, runner.stop)
        end = await runner.run()
        if end.problem is None and not isinstance(end.halted, DiskError):
            await leases.end(end.state.spent_usd)
            try:
                for old in earlier:
                    await asyncio.to_thread(storage.delete, old)
            except DiskError as error:
                _log.warning("%s; the merge tries again", error)  # the part itself is done
    return end


def _take_over(file: Path, part: str, copies: list[str], spent: float) -> str:
    """Add a holder for a new attempt to run a part. Returns its name."""
    try:
        broker = Broker.join(file)
        try:
            before = [name for name in broker.holders() if part_of(name) == part]
            name = f"{part}-{1 + max((attempt_of(name) for name in [*before, *copies]), default=-1)}"
            broker.take_over(before, name, spent)
        finally:
            broker.disconnect()
    except (OSError, sqlite3.Error) as error:
        raise InputError(f"{file} cannot be used ({error}): every node must see the run directory, on a file system with locks") from error
    return name


def _write_end(run: Path, number: int, end: PartEnd) -> None:
    """Record how a part ended, for the merge."""
    stopped = end.halted is not None and not isinstance(end.halted, UserStopped)
    record: dict[str, Any] = {
        "notes": end.notes,
        "crashes": end.crashes,
        "problem": end.problem,
        "stopped": [type(end.halted).__name__, str(end.halted)] if stopped else None,
    }
    if isinstance(end.summary, RepliesSummary):
        record["failures"] = {key: failure.to_record() for key, failure in end.summary.failures.items()}
        record["answered"] = sorted(end.summary.answered)
    write_atomically(run / FOLDER / f"{number}.end.json", [json.dumps(record) + "\n"])


class SlurmMerge:
    """Send no call: the ledgers of the tasks were merged when the job started. Pass on how the tasks ended."""

    def __init__(self, run: Path) -> None:
        self._run, self._folder = run.resolve(), run.resolve() / FOLDER
        gathered = self._folder / GATHERED
        self._first = gathered if gathered.is_file() else self._folder / "0.json"
        self._content = self._first.read_bytes() if self._first.is_file() else None
        self._merged = set[Path]()

    def is_done(self) -> bool:
        """Return whether an earlier process merged everything. If it was killed while it deleted the files, delete the rest."""
        if (self._folder / _MERGED).is_file():
            self._delete()
        begun = [self._first, self._run / WORKERS, *self._run.glob(f"*/*/{WORKERS}")]
        return self._folder.is_dir() and not any(file.is_file() for file in begun)

    def need_parts(self, directories: Iterable[Path]) -> None:
        """Check that a part belongs to one of the jobs in these directories.

        Raises:
            InputError: no part does.
        """
        if not any(map(self._files, directories)):
            raise InputError(f"no part in {self._folder} belongs to the job of {self._run}: submit the same command again")

    async def run(
        self, job: OpenJob, units: Iterable[Any], work: Callable[[Any], Awaitable[Any]], *, in_order: bool
    ) -> AsyncGenerator[tuple[Any, Any], None]:
        """See :meth:`Engine.run`. Results that are not stored are rebuilt from the replies of all tasks."""
        every = list(units if in_order else deque(units, maxlen=0))  # the job counts those that have a stored result
        lacking = RunStopped("no task sent the call")
        known = KnownCalls(job.client, twice=set(job.paid_twice or ()), lacking=lacking)
        files = self._files(job.directory.path)
        for file in files:
            self._read_end(file.with_suffix(".end.json"), job, known)
        halted = job.client.halted
        async with aclosing(rebuild(job, every, work, known)) as rebuilt:
            async for ended in rebuilt:
                yield ended
        if job.client.halted is halted:  # else stopped here, by the user or a full disk
            self._merged.update(files)

    def clean(self) -> None:
        """Delete the files of the submission if all its parts are merged. Call it when the results are written: until then, merge again."""
        is_ours = self._first.is_file() and self._first.read_bytes() == self._content  # else it was submitted again
        if is_ours and self._merged.issuperset(self._files()):
            self._first.replace(self._folder / _MERGED)
            self._delete()

    def _delete(self) -> None:
        for file in self._files():
            file.unlink(missing_ok=True)
        ends = self._folder.glob("*.end.json")
        for file in (*ends, self._folder / JOB, *self._run.glob(f"{LEASES}*"), self._folder / _MERGED):
            file.unlink(missing_ok=True)

    def _files(self, directory: Path | None = None) -> list[Path]:
        """Return the files of parts, in order: of the job in a directory, or of all."""
        files = sorted((path for path in self._folder.glob("*.json") if path.stem.isdecimal()), key=lambda path: int(path.stem))
        if directory is None:
            return files
        place = relpath(directory.resolve(), self._run)
        return [file for file in files if json.loads(file.read_text("utf-8"))["directory"] == place]

    def _read_end(self, file: Path, job: OpenJob, known: KnownCalls) -> None:
        if not file.is_file():
            return  # Slurm ended its task before it began
        record = json.loads(file.read_text("utf-8"))
        # A unit may send other calls after a reply that was paid for twice. Without the keys of these, a missing call is only pending.
        answered = record.get("answered", ()) if job.paid_twice is not None else ()
        known.add({key: failure_of(failure) for key, failure in record.get("failures", {}).items()}, answered)
        halted = None
        if record["stopped"] is not None:
            kind, text = record["stopped"]
            halted = DiskError(text) if kind == DiskError.__name__ else getattr(failures, kind, RunStopped)(text)
        if record["problem"] is not None:
            halted = RunStopped(f"part {file.name.partition('.')[0]} could not run: {record['problem']}")
        pass_on(PartEnd(notes=record["notes"], crashes=record["crashes"], halted=halted), job)
