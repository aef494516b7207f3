"""The trainer on one process or several, started from here: a step's lines are shared among them, and the loss is as of one."""

import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from chiron.miniature.processes import Job, Say, run_jobs
from chiron.training.metrics import HeldOut, StepMetrics
from chiron.training.recipe import Recipe

Watch = Callable[[StepMetrics | HeldOut], None]


def train_recipe(recipe: Recipe, data: Path, images: Path, out: Path, *, processes: int = 1, watch: Watch = lambda _: None) -> Path:
    """Train a recipe; the folder of the model. Killed anywhere, the same call goes on.

    Args:
        recipe: what is trained.
        data: holds the recipe's files of rows.
        images: the folder that the rows' image paths are relative to.
        out: where everything goes.
        processes: to share the work; a run that was begun by one cannot be gone on with by more.
        watch: told of every step, here.

    Raises:
        InputError: as :func:`chiron.training.session.prepare` and :func:`~chiron.training.session.train` raise it.
        DiskError: the disk is full.
    """
    with TemporaryDirectory(prefix="chiron-") as meeting:
        jobs = [Job(_train, (recipe, data, images, out, Path(meeting) / "store", rank, processes)) for rank in range(processes)]
        models: list[Path] = run_jobs(jobs, at_once=processes, hear=lambda _, said: watch(said))
    return models[0]


def _train(say: Say, recipe: Recipe, data: Path, images: Path, out: Path, meeting: Path, rank: int, processes: int) -> Path:
    """One process's share, or all of it."""
    if processes > 1:
        os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"  # read when torch is imported
    import torch

    from chiron.training.session import prepare, train

    torch.set_num_threads(1)
    if processes == 1:
        return train(prepare(recipe, data, images), out, watch=say).model
    # Its notes on layouts and on the vision tower, which text passes by, are nothing to a person who watches.
    warnings.filterwarnings("ignore", "Grad strides do not match")
    # By a file and over the loopback device: no port to be taken, no host name to be looked up, nothing that listens to the network.
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(processes), LOCAL_WORLD_SIZE=str(processes))
    os.environ["GLOO_SOCKET_IFNAME"] = "lo0" if sys.platform == "darwin" else "lo"
    torch.distributed.init_process_group("gloo", init_method=meeting.as_uri(), rank=rank, world_size=processes)
    try:
        return train(prepare(recipe, data, images), out, watch=say).model
    finally:
        torch.distributed.destroy_process_group()
