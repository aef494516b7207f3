"""What training tells while it goes on: a line a step in ``metrics.jsonl``, and the curves at the end."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chiron.files import unwritten, write_atomically


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
