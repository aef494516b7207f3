"""Training recipes of the demonstration's stages, and a function that runs them. Training resumes from its checkpoints."""

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
SEQUENCE = 128
"""Maximum tokens of a packed line, enough for two or three rows. On a CPU, longer lines only cost more attention."""
REPLAYED = {"alignment": 0.4, "text": 0.2}
"""Shares of earlier stages in stage 3. Without replay, a model this small forgets both perception and rules."""
CHECKPOINT_EVERY = 200
"""Steps between checkpoints; a stopped run loses less than a minute."""


def first_stages(data: Data, scale: Scale, *, seed: int) -> Recipe:
    """Recipe of stage 1 (textbook) and stage 2 (image descriptions); trains all weights from random initialization."""
    text = Stage(
        name="text",
        data="text.jsonl",
        trainable="all",
        steps=scale.text_steps,
        batch=Batch(rows=scale.text_rows),
        learning_rate=scale.text_learning_rate,
    )
    alignment = Stage(
        name="alignment",
        data="alignment.jsonl",
        trainable="all",
        replay={"text": 0.15},
        steps=scale.alignment_steps,
        batch=Batch(rows=scale.rows),
        learning_rate=scale.learning_rate,
        held_out="alignment-held-out.jsonl",
    )
    config = configuration(data.tokenizer, hidden=scale.hidden, vision_layers=scale.vision_layers, language_layers=scale.language_layers)
    scratch = Scratch(tokenizer=str(data.tokenizer), config=config)
    return _recipe(f"miniature-{scale.name}", scale, seed, [text, alignment], scratch=scratch)


def intern(base: Path, rows: str, scale: Scale, *, seed: int) -> Recipe:
    """Recipe that makes an intern from the model of stage 2: it continues annotated cases to the diagnosis."""
    return _last(base, rows, REPLAYED, scale.intern_steps, scale, name="intern", seed=seed)


def last_stage(base: Path, rows: str | None, scale: Scale, *, name: str, seed: int) -> Recipe:
    """Recipe of stage 3 on a file of rows, starting from the model of stage 2 and replaying stages 1 and 2.

    Without rows, all of it is replay, with the same ratio of the two stages.
    """
    if rows is None:
        alignment, text = REPLAYED.values()
        return _last(base, "alignment.jsonl", {"text": text / (alignment + text)}, scale.final_steps, scale, name=name, seed=seed)
    return _last(base, rows, REPLAYED, scale.final_steps, scale, name=name, seed=seed)


def after_stage_3(base: Path, rows: str, scale: Scale, *, preferences: bool, name: str, seed: int) -> Recipe:
    """Recipe of a fifth of stage 3's steps from its model: on preference pairs (DPO), or on the same rows of stage 3 as a control."""
    steps = max(1, scale.final_steps // 5)
    if not preferences:
        return _last(base, rows, REPLAYED, steps, scale, name=name, seed=seed)
    stage = Stage(
        name="preferences",
        data=rows,
        objective="dpo",
        trainable="all",
        steps=steps,
        batch=Batch(rows=scale.rows),
        learning_rate=scale.final_learning_rate / 10,  # as usual, a tenth of the rate of supervised training
    )
    return _recipe(f"miniature-{scale.name}-{name}", scale, seed, [stage], base=str(base))


def _last(base: Path, rows: str, replayed: dict[str, float], steps: int, scale: Scale, *, name: str, seed: int) -> Recipe:
    stage = Stage(
        name="answers",
        data=rows,
        trainable="all",
        replay=replayed,
        steps=steps,
        batch=Batch(rows=scale.rows),
        learning_rate=scale.final_learning_rate,
    )
    earlier = {"alignment": "alignment.jsonl", "text": "text.jsonl"}
    base_stages = {name: earlier[name] for name in replayed}
    return _recipe(f"miniature-{scale.name}-{name}", scale, seed, [stage], base=str(base), base_stages=base_stages)


def _recipe(name: str, scale: Scale, seed: int, stages: list[Stage], **beginning: Any) -> Recipe:
    """Create a recipe with the common settings; ``beginning`` sets the initial weights."""
    return Recipe(
        name=name,
        adapter=None,
        images=IMAGES,
        max_seq_length=SEQUENCE,
        micro_batch_size=scale.rows,
        precision="fp32",
        seed=seed,
        workers=1,
        checkpoint_every=CHECKPOINT_EVERY,
        stages=stages,
        **beginning,
    )


Watch = Callable[[StepMetrics | HeldOut], None]


def train_recipe(recipe: Recipe, data: Data, out: Path, *, processes: int = 1, watch: Watch = lambda _: None) -> Path:
    """Train a recipe on files in the data folder and return the folder of the model. If the process is killed, the same call resumes.

    ``processes``: a run cannot be resumed with more of them than it was started with. ``watch`` is called in this process for every step.

    Raises:
        InputError: See :func:`chiron.training.session.prepare` and :func:`~chiron.training.session.train`.
        DiskError: The disk is full.
    """
    with TemporaryDirectory(prefix="chiron-") as meeting:
        shared = (recipe, data.folder, data.images, out, Path(meeting) / "store")
        jobs = [Job(_train, (*shared, rank, processes)) for rank in range(processes)]
        models: list[Path] = run_jobs(jobs, at_once=processes, hear=lambda _, news: watch(news))
    return models[0]


def _train(say: Say, recipe: Recipe, data: Path, images: Path, out: Path, meeting: Path, rank: int, processes: int) -> Path:
    """Train in one of ``processes`` worker processes."""
    import torch

    from chiron.training.session import prepare, train

    torch.set_num_threads(1)
    if processes == 1:
        return train(prepare(recipe, data, images), out, watch=say).model
    # This warning about memory layouts is of no use to a user.
    warnings.filterwarnings("ignore", "Grad strides do not match")
    # Use a file and the loopback device: no port conflicts, no host name lookup, and no connections from the network.
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(processes), LOCAL_WORLD_SIZE=str(processes))
    os.environ["GLOO_SOCKET_IFNAME"] = "lo0" if sys.platform == "darwin" else "lo"
    torch.distributed.init_process_group("gloo", init_method=meeting.as_uri(), rank=rank, world_size=processes)
    try:
        return train(prepare(recipe, data, images), out, watch=say).model
    finally:
        torch.distributed.destroy_process_group()
