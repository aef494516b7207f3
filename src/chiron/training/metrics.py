"""What training reports: a line per step in metrics.jsonl, loss curves, and TensorBoard's event files."""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from chiron.errors import DiskError, InputError
from chiron.io import unwritten, write_atomically


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """One optimizer step."""

    stage: str
    step: int
    """From 1, within the stage."""
    steps: int
    """Of the stage."""
    total_steps: int
    """Done in all stages."""
    loss: float
    """Mean cross-entropy over trained tokens, in nats."""
    learning_rate: float
    gradient_norm: float
    """Before clipping."""
    tokens: int
    """Real tokens."""
    trained_tokens: int
    utilisation: float
    """Share of positions that held a token."""
    seconds: float
    memory_gib: float
    """Most memory held so far, by this process's GPU, or by this process."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Loss on rows that were not trained on, at a stage's end."""

    stage: str
    total_steps: int
    held_out_loss: float
    rows: int


class MetricsFile:
    """``metrics.jsonl``, appended to; a resumed run cuts off what its checkpoint does not know."""

    def __init__(self, path: Path, *, total_steps: int) -> None:
        """``total_steps``: where the run goes on from.

        Raises:
            DiskError: it cannot be written.
        """
        self.path = path
        known = [json.dumps(line) + "\n" for line in read_metrics(path) if line["total_steps"] <= total_steps]
        # What was told before is nowhere else, so a kill or a full disk must not find the file half written.
        if not path.is_file() or path.read_text() != "".join(known):
            write_atomically(path, known)

    def add(self, metrics: StepMetrics | HeldOut) -> None:
        """Append a line.

        Raises:
            DiskError: the disk took it not.
        """
        try:
            with self.path.open("a") as file:
                file.write(json.dumps(asdict(metrics)) + "\n")
        except OSError as error:
            raise unwritten(self.path, error) from error


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """Every line of a metrics file; a last one that a kill cut short is passed over."""
    if not path.is_file():
        return
    for line in path.read_text().splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            return


_WIDE = 30
"""Times the lowest loss from which on the axis is logarithmic: on a linear one the end would be a flat line."""


def draw_curves(metrics: Path, out: Path) -> None:
    """The loss of every step of every stage, and the held-out losses, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = list(read_metrics(metrics))
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    stages = list(dict.fromkeys(line["stage"] for line in lines))
    for stage in stages:
        steps = [line for line in lines if line["stage"] == stage and "loss" in line]
        (curve,) = axes.plot([s["total_steps"] for s in steps], [s["loss"] for s in steps], linewidth=1, label=stage)
        held = [line for line in lines if line["stage"] == stage and "held_out_loss" in line]
        axes.plot([h["total_steps"] for h in held], [h["held_out_loss"] for h in held], "o", color=curve.get_color())
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss a trained token (nats)")
    losses = [line["loss"] for line in lines if "loss" in line]
    if losses and min(losses) > 0 and max(losses) > _WIDE * min(losses):
        axes.set_yscale("log")
    if stages:
        axes.legend(title="stage (dot: held out)", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, dpi=120)


FOLDER = "tensorboard"
"""Beside ``metrics.jsonl``."""


def check_installed() -> None:
    """Raise where no event file could be written.

    Raises:
        InputError: the package ``tensorboard`` is missing, or does not work here.
    """
    try:
        import torch.utils.tensorboard  # noqa: F401 - it raises where its package is missing or too old
    except ImportError as error:
        raise InputError(
            f"tensorboard is asked for and cannot be used ({error}): pip install 'chiron-med[tensorboard]', or train without it"
        ) from error


class EventFiles:
    """One event file: what ``metrics.jsonl`` holds, then every step as it comes.

    It is written anew whenever a run goes on: what a checkpoint does not know cannot be cut off in this format, and a file that holds every
    step once reads well everywhere.
    """

    def __init__(self, folder: Path, past: Sequence[dict[str, Any]]) -> None:
        """``folder``: its event files are replaced. ``past``: the lines of ``metrics.jsonl``, in order.

        Raises:
            DiskError: it cannot be written.
        """
        from torch.utils.tensorboard import SummaryWriter

        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for old in folder.glob("events.out.tfevents.*"):
                old.unlink()
            # A TensorBoard that is looking has read the old file: this tells it to forget all of it.
            self._writer = SummaryWriter(str(folder), purge_step=0)
            for line, when in zip(past, _times(past), strict=True):
                self._write(line, when)
            self._writer.flush()
        except OSError as error:
            raise self._unwritten(error) from error

    def __enter__(self) -> Self:
        """Nothing more is opened."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close the file.

        Raises:
            DiskError: the disk took not all of it.
        """
        try:
            self._writer.close()
        except OSError as fault:
            raise self._unwritten(fault) from fault

    def add(self, metrics: StepMetrics | HeldOut) -> None:
        """Write a step, or a stage's end, to the disk.

        Raises:
            DiskError: the disk took it not.
        """
        try:
            self._write(asdict(metrics), time.time())
            self._writer.flush()
        except OSError as error:
            raise self._unwritten(error) from error

    def _write(self, line: dict[str, Any], when: float) -> None:
        for name, value in scalars(line).items():
            self._writer.add_scalar(name, value, line["total_steps"], walltime=when)

    def _unwritten(self, error: OSError) -> DiskError:
        why = error.strerror or str(error)
        return DiskError(f"{self._folder} cannot be written ({why}): free space on its disk and run the same command again")


def scalars(line: dict[str, Any]) -> dict[str, float]:
    """What TensorBoard shows of a line of ``metrics.jsonl``; the losses by stage, the rest over all of them."""
    if "held_out_loss" in line:
        return {f"held_out_loss/{line['stage']}": line["held_out_loss"]}
    return {
        f"loss/{line['stage']}": line["loss"],
        "learning_rate": line["learning_rate"],
        "gradient_norm": line["gradient_norm"],
        "tokens_per_second": line["tokens"] / line["seconds"],
        "utilisation": line["utilisation"],
        "memory_gib": line["memory_gib"],
    }


def _times(past: Sequence[dict[str, Any]]) -> Iterator[float]:
    """When each line was, as if the run had never stopped: TensorBoard's axis of hours then shows hours of training."""
    when = time.time() - sum(line.get("seconds", 0.0) for line in past)
    for line in past:
        when += line.get("seconds", 0.0)
        yield when
