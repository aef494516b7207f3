"""Build one part: read units, write kept and dropped rows in order. A rerun resumes."""

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
    """Something that is written as a line: a row or a case."""

    def to_record(self) -> Mapping[str, object]:
        """Convert to a JSON object."""
        ...


class Named(Protocol):
    """A unit of work of a part."""

    @property
    def id(self) -> str | None:
        """Id of the case."""
        ...

    @property
    def line(self) -> int:
        """Line of the case in its file, from 1."""
        ...


Unit = TypeVar("Unit", bound=Named)


@dataclass(frozen=True)
class Made:
    """Result of one unit."""

    kept: tuple[Record, ...] = ()
    dropped: tuple[Dropped, ...] = ()
    outcome: str | None = None
    """By default ``kept`` if anything was kept, else ``dropped``."""


@dataclass
class BuildProgress(Progress):
    """Progress of a build."""

    kept: int = 0
    """Number of rows or cases so far."""
    noun: str = "rows"

    def figure(self) -> str:
        """Return the number of rows as text."""
        return f"{self.kept} {self.noun}"


@dataclass(frozen=True)
class BuildSummary:
    """Summary of the build of a part."""

    part: PartName
    session: SessionSummary
    file: Path
    """File of the rows or cases."""
    kept: int
    """Number of rows or cases in it."""
    dropped: Mapping[str, int]
    """Number of dropped items by reason, without pending cases."""

    @property
    def pending(self) -> int:
        """Number of cases with failed calls; the same command resumes them."""
        return self.session.pending

    @property
    def pending_because(self) -> str | None:
        """Most frequent reason of the pending cases."""
        return self.session.pending_because

    @property
    def refused(self) -> int:
        """Number of pending cases whose calls would be rejected again."""
        return self.session.refused

    @property
    def halted(self) -> RunStopped | DiskError | None:
        """Why the build ended early, if it did."""
        return self.session.halted

    @property
    def notes(self) -> tuple[str, ...]:
        """Further messages for the user."""
        return self.session.notes

    @property
    def spending(self) -> tuple[Spending, ...]:
        """Spending by role and model."""
        return self.session.spending

    def to_record(self) -> dict[str, Any]:
        """Convert to a JSON object."""
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
    """Work of one process on one part, with the same interface as a search run."""

    part: PartName
    directory: WorkDirectory
    kept_file: str
    """``rows.jsonl`` or ``cases.jsonl``."""
    units: Callable[[], Iterable[Unit | BadCase]]
    """Units in order; iterated twice, the first time to count them."""
    make: Callable[[Unit, Ask], Awaitable[Made]]
    identity: dict[str, Any]
    about: dict[str, Any]
    endpoints: Mapping[str, Endpoint] = field(default_factory=dict)
    budget_usd: float | None = None
    in_flight: int = 256
    progress: BuildProgress = field(default_factory=BuildProgress)
    desk: ModelClient | None = None
    """``None`` before the client is open."""
    _session: Session | None = None
    _dropped: Counter[str] = field(default_factory=Counter)

    def stop(self) -> None:
        """Stop sending calls; replies to calls in progress are still received and stored."""
        if self._session is not None:
            self._session.stop()

    async def execute(self) -> BuildSummary:
        """Build all rows, and call models only for replies that are not in the ledger.

        Raises:
            InputError: the directory is in use or has another configuration, or there are no usable cases.
            DiskError: a file cannot be written; the existing file is unchanged.
        """
        identity = {"part": self.part, **self.identity}
        # Rows of an earlier build stay until the new ones are complete, and so does its run.json, which records their sources and images.
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
                # Check before the final rename: rows of an earlier build may have cost days.
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
    """Execute a part; also works inside a running event loop (a notebook)."""
    return run_to_end(run, run.execute)


def chosen(cases: Path, limit: int | None, shard: Shard | None) -> Iterator[Case | BadCase]:
    """Yield the cases that a process works on, including unlabeled ones; ``limit`` applies after sharding."""
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
    """Return the sources and selection of a part, for ``run.json``."""
    folder = images if images is not None else cases.parent / "images"
    return {"cases": str(cases.resolve()), "images": str(folder.resolve()), "limit": limit, "shard": shard}


def patient_of(case: Case) -> str:
    """Return the id that splits keep together: the case's patient if its source names one, else the case."""
    patient = case.meta.get("patient")
    return str(patient) if isinstance(patient, str | int) and str(patient).strip() else case.id


def placed(case: Case) -> dict[str, Any]:
    """Return the fields of a row that depend only on its case."""
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
    """Write a JSONL file line by line; it gets its final name when the block ends without an error.

    An unfinished file of a killed process is overwritten: only one process uses the directory.
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
    with suppress(OSError):  # the disk is full, which was reported at the failed write
        file.close()
    unfinished.unlink(missing_ok=True)
