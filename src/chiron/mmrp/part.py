"""Build one part: read units, write kept and dropped rows in order. A rerun resumes."""

import json
import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Self, TypedDict, TypeVar

from chiron.cases.case import BadCase, Case
from chiron.cases.reader import AnswerPool, Selection, Shard, need_some_cases
from chiron.client.call import Ask, Call, Reply
from chiron.client.client import ModelClient
from chiron.client.config import OfflineModel
from chiron.client.failures import UnitAsk
from chiron.client.images import PictureStore
from chiron.errors import InputError
from chiron.io import file_sha256, writing
from chiron.jobs.config import JobFile
from chiron.jobs.engine import EngineOptions
from chiron.jobs.engine import Part as JobPart
from chiron.jobs.forecast import Rehearsal
from chiron.jobs.job import Job, JobSummary, Pending, Progress, Resume
from chiron.jobs.replies import Preparation, RankedPart
from chiron.mmrp.row import DROPPED, Dropped, MmrpRow, Named, PartName
from chiron.mmrp.templates import modalities_shown
from chiron.providers.registry import build_endpoints

Unit = TypeVar("Unit", bound=Named)


@dataclass(frozen=True)
class Made:
    kept: tuple[MmrpRow | Case, ...] = ()
    dropped: tuple[Dropped, ...] = ()
    outcome: str | None = None
    """By default ``kept`` if anything was kept, else ``dropped``."""

    @classmethod
    def drop(cls, part: PartName, unit: Named, reason: str, detail: str = "", *, outcome: str | None = None) -> Self:
        """Drop a whole unit."""
        return cls(dropped=(Dropped.of(part, unit, reason, detail),), outcome=outcome)


@dataclass
class BuildProgress(Progress):
    kept: int = 0
    """Number of rows or cases so far."""
    noun: str = "rows"

    def figure(self) -> str:
        return f"{self.kept} {self.noun}"

    def add(self, other: Self, sign: int = 1) -> None:
        super().add(other, sign)
        self.kept += sign * other.kept


@dataclass(frozen=True, kw_only=True)
class BuildSummary(JobSummary):
    """What a build did."""

    part: PartName
    file: Path
    """File of the rows or cases."""
    kept: int
    """Number of rows or cases in it."""
    dropped: Mapping[str, int]
    """Number of dropped items by reason, without pending cases."""

    def to_record(self) -> dict[str, Any]:
        """Convert to a JSON object."""
        return {
            "part": self.part,
            "directory": str(self.directory),
            "file": str(self.file),
            "kept": self.kept,
            "dropped": dict(self.dropped),
            "cases": self.total,
            "outcomes": dict(self.outcomes),
            "pending": self.pending,
            "refused": self.refused,
            "crashed": self.crashed,
            "spending": [asdict(spent) for spent in self.spending],
            "spent_usd": self.spent_usd,
            "possibly_spent_usd": self.possibly_spent_usd,
            "seconds": self.seconds,
            "halted": str(self.halted) if self.halted else None,
        }


class BuildOptions(TypedDict, total=False):
    """Options of a build that asks models."""

    images: Path | None
    """Image folder; by default ``images/`` next to the cases."""
    limit: int | None
    """Use only the first ``limit`` cases."""
    shard: str | None
    """``I/N``; use part I of N."""
    need_keys: bool
    """Whether API keys must be set; a forecast needs none."""
    engine: str
    """Name of the engine that runs the cases; by default ``local``, this process."""
    engine_options: EngineOptions | None
    """Address, workers and storage of an engine on other machines."""


@dataclass(kw_only=True)
class PartRun(Job[Unit | BadCase, Made, BuildSummary]):
    """Work of one process on one part."""

    resume: ClassVar[Resume] = Resume.REPLIES
    part: PartName
    kept_file: str
    """``rows.jsonl`` or ``cases.jsonl``."""
    source: Callable[[], Iterable[Unit | BadCase]]
    """Returns the units in order; called twice, the first time to count them."""
    make: Callable[[Unit, Ask], Awaitable[Made]]
    most_calls: Mapping[str, int] = field(default_factory=dict)
    """Most calls for one unit, by role."""
    again: Preparation | None = None
    """How other processes prepare the build; ``None`` for a part that calls no model."""
    progress: BuildProgress = field(default_factory=BuildProgress)
    _dropped: Counter[str] = field(default_factory=Counter, init=False)

    def __post_init__(self) -> None:
        """Add the part to what ``run.json`` contains."""
        self.identity, self.about = {"part": self.part, **self.identity}, {"part": self.part, **self.about}

    def units(self) -> Iterable[Unit | BadCase]:
        return self.source()

    def count(self) -> int:
        return sum(1 for _ in self.source())

    @cached_property
    def data_digest(self) -> str:
        """SHA-256 of the file of cases."""
        return file_sha256(Path(self.about["cases"]))

    def part_of(self, units: Sequence[tuple[int, Unit | BadCase]]) -> JobPart:
        if self.again is None:
            return super().part_of(units)
        return RankedPart(again=self.again, data=self.data_digest, ranks=frozenset(rank for rank, _ in units))

    def count_result(self, result: Made | Pending) -> None:
        if isinstance(result, Pending):
            self.progress.outcomes["pending"] += 1
            return
        self.progress.kept += len(result.kept)
        self.progress.outcomes[result.outcome or ("kept" if result.kept else "dropped")] += 1

    def run_record(self) -> dict[str, Any]:
        """Return the content of ``run.json`` until the new rows are complete.

        The rows of an earlier build stay until then, and so does its record of their sources and images.
        """
        before = self.directory.read_run() if (self.directory.path / self.kept_file).exists() else None
        return super().run_record() if before is None else {name: value for name, value in before.items() if name != "identity"}

    async def work(self, unit: Unit | BadCase, ask: UnitAsk) -> Made:
        if isinstance(unit, BadCase):
            return Made.drop(self.part, unit, "bad case", unit.problem, outcome="bad")
        return await self.make(unit, ask)

    def rehearsal(self) -> Rehearsal:
        """Return how to build the rows without sending and storing anything. Missing replies are those of the embedded author and reader.

        Raises:
            InputError: the part calls no model.
        """
        if not self.most_calls:
            raise InputError(f"part {self.part} calls no model: there is nothing to forecast")
        rules = {role: OfflineModel(provider="offline", model=f"{role}/rules") for role in self.most_calls}
        embedded = build_endpoints(
            rules, pictures=PictureStore(), answers=lambda: AnswerPool.of_cases(Path(self.about["cases"])), need_keys=False
        )
        build = self.about["config"]["build"]
        names = {role: build[role] for role in self.most_calls}

        async def run(unit: Unit | BadCase, ask: Ask) -> bool:
            return not isinstance(unit, BadCase) and (await self.make(unit, ask)).outcome != "bad"

        async def typical(call: Call) -> Reply:
            return await embedded[call.role].provider.complete(call)

        return Rehearsal(
            self.directory.ledger,
            self.endpoints,
            self.source(),
            run,
            typical,
            least={("author", names["author"]): 1},
            most={(role, names[role]): calls for role, calls in self.most_calls.items()},
            growth={"reader": build["max_tokens"]["author"]},
        )

    async def process(self, results: AsyncIterator[tuple[Unit | BadCase, Made | Pending]], client: ModelClient) -> None:
        """Write kept and dropped rows in the order of the units.

        Raises:
            InputError: there are no usable cases. The existing rows are then unchanged.
            DiskError: a file cannot be written; the existing file is unchanged.
        """
        del client
        folder = self.directory.path
        with _growing(folder / self.kept_file) as keep:
            with _growing(folder / DROPPED) as drop:
                async for unit, result in results:
                    self._write(unit, result, keep, drop)
            if self.progress.total == self.progress.outcomes["bad"]:
                # Check before the final rename: rows of an earlier build may have cost days.
                raise InputError(self._why_empty())
            self.directory.write_run(self.identity, super().run_record())

    def summarize(self, summary: JobSummary, client: ModelClient) -> BuildSummary:
        del client
        file = self.directory.path / self.kept_file
        dropped = dict(self._dropped.most_common())
        return BuildSummary(**vars(summary), part=self.part, file=file, kept=self.progress.kept, dropped=dropped)

    def _why_empty(self) -> str:
        if self.progress.total:
            before = self.directory.path / self.kept_file
            unchanged = f"; {before} is unchanged" if before.exists() else ""
            return f"no case can be used: see the reasons in {self.directory.path / DROPPED}{unchanged}"
        return "the runs retained no path: see their report.html" if self.part == "cot" else "the file contains no case"

    def _write(self, unit: Unit | BadCase, result: Made | Pending, keep: "_Write", drop: "_Write") -> None:
        if isinstance(result, Pending):
            drop(asdict(Dropped.of(self.part, unit, "pending", result.problem)))
            return
        for record in result.kept:
            keep(record.to_record())
        for dropped in result.dropped:
            drop(asdict(dropped))
            self._dropped[dropped.reason] += 1


def preparation_of(part: PartName, prepare: "Callable[..., PartRun[Any]]", config: JobFile, arguments: Mapping[str, Any]) -> Preparation:
    """Return how another process prepares a build. ``arguments``: as in a record of it."""
    return Preparation(kind=part, prepare=partial(_again, prepare), config=config, arguments=arguments)


def _again(
    prepare: "Callable[..., PartRun[Any]]", out: Path, config: JobFile, *, cases: str, images: str | None, **options: Any
) -> "PartRun[Any]":
    return prepare(Path(cases), config, out, images=None if images is None else Path(images), **options)


def select_cases(cases: Path, limit: int | None, shard: str | None) -> Callable[[], Iterator[Case | BadCase]]:
    """Return a source of the cases that a process works on, including those without a question; ``limit`` applies after sharding.

    Raises:
        InputError: the file does not exist or is empty, or ``shard`` is not ``I/N``.
    """
    need_some_cases(cases)
    selection = Selection(cases, limit, Shard.parse(shard) if shard is not None else None, unlabeled=True)
    return lambda: (case for _, case in selection)


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
    with writing(path):
        file = os.fdopen(
            os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8", errors="backslashreplace"
        )

    def write(record: Mapping[str, Any]) -> None:
        with writing(path):
            file.write(json.dumps(record, ensure_ascii=False, default=str) + "\n")

    try:
        yield write
        with writing(path):
            file.flush()
            os.fsync(file.fileno())
            file.close()
            unfinished.replace(path)
    finally:
        with suppress(OSError):  # the disk is full, which was reported at the failed write
            file.close()
        unfinished.unlink(missing_ok=True)
