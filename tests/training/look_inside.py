"""A training as ``chiron train`` runs it, on every process that started this; the first one tells how many there are, and what it holds."""

import gc
import sys
from pathlib import Path

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from chiron.training.metrics import HeldOut, StepMetrics
from chiron.training.model import Loss
from chiron.training.recipe import load_recipe
from chiron.training.session import prepare, train


def share_held(loss: nn.Module) -> float:
    """Part of the weights of the language model's layers that lie in this process."""
    weights = [p for name, p in loss.named_parameters() if ".layers." in name]
    here = sum(p.to_local().numel() if isinstance(p, DTensor) else p.numel() for p in weights)
    return here / sum(p.numel() for p in weights)


def tell(_: StepMetrics | HeldOut) -> None:
    found = [share_held(thing) for thing in gc.get_objects() if isinstance(thing, Loss)]
    print(f"processes {torch.distributed.get_world_size()} share {found[-1]:.2f}", flush=True)  # noqa: T201 - its only way out


if __name__ == "__main__":
    recipe, data, out = (Path(argument) for argument in sys.argv[1:])
    train(prepare(load_recipe(recipe), data), out, watch=tell)
