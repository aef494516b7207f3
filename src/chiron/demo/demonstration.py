"""Run the demonstration once and compare stage 3 on the retained paths, stage 3 on direct answers, and no stage 3."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from chiron.client.failures import UserStopped
from chiron.demo import loop
from chiron.demo.data import Data, Purity, Scale, make_data, purity
from chiron.demo.loop import Measured
from chiron.demo.processes import Job, Say, run_jobs
from chiron.errors import InputError
from chiron.mics.run import Run, RunSummary
from chiron.training.metrics import HeldOut, StepMetrics

BEFORE = "nothing (stage 2)"
"""Name of the arm without stage 3."""


class Teller(Protocol):
    """Interface required of the progress display."""

    def part(self, text: str) -> None:
        """Report that a part of the pipeline starts."""
        ...

    def step(self, metrics: StepMetrics | HeldOut) -> None:
        """Report an optimizer step or a held-out loss."""
        ...

    def arm(self, name: str, news: "StepMetrics | HeldOut | Progress") -> None:
        """Report progress of one of the arms, which run in parallel."""
        ...


@dataclass(frozen=True)
class Progress:
    """Number of evaluation questions answered so far."""

    answered: int
    of: int


@dataclass(frozen=True)
class Arm:
    """One variant of stage 3 and its results."""

    name: str
    rows: int
    """Number of training rows; 0 for the model of stage 2, which is the intern of the search."""
    model: Path
    curves: Path | None
    measured: Measured


@dataclass(frozen=True)
class Demonstration:
    """Results of a demonstration."""

    folder: Path
    scale: Scale
    data: Data
    base: Path
    """Output folder of stages 1 and 2."""
    run: Path
    """Run directory of the search."""
    summary: RunSummary
    purity: Purity
    arms: tuple[Arm, ...]
    seconds: dict[str, float]
    """Seconds by part of the pipeline; near zero for parts that were already complete."""


def demonstrate(
    folder: Path, scale: Scale, teller: Teller, conduct: Callable[[Run], RunSummary], *, seed: int = 0, processes: int = 1
) -> Demonstration:
    """Run the complete pipeline in a folder, or resume it.

    Args:
        folder: Folder for this scale and seed; created if missing.
        scale: Size of the demonstration.
        teller: Progress display.
        conduct: Function that executes the search, with a progress display if there is one.
        seed: Seed of world, cases, models and search.
        processes: Number of parallel processes for drawing images, stages 1 and 2, and the arms of stage 3.

    Raises:
        InputError: The folder contains other data, or the search did not retain any path.
        DiskError: The disk is full.
        KeyboardInterrupt: The user stopped the run. All results are kept except the training steps since the last checkpoint.
    """
    clock = _Clock()
    teller.part(f"drawing {scale.images + scale.cases + 2 * scale.evaluated:,} cases, and writing the rows of stages 1 and 2")
    data = make_data(folder / "data", scale, seed=seed, processes=processes)
    clock.lap("data")
    teller.part("stage 1 (the textbook in words) and stage 2 (images in words), from random weights")
    base = loop.train_first(data, scale, folder / "base", seed=seed, processes=processes, watch=teller.step)
    clock.lap("stages 1 and 2")
    teller.part(f"searching {scale.cases} cases: three specialist mentors that err, the model of stage 2 as intern")
    run = folder / "search"
    summary = conduct(loop.prepare_search(loop.team({loop.INTERN: base}, data, seed=seed), data, run))
    if isinstance(summary.halted, UserStopped):
        raise KeyboardInterrupt
    if summary.halted is not None or summary.pending:
        raise InputError(f"the search stopped with {summary.pending} cases pending ({summary.halted}); run the same command again to go on")
    clock.lap("search")
    retained = loop.write_retained(data, run, "retained.jsonl")
    if not retained:
        raise InputError(f"the search retained no path, so there is nothing for stage 3 to be trained on: {run}/report.html says why")
    teller.part(
        f"stage 3 on {retained} MICS paths and on {len(data.seen)} direct answers; then {2 * scale.evaluated} new cases to answer for"
        " both and for the model of stage 2, half of them of combinations whose diagnosis was never shown with an image"
    )
    arms = tuple(_arms(folder, data, scale, seed, base, retained, processes, teller))
    clock.lap("stage 3 and evaluation")
    return Demonstration(folder, scale, data, folder / "base", run, summary, purity(run, data), arms, clock.laps)


def _arms(folder: Path, data: Data, scale: Scale, seed: int, base: Path, retained: int, processes: int, teller: Teller) -> Iterator[Arm]:
    ways = (
        ("MICS paths", "retained.jsonl", retained, folder / "mics-paths"),
        ("direct answers", "direct.jsonl", len(data.seen), folder / "direct-answers"),
    )
    jobs = [Job(_arm, (folder / "data", scale, seed, base, rows, out)) for _, rows, _, out in ways]
    models = run_jobs(jobs, at_once=min(processes, len(jobs)), hear=lambda number, said: teller.arm(ways[number][0], said))
    for (name, _, count, out), model in zip(ways, models, strict=True):
        # All answers are already in the ledger, so this makes no calls.
        yield Arm(name, count, model, out / "curves.png", loop.measure(model, data, out / "answers"))
    asked = loop.measure(base, data, folder / "base" / "answers", watch=lambda n: teller.arm(BEFORE, Progress(n, 2 * scale.evaluated)))
    yield Arm(BEFORE, 0, base, None, asked)


def _arm(say: Say, data: Path, scale: Scale, seed: int, base: Path, rows: str, out: Path) -> Path:
    """Train stage 3 on a file of rows, evaluate the model into ``out/answers``, and return the model's folder."""
    drawn = make_data(data, scale, seed=seed)
    model = loop.train_last(base, drawn, rows, scale, out, name=out.name, seed=seed, watch=say)
    loop.measure(model, drawn, out / "answers", watch=lambda count: say(Progress(count, 2 * scale.evaluated)))
    return model


class _Clock:
    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name], self._last = now - self._last, now
