"""TensorBoard's event files, for who looks at runs there. ``metrics.jsonl`` is the record; they are made from it."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from chiron.errors import DiskError, InputError
from chiron.training.metrics import HeldOut, StepMetrics

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
