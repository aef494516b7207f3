"""Run the demonstration: two stages, weak interns, the search, and stage 3 on each rung of the ladder."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from chiron import InputError, RunSummary
from chiron.demo import loop
from chiron.demo.curriculum import first_stages, intern, last_stage, train_recipe
from chiron.demo.data import Data, Purity, Scale, make_data, purity
from chiron.demo.ladder import BASE, LADDER, MICS, PAPER, SHOWN, VERIFIED, RungRecord, rung_record
from chiron.demo.loop import ExportedSignal, Measured
from chiron.demo.processes import Job, Say, run_jobs
from chiron.demo.stage_rows import need_complete, write_rows
from chiron.io import write_atomically
from chiron.mics.config import RunConfig
from chiron.training.metrics import HeldOut, StepMetrics

SIGNALS = "signals"
"""Folder of the training signals."""


@dataclass(frozen=True)
class Progress:
    """Number of questions answered or cases searched so far."""

    done: int
    of: int
    what: str = "answered"


class ProgressDisplay(Protocol):
    """Interface required of the progress display."""

    def part(self, text: str) -> None:
        """Report that a part of the pipeline starts."""
        ...

    def step(self, metrics: StepMetrics | HeldOut) -> None:
        """Report an optimizer step or a held-out loss of stages 1 and 2."""
        ...

    def job(self, name: str, news: StepMetrics | HeldOut | Progress) -> None:
        """Report progress of one of the jobs that run in parallel: an intern, the search or a rung."""
        ...


@dataclass(frozen=True)
class Student:
    """A trained model and its answers."""

    name: str
    rows: int
    """Number of training rows of the last stage, without replayed ones; for an intern, its number of true chains."""
    model: Path
    curves: Path | None
    measured: Measured

    def to_record(self) -> RungRecord:
        """Convert to the JSON object of ``ladder.json``."""
        return rung_record(self.name, self.rows, self.measured.seen_share, self.measured.held_out_share)


@dataclass(frozen=True)
class Demonstration:
    """Results of a demonstration."""

    folder: Path
    scale: Scale
    data: Data
    base: Path
    """Output folder of stages 1 and 2."""
    run: Path
    """Run directory of the search with the verified rule."""
    purity: dict[str, Purity]
    """Correct paths among the retained ones, by rung."""
    interns: tuple[Student, ...]
    rungs: tuple[Student, ...]
    signals: tuple[ExportedSignal, ...]
    """Training signals from the tree of that search, in the folder ``signals``."""
    seconds: dict[str, float]
    """Seconds by part of the pipeline; near zero for parts that were already complete."""

    def ladder(self) -> list[RungRecord]:
        """Return the ladder for programs."""
        return [rung.to_record() for rung in self.rungs]


def demonstrate(folder: Path, scale: Scale, display: ProgressDisplay, *, seed: int = 0, processes: int = 1) -> Demonstration:
    """Run the complete pipeline in a folder for this scale and seed, or resume it. ``processes`` of them run in parallel.

    Raises:
        InputError: The folder contains other data, or the search did not retain any path.
        DiskError: The disk is full.
        KeyboardInterrupt: The user stopped the run. All results are kept except the training steps since the last checkpoint.
    """
    clock = _Clock()
    drawn = scale.images + scale.annotated + scale.cases + 2 * scale.evaluated
    display.part(f"drawing {drawn:,} cases, and writing the rows of stages 1 and 2")
    data = make_data(folder / "data", scale, seed=seed, processes=processes)
    clock.lap("data")
    display.part("stage 1 (the textbook in words) and stage 2 (images in words), from random weights")
    base = train_recipe(first_stages(data, scale, seed=seed), data, folder / "base", processes=processes, watch=display.step)
    clock.lap("stages 1 and 2")
    display.part(
        f"two weak interns from {scale.annotated} true chains; the search of {scale.cases} cases with three specialist mentors that err;"
        f" stage 3 on each rung; {2 * scale.evaluated} new cases to answer for each model"
    )
    plan = _Plan(folder, scale, seed, base)
    interns = [plan.add(intern_job, name) for name in loop.INTERNS]
    searches = {VERIFIED: plan.add(search_job, VERIFIED, after=interns)}
    for name in SHOWN:
        if LADDER[name].search is None:
            plan.add(rung_job, name)
    searches[PAPER] = plan.add(search_job, PAPER, after=[searches[VERIFIED]])
    for name in SHOWN:
        if (search := LADDER[name].search) is not None:
            plan.add(rung_job, name, after=[searches[search]])
    signals = plan.add(signals_job, SIGNALS, after=[searches[VERIFIED]])
    results = run_jobs(plan.jobs, at_once=processes, hear=lambda number, news: display.job(plan.names[number], news))
    clock.lap("interns, search, stage 3 and evaluation")
    done = Demonstration(
        folder,
        scale,
        data,
        folder / "base",
        folder / VERIFIED,
        {MICS: purity(folder / VERIFIED, data), "mics_paper": purity(folder / PAPER, data)},
        tuple(_student(folder, data, name) for name in loop.INTERNS),
        tuple(_student(folder, data, name) for name in SHOWN),
        tuple(results[signals]),
        clock.laps,
    )
    write_atomically(folder / "ladder.json", [json.dumps(done.ladder(), indent=1) + "\n"])
    return done


@dataclass
class _Plan:
    """Jobs that run in parallel, in an order in which each comes after those that it needs."""

    folder: Path
    scale: Scale
    seed: int
    base: Path
    jobs: list[Job] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    def add(self, work: Callable[..., Any], name: str, *, after: Sequence[int] = ()) -> int:
        """Add a job and return its number."""
        self.jobs.append(Job(work, (self.folder, self.scale, self.seed, self.base, name), tuple(after)))
        self.names.append(name)
        return len(self.jobs) - 1


def intern_job(say: Say, folder: Path, scale: Scale, seed: int, base: Path, name: str) -> None:
    """Train an intern and evaluate it."""
    data = make_data(folder / "data", scale, seed=seed)
    recipe = intern(base, "annotated.jsonl", scale, seed=len(loop.INTERNS) * seed + loop.INTERNS.index(name))
    model = train_recipe(recipe, data, folder / name, watch=say)
    _measure(say, model, data, scale, folder / name)


def search_job(say: Say, folder: Path, scale: Scale, seed: int, _base: Path, name: str) -> None:
    """Search with the verified rule, or with the paper's rule on the replies of that search."""
    data = make_data(folder / "data", scale, seed=seed)

    def watch(progress: Any) -> None:
        say(Progress(progress.done + progress.already, progress.total, "searched"))

    if name == PAPER:
        check_search(loop.replay(_team(folder, data, seed, policy="paper"), folder / VERIFIED, folder / PAPER, watch=watch))
    else:
        check_search(loop.search(_team(folder, data, seed), data, folder / name, watch=watch))


def signals_job(_say: Say, folder: Path, scale: Scale, seed: int, _base: Path, name: str) -> list[ExportedSignal]:
    """Write the training signals from the tree of the search with the verified rule."""
    data = make_data(folder / "data", scale, seed=seed)
    return loop.export_signals(folder / VERIFIED, _team(folder, data, seed), data, folder / name)


def _team(folder: Path, data: Data, seed: int, *, policy: Literal["verified", "paper"] = "verified") -> RunConfig:
    return loop.team({name: folder / name / "model" for name in loop.INTERNS}, data, seed=seed, policy=policy)


def check_search(summary: RunSummary) -> None:
    """Check that a search is complete.

    Raises:
        InputError: The search stopped, or it did not retain any path.
    """
    need_complete(summary)
    if not summary.retained:
        raise InputError(f"the search retained no path, so there are no rows for stage 3 ({summary.directory}): see rejected.jsonl there")


def rung_job(say: Say, folder: Path, scale: Scale, seed: int, base: Path, name: str) -> None:
    """Train stage 3 on a rung's rows and evaluate the model."""
    data = make_data(folder / "data", scale, seed=seed)
    model, rung = base, LADDER[name]
    if name != BASE:
        rows = None
        if rung.rows is not None:
            rows = f"rung-{name}.jsonl"
            write_rows(data.folder / rows, rung.rows(data, folder, seed))
        model = train_recipe(last_stage(base, rows, scale, name=name, seed=seed), data, folder / name, watch=say)
    _measure(say, model, data, scale, folder / name)


def _measure(say: Say, model: Path, data: Data, scale: Scale, out: Path) -> None:
    loop.measure(model, data, out / "answers", watch=lambda count: say(Progress(count, 2 * scale.evaluated)))


def _student(folder: Path, data: Data, name: str) -> Student:
    """Read the results of a model. All answers are already in the ledger, so this makes no calls."""
    out = folder / name
    if name in loop.INTERNS:
        rows = len(data.annotated)
    else:
        rows = 0 if LADDER[name].rows is None else len((data.folder / f"rung-{name}.jsonl").read_text("utf-8").splitlines())
    curves = out / "curves.png" if name != BASE else None
    return Student(name, rows, out / "model", curves, loop.measure(out / "model", data, out / "answers"))


class _Clock:
    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name], self._last = now - self._last, now
