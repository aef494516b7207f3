"""Building one part: units in, rows and what was dropped out, in order, one at a time; resumed by running it again."""

import json
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar

from chiron.cases.case import BadCase, Case
from chiron.cases.reader import read_cases
from chiron.cases.selection import Shard
from chiron.client.call import Ask
from chiron.client.client import Endpoint, ModelClient
from chiron.client.failures import RunStopped
from chiron.client.ledger import Spending
from chiron.errors import DiskError, InputError
from chiron.io import unwritten
from chiron.jobs.directory import WorkDirectory
from chiron.jobs.running import run_to_end
from chiron.jobs.session import Pending, Progress, Session, SessionSummary
from chiron.mmrp.row import DROPPED, Dropped, Part
from chiron.mmrp.templates import modalities_shown

PartName = Part | Literal["questions"]
"""A part of the dataset, or ``questions``."""


class Record(Protocol):
    """What becomes a line: a row, or a case."""

    def to_record(self) -> dict[str, Any]:
        """As JSON."""
        ...


class Named(Protocol):
    """What a part is made of, one at a time."""

    @property
    def id(self) -> str | None:
        """Of the case."""
        ...

    @property
    def line(self) -> int:
        """Of the case in its file, from 1."""
        ...


Unit = TypeVar("Unit", bound=Named)


@dataclass(frozen=True)
class Made:
    """What became of one unit."""

    kept: tuple[Record, ...] = ()
    dropped: tuple[Dropped, ...] = ()
    outcome: str | None = None
    """By default ``kept`` where anything was, else ``dropped``."""


@dataclass
class BuildProgress(Progress):
    """Progress of a build."""

    kept: int = 0
    """Rows, or cases, so far."""
    noun: str = "rows"

    def figure(self) -> str:
        """How many rows there are."""
        return f"{self.kept} {self.noun}"


@dataclass(frozen=True)
class BuildSummary:
    """How the building of a part ended."""

    part: PartName
    session: SessionSummary
    file: Path
    """Where the rows, or cases, are."""
    kept: int
    """Rows, or cases, in it."""
    dropped: Mapping[str, int]
    """What was dropped, by reason; the pending apart."""

    @property
    def pending(self) -> int:
        """Cases whose calls got no answer; they go on when the same command is run again."""
        return self.session.pending

    @property
    def pending_because(self) -> str | None:
        """The commonest reason of those."""
        return self.session.pending_because

    @property
    def refused(self) -> int:
        """Of the pending ones, those whose calls would be refused again."""
        return self.session.refused

    @property
    def halted(self) -> RunStopped | DiskError | None:
        """Why it ended early, if it did."""
        return self.session.halted

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know besides."""
        return self.session.notes

    @property
    def spending(self) -> tuple[Spending, ...]:
        """By role and model."""
        return self.session.spending

    def to_record(self) -> dict[str, Any]:
        """For programs."""
        session = self.session
        return {
            "part": self.part,
            "directory": str(session.directory),
            "file": str(self.file),
            "kept": self.kept,
            "dropped": dict(self.dropped),
            "cases": session.total,
            "outcomes": dict(session.outcomes),
            "pending": session.pending,
            "refused": session.refused,
            "spending": [asdict(spent) for spent in session.spending],
            "spent_usd": session.spent_usd,
            "possibly_spent_usd": session.possibly_spent_usd,
            "seconds": session.seconds,
            "halted": str(session.halted) if session.halted else None,
        }


@dataclass
class PartRun(Generic[Unit]):
    """One process's work on one part: attended and executed like a search."""

    part: PartName
    directory: WorkDirectory
    kept_file: str
    """``rows.jsonl``, or ``cases.jsonl``."""
    units: Callable[[], Iterable[Unit | BadCase]]
    """In order; gone over twice, the first time to count them."""
    make: Callable[[Unit, Ask], Awaitable[Made]]
    identity: dict[str, Any]
    about: dict[str, Any]
    endpoints: Mapping[str, Endpoint] = field(default_factory=dict)
    budget_usd: float | None = None
    in_flight: int = 256
    progress: BuildProgress = field(default_factory=BuildProgress)
    desk: ModelClient | None = None
    """``None`` before anything can be asked."""
    _session: Session | None = None
    _dropped: Counter[str] = field(default_factory=Counter)

    def stop(self) -> None:
        """Send nothing more; what is under way is still received and kept."""
        if self._session is not None:
            self._session.stop()

    async def execute(self) -> BuildSummary:
        """Make every row, asking only for what the ledger does not hold.

        Raises:
            InputError: the directory is in use, or of another configuration; or there is not one case to use.
            DiskError: a file cannot be written; the one before is still there.
        """
        identity = {"part": self.part, **self.identity}
        # Rows of an earlier build stay until the new ones are whole, and as long run.json says where they and their images are from.
        before = self.directory.read_run() if (self.directory.path / self.kept_file).exists() else None
        about = self._told() if before is None else {name: value for name, value in before.items() if name != "identity"}
        self._session = Session(self.directory, identity, about, self.endpoints, self.budget_usd, self.in_flight, self.progress)
        ended = await self._session.execute(self._go_over)
        return BuildSummary(self.part, ended, self.directory.path / self.kept_file, self.progress.kept, dict(self._dropped.most_common()))

    def _nothing_in_it(self) -> str:
        if self.progress.total:
            before = self.directory.path / self.kept_file
            stays = f"; {before} is still that of the build before" if before.exists() else ""
            return f"no case can be used: {self.directory.path / DROPPED} says why{stays}"
        return "the runs retained no path: their report.html says why" if self.part == "cot" else "the file holds no case"

    async def _go_over(self, session: Session) -> None:
        self.desk = session.desk
        self.progress.total = sum(1 for _ in self.units())
        folder = self.directory.path
        with _growing(folder / self.kept_file) as keep:
            with _growing(folder / DROPPED) as drop:
                async for unit, result in session.over(self.units(), self._make):
                    self._write(unit, result, keep, drop)
            if self.progress.total == self.progress.outcomes["bad"]:
                # Before the rows take their name: those of an earlier build may have cost days.
                raise InputError(self._nothing_in_it())
            self.directory.write_run(session.identity, self._told())

    def _told(self) -> dict[str, Any]:
        return {"chiron": version("chiron-med"), "part": self.part, **self.about}

    def _write(self, unit: Unit | BadCase, result: Made | Pending, keep: "_Write", drop: "_Write") -> None:
        if isinstance(result, Pending):
            drop(Dropped(self.part, unit.id, "pending", result.problem, line=unit.line).to_record())
            self.progress.outcomes["pending"] += 1
            return
        for record in result.kept:
            keep(record.to_record())
        for dropped in result.dropped:
            drop(dropped.to_record())
            self._dropped[dropped.reason] += 1
        self.progress.kept += len(result.kept)
        self.progress.outcomes[result.outcome or ("kept" if result.kept else "dropped")] += 1

    async def _make(self, unit: Unit | BadCase, ask: Ask) -> Made:
        if isinstance(unit, BadCase):
            return Made(dropped=(Dropped(self.part, unit.id, "bad case", unit.problem, line=unit.line),), outcome="bad")
        return await self.make(unit, ask)


def execute(run: PartRun[Any]) -> BuildSummary:
    """Execute a part, also where an event loop already runs (a notebook)."""
    return run_to_end(run, run.execute)


def chosen(cases: Path, limit: int | None, shard: Shard | None) -> Iterator[Case | BadCase]:
    """The cases of a file that a process works on, unlabeled cases included; the first ``limit`` after sharding."""
    taken = 0
    for case in read_cases(cases, unlabeled=True):
        name = case.id if isinstance(case, Case) else case.label
        if shard is not None and not shard.holds(name):
            continue
        if taken == limit:
            return
        taken += 1
        yield case


def origin(cases: Path, images: Path | None, limit: int | None, shard: str | None) -> dict[str, Any]:
    """Where a part's material lies and what of it was chosen, for ``run.json``."""
    folder = images if images is not None else cases.parent / "images"
    return {"cases": str(cases.resolve()), "images": str(folder.resolve()), "limit": limit, "shard": shard}


def patient_of(case: Case) -> str:
    """What splits keep together: the case's patient where its source names one, else the case."""
    patient = case.meta.get("patient")
    return str(patient) if isinstance(patient, str | int) and str(patient).strip() else case.id


def placed(case: Case) -> dict[str, Any]:
    """Where a row stands in the dataset: the fields of every row that come from its case alone."""
    from chiron.cases.body_systems import body_system_of_case

    system, licence = body_system_of_case(case), case.meta.get("licence")
    return {
        "case_id": case.id,
        "patient": patient_of(case),
        "findings": case.findings,
        "modalities": modalities_shown(case),
        "body_system": system.name if system is not None else None,
        "licence": licence if isinstance(licence, str) else None,
    }


_Write = Callable[[Mapping[str, Any]], None]


@contextmanager
def _growing(path: Path) -> Iterator[_Write]:
    """Write a JSONL file a line at a time; it takes its name when the block ends without an error.

    One that a killed process left unfinished is written over: the directory is held by one process.
    """
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        file = os.fdopen(
            os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8", errors="backslashreplace"
        )
    except OSError as error:
        raise unwritten(path, error) from error

    def write(record: Mapping[str, Any]) -> None:
        try:
            file.write(json.dumps(record, ensure_ascii=False, default=str) + "\n")
        except OSError as error:
            raise unwritten(path, error) from error

    try:
        yield write
        try:
            file.flush()
            os.fsync(file.fileno())
            file.close()
            unfinished.replace(path)
        except OSError as error:
            raise unwritten(path, error) from error
    finally:
        _let_go(file, unfinished)


def _let_go(file: Any, unfinished: Path) -> None:
    with suppress(OSError):  # its last lines found no room, which was told when they were written
        file.close()
    unfinished.unlink(missing_ok=True)
