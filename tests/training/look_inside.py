"""Trainings one after the other, as ``chiron train`` runs each, on every process that started this.

The first process tells how many there are, and what it holds. To start processes takes ten times as long as such a training.
"""

import gc
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import yaml
from torch import nn
from torch.distributed.tensor import DTensor

from chiron.training.checkpoint import checkpoints
from chiron.training.metrics import HeldOut, StepMetrics
from chiron.training.model import Loss
from chiron.training.recipe import load_recipe
from chiron.training.session import prepare, train


def share_held(loss: nn.Module) -> float:
    """Part of the weights of the language model's layers that lie in this process."""
    weights = [p for name, p in loss.named_parameters() if ".layers." in name]
    here = sum(p.to_local().numel() if isinstance(p, DTensor) else p.numel() for p in weights)
    return here / sum(p.numel() for p in weights)


def go_on_from(earlier: Path, out: Path, drop: int) -> None:
    """Make ``out`` what ``earlier`` was before its last ``drop`` checkpoints and its model."""
    if os.environ["RANK"] == "0":
        shutil.copytree(earlier, out)
        known = checkpoints(out / "checkpoints")
        for later in known[len(known) - drop :]:
            shutil.rmtree(later)
        shutil.rmtree(out / "model")
    torch.distributed.barrier()


def teller(name: str) -> Callable[[StepMetrics | HeldOut], None]:
    def tell(_: StepMetrics | HeldOut) -> None:
        shares = {share_held(thing) for thing in gc.get_objects() if isinstance(thing, Loss)}
        held = ", ".join(f"{share:.2f}" for share in sorted(shares))
        print(f"{name}: processes {torch.distributed.get_world_size()} share {held}", flush=True)  # noqa: T201 - its only way out

    return tell


if __name__ == "__main__":
    jobs, data, folder = (Path(argument) for argument in sys.argv[1:])
    for job in yaml.safe_load(jobs.read_text()):
        gc.collect()  # of the training before
        out = folder / job["name"]
        if "earlier" in job:
            go_on_from(Path(job["earlier"]), out, job["drop"])
        train(prepare(load_recipe(Path(job["recipe"])), data), out, watch=teller(job["name"]))
