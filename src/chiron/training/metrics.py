"""Training metrics: one line per step in metrics.jsonl, loss curves, and TensorBoard event files."""

import contextlib
import json
import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chiron.errors import InputError
from chiron.extras import install_command
from chiron.io import BrokenJson, read_jsonl, write_atomically, writing

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """Metrics of one optimizer step."""

    stage: str
    step: int
    """Step within the stage, from 1."""
    steps: int
    """Number of steps of the stage."""
    total_steps: int
    """Steps completed in all stages."""
    loss: float
    """Mean cross-entropy per trained token in nats; in a preference stage, the mean DPO loss per pair."""
    learning_rate: float
    gradient_norm: float
    """Gradient norm before clipping."""
    tokens: int
    """Tokens without padding."""
    trained_tokens: int
    utilisation: float
    """Share of positions that are not padding."""
    seconds: float
    memory_gib: float
    """Peak memory so far of this process's GPU; without a GPU, of this process."""
    waited: float
    """Seconds of the step in which the model waited for its batches (images to decode, mostly)."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Measurement on held-out rows, during a stage or at its end."""

    stage: str
    total_steps: int
    held_out_loss: float
    rows: int
    answers: int = 0
    """Number of generated answers that were compared with a known one."""
    accuracy: float | None = None
    """Share of them that are right; None if there are none."""


class MetricsFile:
    """Writer of ``metrics.jsonl``. A resumed run removes lines of steps after its checkpoint and then appends."""

    def __init__(self, path: Path, *, total_steps: int) -> None:
        """``total_steps``: steps completed before this run resumes.

        Raises:
            DiskError: The file cannot be written.
        """
        self.path = path
        lines = list(read_metrics(path))
        known = [json.dumps(line) + "\n" for line in lines if line["total_steps"] <= total_steps]
        if len(known) < len(lines):
            _log.info("%s: removed %d lines after the checkpoint at step %d", path, len(lines) - len(known), total_steps)
        # Past metrics are stored only here, so a kill or a full disk must not leave the file half written.
        if not path.is_file() or path.read_text() != "".join(known):
            write_atomically(path, known)

    def add(self, metrics: StepMetrics | HeldOut) -> None:
        """Append a line.

        Raises:
            DiskError: Writing failed.
        """
        with writing(self.path), self.path.open("a") as file:
            file.write(json.dumps(asdict(metrics)) + "\n")


def held_out_losses(path: Path, keep_best: Collection[str]) -> dict[str, float]:
    """Held-out loss of each stage's final weights, by stage. ``keep_best``: names of the stages that end with their best weights."""
    losses: dict[str, float] = {}
    for line in read_metrics(path):
        if "held_out_loss" in line:
            stage, loss = str(line["stage"]), float(line["held_out_loss"])
            losses[stage] = min(loss, losses.get(stage, loss)) if stage in keep_best else loss
    return losses


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """Read the lines of a metrics file; an incomplete last line (after a kill) is ignored."""
    if not path.is_file():
        return
    for line in read_jsonl(path):
        if isinstance(line.value, BrokenJson):
            return
        yield line.value


_WIDE = 30
"""Ratio of highest to lowest loss above which the axis is logarithmic, because a linear axis would show the end as a flat line."""


def draw_curves(metrics: Path, out: Path, *, preference_stages: Collection[str] = ()) -> None:
    """Plot the loss of every step and the held-out losses to a PNG file. ``preference_stages``: names of the stages with a DPO loss."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = list(read_metrics(metrics))
    stages = list(dict.fromkeys(line["stage"] for line in lines))

    def points(stage: str, value: str) -> tuple[list[int], list[float]]:
        found = [line for line in lines if line["stage"] == stage and value in line]
        return [line["total_steps"] for line in found], [line[value] for line in found]

    figure = Figure(figsize=(9, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for stage in stages:
        (curve,) = axes.plot(*points(stage, "loss"), linewidth=1, label=stage)
        axes.plot(*points(stage, "held_out_loss"), "o", color=curve.get_color())
    if stages:
        axes.legend(title="stage (dot: held out)", frameon=False)
    losses = [line["loss"] for line in lines if "loss" in line]
    if losses and min(losses) > 0 and max(losses) > _WIDE * min(losses):
        axes.set_yscale("log")
    axes.set_xlabel("optimizer step")
    kinds = dict.fromkeys("DPO loss per pair" if stage in preference_stages else "loss per trained token (nats)" for stage in stages)
    axes.set_ylabel(" or ".join(kinds))
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, dpi=120)


FOLDER = "tensorboard"
"""Folder of the event files, next to ``metrics.jsonl``."""


def check_installed() -> None:
    """Check that the package ``tensorboard`` can be imported.

    Raises:
        InputError: The package is missing or does not work.
    """
    try:
        import torch.utils.tensorboard  # noqa: F401 - it raises if its package is missing or too old
    except ImportError as error:
        raise InputError(f"tensorboard cannot be imported ({error}): {install_command('tensorboard')}, or train without it") from error


@contextlib.contextmanager
def tensorboard_writer(folder: Path, past: Sequence[dict[str, Any]]) -> Iterator[Callable[[StepMetrics | HeldOut], None]]:
    """Write an event file with the past lines of ``metrics.jsonl``; yield a function that adds new metrics and flushes them to disk.

    A resumed run replaces the event files, because this format does not support removing the steps after a checkpoint.

    Raises:
        DiskError: The file cannot be written.
    """
    from torch.utils.tensorboard import SummaryWriter

    def add(line: dict[str, Any], when: float) -> None:
        for name, value in scalars(line).items():
            writer.add_scalar(name, value, line["total_steps"], walltime=when)

    def add_and_flush(metrics: StepMetrics | HeldOut) -> None:
        with writing(folder):
            add(asdict(metrics), time.time())
            writer.flush()

    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        # A running TensorBoard has already read the old file; purge_step makes it discard that data.
        writer = SummaryWriter(str(folder), purge_step=0)
        # Times of past lines omit the pauses between runs, so that the time axis shows hours of training.
        when = time.time() - sum(line.get("seconds", 0.0) for line in past)
        for line in past:
            when += line.get("seconds", 0.0)
            add(line, when)
        writer.flush()
    try:
        yield add_and_flush
    finally:
        with writing(folder):
            writer.close()


def scalars(line: dict[str, Any]) -> dict[str, float]:
    """Convert a line of ``metrics.jsonl`` to TensorBoard scalars; losses are per stage, the rest span all stages."""
    if "held_out_loss" in line:
        accuracy = {f"held_out_accuracy/{line['stage']}": line["accuracy"]} if line.get("accuracy") is not None else {}
        return {f"held_out_loss/{line['stage']}": line["held_out_loss"], **accuracy}
    return {
        f"loss/{line['stage']}": line["loss"],
        "learning_rate": line["learning_rate"],
        "gradient_norm": line["gradient_norm"],
        "tokens_per_second": line["tokens"] / line["seconds"],
        "utilisation": line["utilisation"],
        "memory_gib": line["memory_gib"],
    }
