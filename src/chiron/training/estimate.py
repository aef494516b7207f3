"""TrainingEstimate of the cost of a training run. Steps, tokens and tiles are exact; operations, memory and hours are estimates."""

import re
from dataclasses import dataclass
from typing import Any

from torch import nn

from chiron.training.model import adapted_layers, part_of
from chiron.training.packing import StagePlan, steps_of_stage
from chiron.training.quantization import count_weights
from chiron.training.recipe import Adapter
from chiron.training.rows import trained_tokens
from chiron.training.session import Prepared

ACHIEVED_TFLOPS = 400.0
"""Assumed throughput of an H100 or H200 in bf16, in 10^12 operations per second; not measured (change with ``--tflops``)."""


@dataclass(frozen=True)
class StageEstimate:
    """TrainingEstimate of one stage."""

    stage: str
    rows: int
    steps: int
    epochs: float
    tokens: int
    """Real tokens in all steps, replay included."""
    trained_tokens: int
    """Number of these tokens with a label."""
    tiles: int
    """Tiles in all steps; a tile counts each time it is used."""
    busy: float
    """Average share of GPUs with work. Below 1 if steps have fewer lines than there are GPUs."""
    utilisation: float
    """Share of positions that are not padding."""
    petaflops: float
    """Total floating-point operations, in 10^15."""
    hours: float


@dataclass(frozen=True)
class TrainingEstimate:
    """TrainingEstimate of a complete training run."""

    parameters: int
    trained: int
    """Number of parameters trained in the last stage."""
    memory_gib: float
    """Memory of one GPU without sharding: weights, gradients, optimizer, and activations and logits of one forward pass."""
    stages: tuple[StageEstimate, ...]
    gpus: int
    tflops: float

    @property
    def hours(self) -> float:
        """Total hours of all stages."""
        return sum(s.hours for s in self.stages)


def estimate(prepared: Prepared, *, gpus: int = 1, tflops: float = ACHIEVED_TFLOPS) -> TrainingEstimate:
    """TrainingEstimate a run from the encoded data and the model's sizes.

    ``tflops``: achieved throughput of one GPU, in 10^12 operations per second.
    """
    model: Any = prepared.base.model
    config = model.config
    text = config.text_config
    language = count_weights(model.get_decoder().layers)
    family = prepared.base.family
    tower = count_weights(getattr(model.model, family.vision_tower))
    patches = family.patches_per_tile(config)
    parameters = count_weights(model)
    last = prepared.recipe.stages[-1].trained_parts
    trained = sum(p.numel() for name, p in model.named_parameters() if part_of(name) in last) if last else _adapter_size(model, prepared)
    recompute = 2 if prepared.recipe.gradient_checkpointing else 0

    def of_stage(plan: StagePlan) -> StageEstimate:
        seen = _seen(prepared, plan, gpus)
        own = plan.stage.trained_parts
        a_token = language * ((6 if "language" in own else 4) + recompute)
        vision = "vision" in (own or (prepared.recipe.adapter or Adapter()).targets)
        passes = (3 if own and vision else 2 if vision else 1) + (recompute // 2 if vision else 0)
        a_tile = 2 * tower * patches * passes
        operations = seen.tokens * a_token + seen.tiles * a_tile + seen.trained * 4 * text.vocab_size * text.hidden_size
        if plan.stage.objective == "dpo":  # the reference is one forward pass over the stage's own rows
            own_tiles = sum(row.tiles() for row in prepared.data[plan.stage.name])
            operations += plan.tokens * 2 * language + own_tiles * 2 * tower * patches
            operations += plan.trained_tokens * 2 * text.vocab_size * text.hidden_size
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
    positions = prepared.recipe.max_seq_length * prepared.recipe.micro_batch_size
    # Hidden vectors kept per token for the backward pass: with checkpointing, the input of each layer and the inside of one layer;
    # without it, about 17 per layer.
    kept = text.num_hidden_layers * (1 if prepared.recipe.gradient_checkpointing else 17) + 34
    activations = positions * text.hidden_size * kept * width
    # Logits of the head at labeled positions, also in full precision and with their gradient.
    stages = tuple(of_stage(plan) for plan in prepared.plans)
    learned = max(stage.trained_tokens / stage.tokens for stage in stages)
    activations += round(positions * learned) * text.vocab_size * (width + 8)
    weights = parameters * (4 if last else width)
    if prepared.recipe.quantization is not None:
        weights = sum(weight.nbytes for weight in model.parameters())
    memory = (weights + trained * 16 + activations) / 2**30
    return TrainingEstimate(parameters, trained, memory, stages, gpus, tflops)


@dataclass
class _Seen:
    tokens: int = 0
    trained: int = 0
    tiles: int = 0
    lines: int = 0
    places: int = 0
    """Line slots in all batches of all GPUs."""


def _seen(prepared: Prepared, plan: StagePlan, gpus: int) -> _Seen:
    """Count the contents of exactly the steps that training will run."""
    recipe, seen = prepared.recipe, _Seen()
    at_once = recipe.micro_batch_size * gpus
    for step in steps_of_stage(recipe, plan.stage, prepared.data, plan.steps):
        rows = [row for line in step for row in line]
        seen.tokens += sum(len(row.input_ids) for row in rows)
        seen.trained += sum(trained_tokens(row) for row in rows)
        seen.tiles += sum(row.tiles() for row in rows)
        seen.lines += len(step)
        # loop.micro_batches distributes lines evenly over batches, and all GPUs wait for the largest batch.
        batches = -(-len(step) // at_once) * gpus
        seen.places += batches * -(-len(step) // batches)
    return seen


def _adapter_size(model: Any, prepared: Prepared) -> int:
    """Number of adapter weights: rank * (in + out), and with DoRA also out, summed over the adapted layers."""
    adapter = prepared.recipe.adapter
    if adapter is None:
        return 0
    pattern = adapted_layers(adapter.targets, model)
    layers = (m for name, m in model.named_modules() if isinstance(m, nn.Linear) and re.fullmatch(pattern, name))
    return sum(adapter.rank * (m.in_features + m.out_features) + adapter.dora * m.out_features for m in layers)
