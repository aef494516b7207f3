"""What a training will take, before a GPU is rented. Steps, tokens and tiles are counted; arithmetic, memory and hours are estimates."""

from dataclasses import dataclass
from typing import Any

from chiron.training.encoding import trained_tokens
from chiron.training.packing import StagePlan, steps_of_stage
from chiron.training.session import Prepared

ACHIEVED_TFLOPS = 400.0
"""Taken as what an H100 or H200 really does in bf16; a guess until measured (``--tflops``)."""


@dataclass(frozen=True)
class StageEstimate:
    """One stage."""

    stage: str
    rows: int
    steps: int
    epochs: float
    tokens: int
    """Real tokens seen in all its steps, replay included."""
    trained_tokens: int
    """Of these, the ones trained on."""
    tiles: int
    """Likewise; a tile counts as often as it is seen."""
    busy: float
    """Share of the GPUs that have a line to compute, on an average: a step of fewer lines than there are GPUs leaves some without."""
    utilisation: float
    """Share of positions that hold a token."""
    petaflops: float
    """Floating-point operations in all, in 10^15."""
    hours: float


@dataclass(frozen=True)
class Estimate:
    """A whole training."""

    parameters: int
    trained: int
    """Of these, in the last stage."""
    memory_gib: float
    """Weights, gradients, optimizer, activations and logits of one forward pass, on one GPU that holds all weights."""
    stages: tuple[StageEstimate, ...]
    gpus: int
    tflops: float

    @property
    def hours(self) -> float:
        """Of all stages."""
        return sum(s.hours for s in self.stages)


def estimate(prepared: Prepared, *, gpus: int = 1, tflops: float = ACHIEVED_TFLOPS) -> Estimate:
    """From the encoded data and the base model's own sizes. ``tflops``: 10^12 operations a second that a GPU really does."""
    model: Any = prepared.base.model
    config = model.config
    text = config.text_config
    language = sum(p.numel() for p in model.model.language_model.layers.parameters())
    tower = sum(p.numel() for p in model.model.vision_tower.parameters())
    parameters = sum(p.numel() for p in model.parameters())
    trained = _adapter_size(model, prepared) if prepared.recipe.stages[-1].train == "adapter" else parameters
    recompute = 2 if prepared.recipe.gradient_checkpointing else 0

    def of_stage(plan: StagePlan) -> StageEstimate:
        seen = _seen(prepared, plan, gpus)
        everything = plan.stage.train == "all"
        a_token = language * ((6 if everything else 4) + recompute)
        a_tile = 2 * tower * (4 * prepared.base.tokens_per_tile + 1) * ((3 if everything else 1) + (recompute // 2 if everything else 0))
        operations = seen.tokens * a_token + seen.tiles * a_tile + seen.trained * 4 * text.vocab_size * text.hidden_size
        busy = seen.lines / seen.places
        return StageEstimate(
            stage=plan.stage.name,
            rows=plan.rows,
            steps=plan.steps,
            epochs=plan.epochs,
            tokens=seen.tokens,
            trained_tokens=seen.trained,
            tiles=seen.tiles,
            busy=busy,
            utilisation=plan.utilisation,
            petaflops=operations / 1e15,
            hours=operations / (gpus * busy * tflops * 1e12) / 3600,
        )

    width = 2 if prepared.recipe.precision == "bf16" else 4
    positions = prepared.recipe.sequence * prepared.recipe.lines_at_once
    # Kept for the way back: with checkpointing a layer's input and one layer's inside, without it about 34 hidden vectors a layer.
    kept = text.num_hidden_layers * (1 if prepared.recipe.gradient_checkpointing else 17) + 34
    activations = positions * text.hidden_size * kept * width
    # The head's logits, in full precision too, with their gradient, where something is learned.
    stages = tuple(of_stage(plan) for plan in prepared.plans)
    learned = max(stage.trained_tokens / stage.tokens for stage in stages)
    activations += round(positions * learned) * text.vocab_size * (width + 8)
    weights = parameters * (width if prepared.recipe.stages[-1].train == "adapter" else 4)
    memory = (weights + trained * 16 + activations) / 2**30
    return Estimate(parameters, trained, memory, stages, gpus, tflops)


@dataclass
class _Seen:
    tokens: int = 0
    trained: int = 0
    tiles: int = 0
    lines: int = 0
    places: int = 0
    """For lines, in the batches that all GPUs compute together."""


def _seen(prepared: Prepared, plan: StagePlan, gpus: int) -> _Seen:
    """What all steps of a stage hold: the very steps that training will take."""
    recipe, seen = prepared.recipe, _Seen()
    at_once = recipe.lines_at_once * gpus
    for step in steps_of_stage(recipe, plan.stage, prepared.data, plan.steps):
        rows = [row for line in step for row in line]
        seen.tokens += sum(len(row.input_ids) for row in rows)
        seen.trained += sum(trained_tokens(row) for row in rows)
        seen.tiles += sum(sum(row.tile_counts) for row in rows)
        seen.lines += len(step)
        # Lines are dealt out evenly over batches (loop.micro_batches), and all wait for the largest.
        batches = -(-len(step) // at_once) * gpus
        seen.places += batches * -(-len(step) // batches)
    return seen


def _adapter_size(model: Any, prepared: Prepared) -> int:
    """Weights of the adapter: rank times (in + out) of every layer that it touches."""
    import re

    from torch import nn

    from chiron.training.model import ADAPTED

    adapter = prepared.recipe.adapter
    rank = adapter.rank if adapter is not None else 0
    layers = (m for name, m in model.named_modules() if isinstance(m, nn.Linear) and re.fullmatch(ADAPTED, name))
    return sum(rank * (layer.in_features + layer.out_features) for layer in layers)
