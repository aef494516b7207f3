"""Current state of each kind of run: the line on the home page, and the data of its own page."""

import os
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chiron.view.accounts import Accounts, open_accounts
from chiron.view.case_index import CaseIndex, count_cases
from chiron.view.discovery import METRICS, PROVENANCE, Kind, Place, kind_of
from chiron.view.lines import LineFile
from chiron.view.rows import PartRows, ReleaseRows, RowIndex, RowSource
from chiron.view.sources import (
    ITEMS,
    LEDGER,
    RESULTS,
    RUN,
    ChironError,
    ImageFolder,
    InputError,
    Selection,
    Shard,
    in_use,
    read_object,
    read_run,
    reading,
)

Signature = tuple[object, ...]


@dataclass(frozen=True)
class RunLine:
    """One line of the home page."""

    id: str
    name: str
    kind: Kind
    subject: str = ""
    """What the run works on, in a few words."""
    state: str = ""
    """``running``, ``complete``, ``stopped`` or ``damaged``."""
    done: int | None = None
    total: int | None = None
    unit: str = "cases"
    retained: int | None = None
    known_usd: float | None = None
    possible_usd: float = 0.0
    priced: bool = True
    seconds_left: float | None = None
    changed: float = 0.0
    """Time of the last change, in seconds since 1970."""
    problem: str = ""


def stat_of(path: Path) -> tuple[int, int, int] | None:
    """Return what changes when a file changes; ``None`` if it does not exist."""
    try:
        about = os.stat(path)
    except (OSError, ValueError):
        return None
    return about.st_ino, about.st_size, about.st_mtime_ns


class RunState:
    """A run directory, with what is known of it so far. Methods may be called by several threads."""

    kind: Kind = "unknown"
    files: tuple[str, ...] = (RUN,)
    """Files whose changes change the run's pages."""

    def __init__(self, place: Place) -> None:
        """Prepare to read a run."""
        self.place = place
        self.lock = threading.RLock()
        self.problem = ""
        self.settled = False
        """Whether everything is read that the home page shows."""
        self._seen: Signature | None = None
        self._line: RunLine | None = None

    @property
    def path(self) -> Path:
        """The run directory."""
        return self.place.path

    def signature(self) -> Signature:
        """Return a value that changes when the run changes."""
        return (in_use(self.path), *(stat_of(self.path / name) for name in self.files))

    def line(self, until: float) -> RunLine:
        """Return the line of the home page. Reading stops when the monotonic clock shows ``until``, and continues in the background."""
        with self.lock:
            now = self.signature()
            if self._line is None or now != self._seen or not self.settled:
                self._line = self._fresh(now, until)
                self._seen = now
            return self._line

    def _fresh(self, now: Signature, until: float) -> RunLine:
        try:
            self.problem = ""
            self.settled = self.refresh(until)
            line = self.describe(running=bool(now[0]))
        except ChironError as problem:
            self.settled, self.problem = True, str(problem)
            line = RunLine(self.place.id, self.place.name, self.kind, state="damaged", problem=self.problem)
        times = [about[2] for about in now[1:] if isinstance(about, tuple)]
        return RunLine(**{**vars(line), "changed": max(times, default=0) / 1e9})

    def refresh(self, until: float) -> bool:
        """Read what is new; return whether everything is read.

        Raises:
            ChironError: the run cannot be read.
        """
        return True

    def describe(self, *, running: bool) -> RunLine:
        """Return the line from what is read.

        Raises:
            ChironError: the run cannot be read.
        """
        raise NotImplementedError

    def work(self, until: float) -> bool:
        """Do background work until the monotonic clock shows ``until``; return whether a page would look different now."""
        if self.settled:
            return False
        self.line(until)
        return True

    def close(self) -> None:
        """Free memory."""


class UnknownState(RunState):
    """A directory that cannot be read as a run."""

    files = (RUN, LEDGER, METRICS, PROVENANCE)

    def describe(self, *, running: bool) -> RunLine:
        """Return a line with the problem."""
        raise InputError(kind_of(self.path)[1] or "this directory changed while it was read: reload the page")


_QUICK = 4e6
"""Bytes of a file of cases that are counted at once; a larger one is counted in the background."""


@dataclass
class _Total:
    """Number of cases that a run selects, counted in the background."""

    source: object = None
    count: int | None = None
    problem: str = ""


class SearchState(RunState):
    """A search or a replay."""

    kind: Kind = "search"
    files = (RUN, LEDGER, f"{LEDGER}-wal")

    def __init__(self, place: Place) -> None:
        """Prepare to read a search."""
        super().__init__(place)
        self.accounts: Accounts | None = None
        self.index = CaseIndex()
        self.run: dict[str, Any] = {}
        self.total = _Total()
        self.wants_details = False
        self.labelled = False

    def close(self) -> None:
        """Free the index."""
        self.index.close()

    @property
    def selection(self) -> Selection:
        """The cases that the run selects.

        Raises:
            InputError: ``run.json`` does not name them.
        """
        return selection_of(self.run, self.path)

    def refresh(self, until: float) -> bool:
        """Read new calls and results."""
        self.run = read_run(self.path)
        with reading(self.path / LEDGER) as connection:
            self.accounts = self.accounts or Accounts(self.path / LEDGER)
            done = self.accounts.advance(connection, until)
            self.index.advance(connection)
        if self.total.source is None and time.monotonic() < until:
            self._count(most_bytes=_QUICK)
        return done

    def describe(self, *, running: bool) -> RunLine:
        """Return progress, retained paths, cost and time left."""
        counts = self.index.counts()
        done = counts.total() - counts["pending"]
        total = self.total.count
        accounts = self.accounts or Accounts(self.path / LEDGER)
        finished = not counts["pending"] and (total is None or done >= total)
        return RunLine(
            self.place.id,
            self.place.name,
            self.kind,
            subject=Path(str(self.run.get("cases", ""))).name,
            state="running" if running else "complete" if finished else "stopped",
            done=done,
            total=total,
            retained=counts["retained"],
            known_usd=accounts.known_usd,
            possible_usd=accounts.possible_usd,
            priced=accounts.priced,
            seconds_left=_seconds_left(accounts, done, total) if running else None,
        )

    def work(self, until: float) -> bool:
        """Count the cases, then read the records and labels that the search's own page shows."""
        with self.lock:
            changed = super().work(until)
            changed |= self._count()
            if self.wants_details and not self.problem:
                changed |= self._read_more(until)
            return changed

    def _count(self, most_bytes: float = float("inf")) -> bool:
        """Count the cases if their file has changed and is not too large; return whether it was counted."""
        try:
            selection = self.selection
            about = stat_of(selection.cases)
            source = (about, selection)
            if source == self.total.source or (about is not None and about[1] > most_bytes):
                return False
            self.total = _Total(source, count_cases(selection))
        except ChironError as problem:
            if self.total.problem == str(problem):
                return False
            self.total = _Total(None, None, str(problem))
        self._line = None
        return True

    def _read_more(self, until: float) -> bool:
        changed = False
        if self.index.waiting:
            with reading(self.path / LEDGER) as connection:
                self.index.read_details(connection, until)
            changed = True
        elif not self.total.problem:
            before, self.labelled = self.labelled, self.index.read_labels(self.total.source, self.selection, until)
            changed = not (before and self.labelled)
        return changed

    def case_file_images(self) -> ImageFolder | None:
        """Return the image folder of the run, if it names one."""
        folder = self.run.get("images")
        return ImageFolder(Path(folder)) if isinstance(folder, str) and folder else None


def selection_of(run: dict[str, Any], path: Path) -> Selection:
    """Return the cases that a run selects.

    Raises:
        InputError: ``run.json`` does not name them.
    """
    cases, limit, shard = run.get("cases"), run.get("limit"), run.get("shard")
    if not isinstance(cases, str) or not cases:
        raise InputError(f"{path / RUN} names no file of cases")
    return Selection(Path(cases), limit if isinstance(limit, int) else None, Shard.parse(shard) if isinstance(shard, str) else None)


def _seconds_left(accounts: Accounts, done: int, total: int | None) -> float | None:
    """Estimate the seconds left from the calls of a finished case and the speed of the last calls."""
    if not done or total is None or not accounts.calls_per_second:
        return None
    return max(0, total - done) * (accounts.calls / done) / accounts.calls_per_second


class RowState(RunState):
    """A run whose rows can be looked at."""

    def __init__(self, place: Place) -> None:
        """Prepare to read rows."""
        super().__init__(place)
        self.index = RowIndex()
        self.wants_rows = False
        self._indexed: object = None

    def rows_of(self) -> tuple[object, RowSource]:
        """Return what changes when the rows change, and the rows."""
        raise NotImplementedError

    def read_rows(self, until: float) -> bool:
        """Read rows into the index until the monotonic clock shows ``until``; return whether a page would look different now."""
        mark, source = self.rows_of()
        if mark != self._indexed:
            self.index.restart(source)
            self._indexed = mark
        if self.index.done:
            return False
        self.index.advance(until)
        return True

    def work(self, until: float) -> bool:
        """Read what the home page shows, then the rows."""
        with self.lock:
            changed = super().work(until)
            return (self.read_rows(until) if self.wants_rows and not self.problem else False) or changed


class BuildState(RowState):
    """A part of the dataset."""

    kind: Kind = "build"
    files = (RUN, LEDGER, f"{LEDGER}-wal", "rows.jsonl", "cases.jsonl", ".rows.jsonl.unfinished", ".cases.jsonl.unfinished", "check.json")

    def __init__(self, place: Place) -> None:
        """Prepare to read a build."""
        super().__init__(place)
        self.accounts: Accounts | None = None
        self.run: dict[str, Any] = {}
        self.rows = LineFile(self.path / "rows.jsonl")
        self.unfinished = LineFile(self.path / ".rows.jsonl.unfinished")
        self.dropped = LineFile(self.path / "dropped.jsonl")

    def refresh(self, until: float) -> bool:
        """Count rows and read new calls."""
        self.run = read_run(self.path)
        if self.part == "questions":
            self.rows.path = self.path / "cases.jsonl"
            self.unfinished.path = self.path / ".cases.jsonl.unfinished"
        done = True
        if (self.path / LEDGER).is_file():
            self.accounts, done = open_accounts(self.path / LEDGER, self.accounts, until)
        return all([done, self.rows.advance(until), self.unfinished.advance(until), self.dropped.advance(until)])

    def rows_of(self) -> tuple[object, RowSource]:
        """Return the lines of the part."""
        return stat_of(self.rows.path), PartRows(self.rows)

    @property
    def part(self) -> str:
        """``text``, ``alignment``, ``cot`` or ``questions``."""
        identity = self.run.get("identity")
        return str((identity.get("part") if isinstance(identity, dict) else None) or self.run.get("part") or "")

    def describe(self, *, running: bool) -> RunLine:
        """Return the number of rows and the cost."""
        growing = running and len(self.unfinished) > 0
        return RunLine(
            self.place.id,
            self.place.name,
            self.kind,
            subject=self.part,
            state="running" if running else "complete" if self.rows.path.is_file() else "stopped",
            done=len(self.unfinished if growing else self.rows),
            unit="cases" if self.part == "questions" else "rows",
            **_costs(self.accounts),
        )


def _costs(accounts: Accounts | None) -> dict[str, Any]:
    if accounts is None:
        return {}
    return {"known_usd": accounts.known_usd, "possible_usd": accounts.possible_usd, "priced": accounts.priced}


class EvaluationState(RunState):
    """An evaluation of one model."""

    kind: Kind = "evaluation"
    files = (RUN, LEDGER, f"{LEDGER}-wal", ITEMS, RESULTS)

    def __init__(self, place: Place) -> None:
        """Prepare to read an evaluation."""
        super().__init__(place)
        self.accounts: Accounts | None = None
        self.run: dict[str, Any] = {}
        self.lines = LineFile(self.path / ITEMS)

    def refresh(self, until: float) -> bool:
        """Count items and read new calls."""
        self.run = read_run(self.path)
        done = True
        if (self.path / LEDGER).is_file():
            self.accounts, done = open_accounts(self.path / LEDGER, self.accounts, until)
        return all([done, self.lines.advance(until)])

    def describe(self, *, running: bool) -> RunLine:
        """Return model, number of answers, pending ones and cost."""
        groups = (read_object(self.path / RESULTS) or {}).get("groups")
        groups = [group for group in groups if isinstance(group, dict)] if isinstance(groups, list) else []
        pending = sum(_pending(group) for group in groups)
        known = len(self.lines) - pending
        return RunLine(
            self.place.id,
            self.place.name,
            self.kind,
            subject=f"{self.run.get('model', '')}: {', '.join(dict.fromkeys(str(g.get('benchmark')) for g in groups))}".rstrip(": "),
            state="running" if running else "complete" if groups and not pending else "stopped",
            done=known if groups else self.accounts.calls if self.accounts else 0,
            total=len(self.lines) if groups else None,
            unit="answers" if groups else "calls",
            **_costs(self.accounts),
        )


def _pending(group: dict[str, Any]) -> int:
    verdicts = group.get("verdicts")
    number = verdicts.get("pending", 0) if isinstance(verdicts, dict) else 0
    return number if isinstance(number, int) else 0


@dataclass
class Stage:
    """One stage of a training, from its metrics."""

    name: str
    steps: int = 0
    """Number of steps that the stage has."""
    points: list[dict[str, float]] = field(default_factory=list)
    """Metrics of its steps, in order."""
    held_out: list[tuple[float, float]] = field(default_factory=list)
    """(total steps, loss on held-out rows)."""


_NUMBERS = ("step", "steps", "total_steps", "loss", "learning_rate", "gradient_norm", "tokens", "seconds", "utilisation", "memory_gib")
_STALE = 60.0


class TrainingState(RunState):
    """A training."""

    kind: Kind = "training"
    files = (METRICS, "model")

    def __init__(self, place: Place) -> None:
        """Prepare to read a training."""
        super().__init__(place)
        self.stages: dict[str, Stage] = {}
        self._lines = LineFile(self.path / METRICS)
        self._read = 0
        self.unreadable = 0
        """Number of lines that are not metrics."""

    def signature(self) -> Signature:
        """Return a value that changes with the metrics and when a training falls silent."""
        return (self._is_fresh(), *(stat_of(self.path / name) for name in self.files))

    def _is_fresh(self) -> bool:
        """Return whether a step was written lately. A training has no lock, so this is what tells a running one from a stopped one."""
        about = stat_of(self.path / METRICS)
        if about is None or (self.path / "model").is_dir():
            return False
        last = [point["seconds"] for stage in self.stages.values() for point in stage.points[-3:]]
        return time.time() - about[2] / 1e9 < max(_STALE, 10 * max(last, default=0.0))

    def refresh(self, until: float) -> bool:
        """Read new steps."""
        done = self._lines.advance(until)
        if len(self._lines) < self._read:  # resumed from a checkpoint: the file was written again
            self.stages, self._read, self.unreadable = {}, 0, 0
        while self._read < len(self._lines):
            self._add()
            self._read += 1
            if time.monotonic() >= until:
                return False
        return done

    def _add(self) -> None:
        try:
            line = self._lines.record(self._read)
            stage = self.stages.setdefault(str(line["stage"]), Stage(str(line["stage"])))
            if "held_out_loss" in line:
                stage.held_out.append((float(line["total_steps"]), float(line["held_out_loss"])))
                return
            stage.points.append({name: float(line[name]) for name in _NUMBERS})
            stage.steps = int(line["steps"])
        except (ChironError, KeyError, TypeError, ValueError, OverflowError):
            self.unreadable += 1

    def describe(self, *, running: bool) -> RunLine:
        """Return the stage, steps and time left in the stage."""
        stage = list(self.stages.values())[-1] if self.stages else Stage("")
        done, left = len(stage.points), max(0, stage.steps - len(stage.points))
        recent = [point["seconds"] for point in stage.points[-50:]]
        complete = (self.path / "model").is_dir()
        return RunLine(
            self.place.id,
            self.place.name,
            self.kind,
            subject=f"stage {stage.name}" if stage.name else "",
            state="running" if running else "complete" if complete else "stopped",
            done=done,
            total=stage.steps or None,
            unit="steps",
            seconds_left=left * sum(recent) / len(recent) if running and recent else None,
        )


class ReleaseState(RowState):
    """A release of the dataset."""

    kind: Kind = "release"
    files = (PROVENANCE, "check.json", "left_out.jsonl")

    def __init__(self, place: Place) -> None:
        """Prepare to read a release."""
        super().__init__(place)
        self.provenance: dict[str, Any] = {}
        self.check: dict[str, Any] = {}

    def refresh(self, until: float) -> bool:
        """Read its provenance and its check."""
        self.provenance = read_object(self.path / PROVENANCE) or {}
        self.check = read_object(self.path / "check.json") or {}
        return True

    def rows_of(self) -> tuple[object, RowSource]:
        """Return the rows of the Parquet files."""
        return stat_of(self.path / PROVENANCE), ReleaseRows(self.path)

    def describe(self, *, running: bool) -> RunLine:
        """Return the parts and the number of checked rows."""
        parts = self.provenance.get("parts")
        names = [str(part.get("directory")) for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
        rows = self.check.get("rows")
        return RunLine(
            self.place.id,
            self.place.name,
            self.kind,
            subject=f"of {', '.join(names)}" if names else "",
            state="complete",
            done=rows if isinstance(rows, int) else None,
            unit="rows checked",
        )


def counts_of(lines: LineFile, name: str) -> Counter[str]:
    """Count the values of one field over the lines of a file; lines that cannot be read are counted as such."""
    found: Counter[str] = Counter()
    for number in range(len(lines)):
        try:
            found[str(lines.record(number).get(name))] += 1
        except InputError:
            found["(not readable)"] += 1
    return found
