"""The demonstration: the loop once, with stage 3 on what the search retained, and on bare answers to compare it with."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from chiron.errors import InputError
from chiron.mics.running import Run, RunSummary
from chiron.miniature import loop
from chiron.miniature.data import Data, make_data
from chiron.miniature.loop import Measured
from chiron.miniature.processes import Job, Say, run_jobs
from chiron.miniature.purity import Purity, purity
from chiron.miniature.scale import Scale
from chiron.models.failures import Stopping
from chiron.training.metrics import HeldOut, StepMetrics


class Teller(Protocol):
    """Whoever tells a person what is going on."""

    def part(self, text: str) -> None:
        """A part of the loop begins."""
        ...

    def step(self, metrics: StepMetrics | HeldOut) -> None:
        """An optimizer step, or a stage's end."""
        ...

    def arm(self, name: str, news: "StepMetrics | HeldOut | Progress") -> None:
        """One of the ways of stage 3, which go on side by side, got on."""
        ...


@dataclass(frozen=True)
class Progress:
    """Of the questions that a model is asked."""

    answered: int
    of: int


@dataclass(frozen=True)
class Arm:
    """One way of stage 3, and what came of it."""

    name: str
    rows: int
    model: Path
    curves: Path
    measured: Measured


@dataclass(frozen=True)
class Demonstration:
    """What the loop left behind."""

    folder: Path
    scale: Scale
    data: Data
    base: Path
    """The folder of the training of stages 1 and 2."""
    run: Path
    """The search's run directory."""
    summary: RunSummary
    purity: Purity
    arms: tuple[Arm, ...]
    seconds: dict[str, float]
    """By part of the loop; nearly nothing for what had been done before."""


def demonstrate(
    folder: Path, scale: Scale, teller: Teller, conduct: Callable[[Run], RunSummary], *, seed: int = 0, processes: int = 1
) -> Demonstration:
    """The whole loop in a folder, gone on with if it was begun there.

    Args:
        folder: of this scale and seed; made if it is not there.
        scale: how large.
        teller: told of everything.
        conduct: executes the search, with a view if there is one.
        seed: of world, cases, models and search.
        processes: at one time, where the work can be shared: drawing, stages 1 and 2, the ways of stage 3.

    Raises:
        InputError: the folder holds something else, or the search ended with nothing to train on.
        DiskError: the disk is full.
        KeyboardInterrupt: a person stopped it; what was done is kept, but for the steps since the last checkpoint.
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
    summary = conduct(loop.prepare_search(loop.team(base, data, seed=seed), data, run))
    if isinstance(summary.halted, Stopping):
        raise KeyboardInterrupt
    if summary.halted is not None or summary.pending:
        raise InputError(f"the search stopped with {summary.pending} cases pending ({summary.halted}); run the same command again to go on")
    clock.lap("search")
    retained = loop.write_retained(data, run, "retained.jsonl")
    if not retained:
        raise InputError(f"the search retained no path, so there is nothing for stage 3 to be trained on: {run}/report.html says why")
    ways = {"MICS paths": ("retained.jsonl", retained), "direct answers": ("direct.jsonl", len(data.seen))}
    sizes = " and on ".join(f"{count} {name}" for name, (_, count) in ways.items())
    teller.part(
        f"stage 3 on {sizes}, and {2 * scale.evaluated} new cases to answer for each of the two models, half of them of combinations whose"
        " diagnosis was never shown with an image"
    )
    outs = [folder / name.lower().replace(" ", "-") for name in ways]
    jobs = [Job(_arm, (folder / "data", scale, seed, base, rows, out)) for (rows, _), out in zip(ways.values(), outs, strict=True)]
    models = run_jobs(jobs, at_once=min(processes, len(jobs)), hear=lambda number, said: teller.arm(list(ways)[number], said))
    arms = [
        # Every answer stands in the ledger: nothing is asked again.
        Arm(name, count, model, out / "curves.png", loop.measure(model, data, out / "answers"))
        for (name, (_, count)), out, model in zip(ways.items(), outs, models, strict=True)
    ]
    clock.lap("stage 3 and evaluation")
    return Demonstration(folder, scale, data, folder / "base", run, summary, purity(run, data), tuple(arms), clock.laps)


def _arm(say: Say, data: Path, scale: Scale, seed: int, base: Path, rows: str, out: Path) -> Path:
    """Train stage 3 on a file of rows and ask the model; its folder. What it answered stands in ``out/answers``."""
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
