"""State of a part of the dataset and of a release, with an index of their rows."""

from typing import Any

from chiron.jobs.directory import LEDGER, RUN
from chiron.view.discovery import PROVENANCE, Kind, Place
from chiron.view.files import FieldCounts, LineFile, read_object
from chiron.view.rows import PartRows, ReleaseRows, RowIndex, RowSource
from chiron.view.states import RunLine, RunState, stat_of


class RowState(RunState):
    """A run whose rows can be looked at."""

    lost = "dropped.jsonl"
    """File of the rows that were dropped or left out."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.index = RowIndex()
        self.reasons = FieldCounts(self.path / self.lost, "reason")
        """Why rows were dropped or left out."""
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
        changed = self.reasons.advance(until)
        if not self.index.done:
            self.index.advance(until)
            changed = True
        return changed

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
        super().__init__(place)
        self.rows = LineFile(self.path / "rows.jsonl")
        self.unfinished = LineFile(self.path / ".rows.jsonl.unfinished")

    def refresh(self, until: float) -> bool:
        done = self.read_calls(until)
        if self.part == "questions":
            self.rows.path = self.path / "cases.jsonl"
            self.unfinished.path = self.path / ".cases.jsonl.unfinished"
        return all([done, self.rows.advance(until), self.unfinished.advance(until)])

    def rows_of(self) -> tuple[object, RowSource]:
        return stat_of(self.rows.path), PartRows(self.rows)

    @property
    def part(self) -> str:
        """``text``, ``alignment``, ``cot`` or ``questions``."""
        identity = self.run.get("identity")
        return str((identity.get("part") if isinstance(identity, dict) else None) or self.run.get("part") or "")

    def describe(self, *, running: bool) -> RunLine:
        growing = running and len(self.unfinished) > 0
        return self.line_with(
            subject=self.part,
            state="running" if running else "complete" if self.rows.path.is_file() else "stopped",
            done=len(self.unfinished if growing else self.rows),
            unit="cases" if self.part == "questions" else "rows",
            **self.costs(),
        )


class ReleaseState(RowState):
    """A release of the dataset."""

    kind: Kind = "release"
    lost = "left_out.jsonl"
    files = (PROVENANCE, "check.json", lost)

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.provenance: dict[str, Any] = {}
        self.check: dict[str, Any] = {}

    def refresh(self, until: float) -> bool:  # noqa: ARG002 - two small files
        self.provenance = read_object(self.path / PROVENANCE) or {}
        self.check = read_object(self.path / "check.json") or {}
        return True

    def rows_of(self) -> tuple[object, RowSource]:
        return stat_of(self.path / PROVENANCE), ReleaseRows(self.path)

    def describe(self, *, running: bool) -> RunLine:  # noqa: ARG002 - a release is written at once
        parts = self.provenance.get("parts")
        names = [str(part.get("directory")) for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
        rows = self.check.get("rows")
        return self.line_with(
            subject=f"of {', '.join(names)}" if names else "",
            state="complete",
            done=rows if isinstance(rows, int) else None,
            unit="rows checked",
        )
