"""The demonstration: the loop once, with stage 3 on what the search retained, and on bare answers to compare it with."""

import shutil
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

    def answered(self, count: int, of: int) -> None:
        """So many questions of the evaluation are answered."""
        ...


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


def demonstrate(folder: Path, scale: Scale, teller: Teller, conduct: Callable[[Run], RunSummary], *, seed: int = 0) -> Demonstration:
    """The whole loop in a folder, gone on with if it was begun there.

    Args:
        folder: of this scale and seed; made if it is not there.
        scale: how large.
        teller: told of everything.
        conduct: executes the search, with a view if there is one.
        seed: of world, cases, models and search.

    Raises:
        InputError: the folder holds something else, or the search ended with nothing to train on.
        DiskError: the disk is full.
        KeyboardInterrupt: a person stopped the search; what it has is kept.
    """
    clock = _Clock()
    teller.part(f"drawing {scale.images + scale.cases + 2 * scale.evaluated:,} cases, and writing the rows of stages 1 and 2")
    data = make_data(folder / "data", scale, seed=seed)
    clock.lap("data")
    teller.part("stage 1 (the textbook in words) and stage 2 (images in words), from random weights")
    base = loop.train_first(data, scale, folder / "base", seed=seed, watch=teller.step)
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
    arms = []
    for name, rows, count in (("MICS paths", "retained.jsonl", retained), ("direct answers", "direct.jsonl", len(data.seen))):
        teller.part(f"stage 3 on {count} rows: {name}")
        out = folder / name.lower().replace(" ", "-")
        model = loop.train_last(base, data, rows, scale, out, name=out.name, seed=seed, watch=teller.step)
        clock.lap(f"stage 3, {name}")
        of = 2 * scale.evaluated
        teller.part(f"asking it {of} new cases, half of them of combinations whose diagnosis it never saw with an image")
        measured = loop.measure(model, data, out / "answers", watch=lambda done: teller.answered(done, of))  # noqa: B023 - used at once
        clock.lap(f"evaluation, {name}")
        arms.append(Arm(name, count, model, out / "curves.png", measured))
    return Demonstration(folder, scale, data, folder / "base", run, summary, purity(run, data), tuple(arms), clock.laps)


def forget(folder: Path) -> None:
    """Remove a demonstration, and nothing that is none.

    Raises:
        InputError: the folder holds no demonstration.
    """
    if folder.exists():
        if not (folder / "data" / "textbook.jsonl").is_file():
            raise InputError(f"{folder} holds no demonstration, so it is left alone: name another --dir")
        shutil.rmtree(folder)


class _Clock:
    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name], self._last = now - self._last, now
