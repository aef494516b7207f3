"""The recipes of the miniature: stages 1 and 2 from nothing, and stage 3 from there on."""

from pathlib import Path
from typing import Any

from chiron.miniature.data import Data
from chiron.miniature.scale import Scale
from chiron.phantom.apprentice import SIDE, configuration
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
