"""State of an evaluation and of a training."""

import time
from dataclasses import dataclass, field
from typing import Any

from chiron.errors import ChironError
from chiron.evaluation.items import ITEMS, RESULTS
from chiron.jobs.directory import LEDGER, RUN
from chiron.view.discovery import METRICS, SAMPLES, Kind, Place
from chiron.view.files import LineFile, read_object
from chiron.view.states import MOST, RunLine, RunState, Signature, stat_of


class EvaluationState(RunState):
    """An evaluation of one model."""

    kind: Kind = "evaluation"
    files = (RUN, LEDGER, f"{LEDGER}-wal", ITEMS, RESULTS)

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.lines = LineFile(self.path / ITEMS)

    def refresh(self, until: float) -> bool:
        return all([self.read_calls(until), self.lines.advance(until)])

    def describe(self, *, running: bool) -> RunLine:
        groups = (read_object(self.path / RESULTS) or {}).get("groups")
        groups = [group for group in groups if isinstance(group, dict)] if isinstance(groups, list) else []
        pending = sum(_pending(group) for group in groups)
        known = len(self.lines) - pending
        return self.line_with(
            subject=f"{self.run.get('model', '')}: {', '.join(dict.fromkeys(str(g.get('benchmark')) for g in groups))}".rstrip(": "),
            state="running" if running else "complete" if groups and not pending else "stopped",
            done=known if groups else self.accounts.calls if self.accounts else 0,
            total=len(self.lines) if groups else None,
            unit="answers" if groups else "calls",
            **self.costs(),
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
    accuracy: list[tuple[float, float]] = field(default_factory=list)
    """(total steps, share of generated answers that are right)."""


_NUMBERS = ("step", "steps", "total_steps", "loss", "learning_rate", "gradient_norm", "tokens", "seconds", "utilisation", "memory_gib")
_COUNTED = ("step", "steps", "total_steps", "tokens", "seconds", "memory_gib")
"""Numbers that are never infinite or NaN, as a loss may be."""
_STALE = 60.0


class TrainingState(RunState):
    """A training."""

    kind: Kind = "training"
    files = (METRICS, SAMPLES, "model")

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.stages: dict[str, Stage] = {}
        self._lines = LineFile(self.path / METRICS)
        self.samples = LineFile(self.path / SAMPLES)
        """Answers that were generated during the training."""
        self._read = self._restarts = 0
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
        done = self._lines.advance(until)
        if self._lines.restarts != self._restarts:  # resumed from a checkpoint: the file was written again
            self.stages, self._read, self.unreadable, self._restarts = {}, 0, 0, self._lines.restarts
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
                if line.get("accuracy") is not None:
                    stage.accuracy.append((float(line["total_steps"]), float(line["accuracy"])))
                return
            point = {name: float(line[name]) for name in _NUMBERS}
            if all(0 <= point[name] < MOST for name in _COUNTED):
                stage.points.append(point)
                stage.steps = int(point["steps"])
            else:
                self.unreadable += 1
        except (ChironError, KeyError, TypeError, ValueError, OverflowError):
            self.unreadable += 1

    def describe(self, *, running: bool) -> RunLine:
        stage = list(self.stages.values())[-1] if self.stages else Stage("")
        done, left = len(stage.points), max(0, stage.steps - len(stage.points))
        recent = [point["seconds"] for point in stage.points[-50:]]
        complete = (self.path / "model").is_dir()
        return self.line_with(
            subject=f"stage {stage.name}" if stage.name else "",
            state="running" if running else "complete" if complete else "stopped",
            done=done,
            total=stage.steps or None,
            unit="steps",
            seconds_left=left * sum(recent) / len(recent) if running and recent else None,
        )
