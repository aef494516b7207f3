"""The recipes of the stages, and the trainer that runs them."""

import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from chiron.demo.data import Data, Scale
from chiron.demo.processes import Job, Say, run_jobs
from chiron.phantom.tiny_model import SIDE, configuration
from chiron.training.metrics import HeldOut, StepMetrics
from chiron.training.recipe import Batch, Images, Recipe, Scratch, Stage

IMAGES = Images(tile=SIDE, max_tiles=1, thumbnail=False)
SEQUENCE = 192
"""Tokens of a packed line: two rows or three. Longer lines cost attention, and on a CPU nothing is won by them."""
REPLAYED = {"alignment": 0.4, "text": 0.2}
"""Shares of stage 3 that are the earlier stages over again: a model that small forgets what it does not do, looks and rules alike."""
CHECKPOINT_EVERY = 200
"""Steps: less than a minute is lost if the run is stopped."""


def first_stages(data: Data, scale: Scale, *, seed: int) -> Recipe:
    """Stage 1 (the textbook in words) and stage 2 (images in words), all weights, from random ones."""
    text = Stage(
        name="text",
        data="text.jsonl",
        train="all",
        steps=scale.text_steps,
        batch=Batch(rows=scale.text_rows),
        learning_rate=scale.text_learning_rate,
    )
    alignment = Stage(
        name="alignment",
        data="alignment.jsonl",
        train="all",
        replay={"text": 0.15},
        steps=scale.alignment_steps,
        batch=Batch(rows=scale.rows),
        learning_rate=scale.learning_rate,
        held_out="alignment-held-out.jsonl",
    )
    return _recipe(f"miniature-{scale.name}", scale, seed, [text, alignment], scratch=_nothing(data, scale))


def last_stage(base: Path, rows: str, scale: Scale, *, name: str, seed: int) -> Recipe:
    """Stage 3 on a file of rows, from a model of the first two stages, which are replayed in it."""
    stage = Stage(
        name="answers",
        data=rows,
        train="all",
        replay=REPLAYED,
        steps=scale.final_steps,
        batch=Batch(rows=scale.rows),
        learning_rate=scale.final_learning_rate,
    )
    earlier = {"alignment": "alignment-again.jsonl", "text": "text.jsonl"}
    return _recipe(f"miniature-{scale.name}-{name}", scale, seed, [stage], base=str(base), earlier=earlier)


def without_curriculum(data: Data, rows: str, scale: Scale, *, seed: int) -> Recipe:
    """A file of rows from random weights, for as many steps as the three stages together."""
    steps = scale.text_steps + scale.alignment_steps + scale.final_steps
    stage = Stage(name="answers", data=rows, train="all", steps=steps, batch=Batch(rows=scale.rows), learning_rate=scale.learning_rate)
    return _recipe(f"miniature-{scale.name}-alone", scale, seed, [stage], scratch=_nothing(data, scale))


def _nothing(data: Data, scale: Scale) -> Scratch:
    """The model with random weights."""
    config = configuration(data.tokenizer, hidden=scale.hidden, vision_layers=scale.vision_layers, language_layers=scale.language_layers)
    return Scratch(tokenizer=str(data.tokenizer), config=config)


def _recipe(name: str, scale: Scale, seed: int, stages: list[Stage], **beginning: Any) -> Recipe:
    """What all stages have in common; ``beginning`` says from which weights."""
    return Recipe(
        name=name,
        adapter=None,
        images=IMAGES,
        sequence=SEQUENCE,
        lines_at_once=scale.rows,
        precision="fp32",
        seed=seed,
        workers=1,
        checkpoint_every=CHECKPOINT_EVERY,
        stages=stages,
        **beginning,
    )


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
