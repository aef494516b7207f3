"""Engine that submits the parts of a job to Slurm as a job array, and a merge that runs after it."""

import asyncio
import json
import signal
import sqlite3
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from chiron.client import failures
from chiron.client.failures import RunStopped, Submitted, UserStopped
from chiron.client.lease import Broker, FileLeases
from chiron.errors import ChironError, DiskError, InputError
from chiron.io import write_atomically
from chiron.jobs.engine import EngineOptions, OpenJob, Part
from chiron.jobs.job import JobSummary
from chiron.jobs.parts import PartEnd, PartRunner, PartTask, check_worker, divide, pass_on
from chiron.jobs.slurm import FOLDER, JOB, submit, write_scripts
from chiron.jobs.storage import COPIES, LEASES, Storage, attempt_of, begin_parts, part_of, spent_in_copy

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
        self.options, self._workers = options, options.workers

    async def run(
        self, job: OpenJob, units: Iterable[Any], work: Callable[[Any], Awaitable[Any]], *, in_order: bool
    ) -> AsyncGenerator[tuple[Any, Any], None]:
        """Write and submit the scripts, and halt the job; see :meth:`Engine.run`."""
        del work
        if in_order:
            raise InputError("--engine slurm runs searches only: use --engine ray or local")
        left = list(units)
        client = job.client
        if left and client is not None and client.halted is None:
            script = await asyncio.to_thread(self._write, job, left, client.budget.limit, client.ledger.spent_usd())
            client.halt(Submitted(await asyncio.to_thread(self._submit, script)))
        for none in list[tuple[Any, Any]]():
            yield none

    def _write(self, job: OpenJob, units: list[Any], budget_usd: float | None, spent: float) -> Path:
        job.part_of(units[:1])  # raises before anything is written if the job cannot be divided
        run = job.directory.path.resolve()
        (run / FOLDER).mkdir(mode=0o700, exist_ok=True)
        for old in [path for path in (run / FOLDER).iterdir() if path.suffix in {".json", ".sh"} or path.name == JOB]:
            old.unlink()
        storage = Storage(self.options.storage or str(run / COPIES))
        prefix = begin_parts(run, storage)
        tasks = divide(
            job, units, storage.url, self.options, self._workers, run=prefix, parts=_PARTS, most=_MOST_PARTS, budget_usd=budget_usd
        )  # fmt: skip
        Broker(budget_usd, spent, tasks[0].workers, run / LEASES, shared=True).disconnect()
        common = {"about": [version("chiron-med"), job.identity], "run": prefix, "folder": str(Path.cwd())}
        for number, task in enumerate(tasks):
            names = ("name", "units", "storage", "copy_every", "workers", "budget_usd")
            record = {**common, "task": {name: getattr(task, name) for name in names}, "part": task.part.to_record()}
            write_atomically(run / FOLDER / f"{number}.json", [json.dumps(record) + "\n"])
        return write_scripts(run, len(tasks), tasks[0].workers, self.options.slurm)

    def _submit(self, script: Path) -> str:
        if self.options.slurm.write_only:
            return f"the scripts are in {script.parent}; submit them with: bash {script}"
        array, merge = submit(script)
        return (
            f"submitted as Slurm job {array}; job {merge} merges the results when it has ended. Follow it with 'squeue --job {array}' and"
            f" the logs in {script.parent}"
        )


async def run_task(run: Path, number: int, read_part: Callable[[dict[str, Any]], Part]) -> JobSummary:
    """Run one part in a task of the job array. A part that a killed task began continues from its last copy.

    Args:
        run: run directory, absolute: the working directory changes to that of the command that submitted the run.
        number: number of the part.
        read_part: makes a part from its record.

    Raises:
        InputError: the part was not submitted, or this machine lacks what it needs.
        DiskError: the storage cannot be read.
    """
    file = run / FOLDER / f"{number}.json"
    try:
        record = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read ({error}): the run was merged or submitted again; see 'chiron status {run}'") from None
    try:
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
    version_there, identity = record["about"]
    about = (version_there, identity)
    problem = await asyncio.to_thread(check_worker, part, about, fields["storage"], record["run"], record["folder"])
    if problem is not None:
        raise InputError(f"this machine cannot run part {number} of {run}: {problem}")
    storage = Storage(fields["storage"])
    earlier = await asyncio.to_thread(storage.copies_of, fields["name"])
    resumes = earlier[-1] if earlier else None
    name = await asyncio.to_thread(_take_over, run / LEASES, fields["name"], earlier, spent_in_copy(storage, resumes))
    leases = FileLeases(run / LEASES, name)
    runner = PartRunner(PartTask(**{**fields, "name": name, "part": part, "resumes": resumes}), leases)
    for number_of_signal in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        # Slurm sends some of them twice: to the script, which passes them on, and to all processes.
        asyncio.get_running_loop().add_signal_handler(number_of_signal, runner.stop)
    end = await runner.run()
    if end.problem is None and not isinstance(end.halted, DiskError):
        await leases.end(end.state.spent_usd)
        for old in earlier:
            await asyncio.to_thread(storage.delete, old)
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
    except sqlite3.Error as error:
        raise InputError(f"{file} cannot be used ({error}): every node must see the run directory, on a file system with locks") from error
    return name


def _write_end(run: Path, number: int, end: PartEnd) -> None:
    """Record how a part ended, for the merge."""
    stopped = end.halted is not None and not isinstance(end.halted, UserStopped)
    record = {
        "notes": end.notes,
        "crashes": end.crashes,
        "problem": end.problem,
        "stopped": [type(end.halted).__name__, str(end.halted)] if stopped else None,
    }
    write_atomically(run / FOLDER / f"{number}.end.json", [json.dumps(record) + "\n"])


class SlurmMerge:
    """Run nothing: the ledgers of the tasks were merged when the job started. Pass on how the tasks ended."""

    async def run(
        self, job: OpenJob, units: Iterable[Any], work: Callable[[Any], Awaitable[Any]], *, in_order: bool
    ) -> AsyncGenerator[tuple[Any, Any], None]:
        """See :meth:`Engine.run`."""
        del work, in_order
        deque(units, maxlen=0)  # the job counts those that have a result
        folder = job.directory.path / FOLDER
        for file in sorted(folder.glob("*.end.json")):
            record = json.loads(file.read_text("utf-8"))
            halted = None
            if record["stopped"] is not None:
                kind, text = record["stopped"]
                halted = DiskError(text) if kind == DiskError.__name__ else getattr(failures, kind, RunStopped)(text)
            if record["problem"] is not None:
                halted = RunStopped(f"part {file.name.partition('.')[0]} could not run: {record['problem']}")
            pass_on(PartEnd(notes=record["notes"], crashes=record["crashes"], halted=halted), job)
        for file in [*folder.glob("*.json"), folder / JOB]:
            file.unlink(missing_ok=True)
        for none in list[tuple[Any, Any]]():
            yield none
