"""Estimate the cost of a training run. Steps, tokens and tiles are exact; operations, memory and hours are estimates."""

import re
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from chiron.training.memory import fixed_recomputed, predict_memory
from chiron.training.model import Loss, adapted_layers, add_adapter, part_of, plain, train_parts
from chiron.training.operations import Operations, passes_of
from chiron.training.packing import StagePlan, batches_of_step, steps_of_stage
from chiron.training.quantization import count_weights
from chiron.training.recipe import Adapter
from chiron.training.rows import trained_tokens
from chiron.training.session import Prepared

ACHIEVED_TFLOPS = 330.0
"""Useful operations per second, in 10^12, of InternVL3-8B with LoRA on one H200 in bf16, without activations computed again: measured 316
and 336 (``bench/README.md``). Change with ``--tflops``; a finished training reports its own.
"""


@dataclass(frozen=True)
class StageEstimate:
    """Estimate of one stage."""

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
    """Average share of the GPUs' time with work. All wait for the one whose share of a step takes longest."""
    utilisation: float
    """Share of positions that are not padding."""
    petaflops: float
    """Total floating-point operations, in 10^15."""
    hours: float


@dataclass(frozen=True)
class TrainingEstimate:
    """Estimate of a complete training run."""

    parameters: int
    trained: int
    """Number of parameters trained in the last stage."""
    memory_gib: float
    """Memory of one GPU without sharding: weights, gradients, optimizer, and activations and logits of one forward pass."""
    stages: tuple[StageEstimate, ...]
    gpus: int
    tflops: float
    """Speed of one GPU that the hours are for, in useful operations."""

    def at(self, tflops: float) -> "TrainingEstimate":
        """Return the estimate for another speed of one GPU."""
        stages = tuple(replace(stage, hours=stage.hours * self.tflops / tflops) for stage in self.stages)
        return replace(self, stages=stages, tflops=tflops)

    @property
    def hours(self) -> float:
        """Total hours of all stages."""
        return sum(s.hours for s in self.stages)


def estimate(prepared: Prepared, *, gpus: int = 1, tflops: float | None = None) -> TrainingEstimate:
    """Estimate a run from the encoded data and the model's sizes.

    ``tflops``: speed of one GPU, in 10^12 useful operations per second; default: :data:`ACHIEVED_TFLOPS`, less if layers compute their
    activations again.
    """
    model: Any = prepared.base.model
    config = model.config
    text = config.get_text_config()
    once = Operations.of(model, prepared.base.family)
    parameters = count_weights(model)
    last = prepared.recipe.stages[-1].trained_parts
    trained = sum(p.numel() for name, p in model.named_parameters() if part_of(name) in last) if last else _adapter_size(model, prepared)
    # How many layers "auto" computes again is known only on the GPU; here, it counts as none.
    again = (fixed_recomputed(prepared.recipe, text.num_hidden_layers) or 0) / text.num_hidden_layers
    speed = tflops if tflops is not None else ACHIEVED_TFLOPS / (1 + again / 2)

    def of_stage(plan: StagePlan) -> StageEstimate:
        seen = _seen(prepared, plan, gpus, once)
        passes = passes_of(prepared.recipe, plan.stage)
        operations = sum(count * seen.forward[part] for part, count in passes.items())
        if plan.stage.objective == "dpo":  # the reference is one forward pass over the stage's own rows
            operations += once.forward(prepared.data[plan.stage.name]).total()
        busy = seen.work / seen.places
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
            hours=operations / (gpus * busy * speed * 1e12) / 3600,
        )

    stages = tuple(of_stage(plan) for plan in prepared.plans)
    return TrainingEstimate(parameters, trained, _memory_gib(prepared), stages, gpus, speed)


def _memory_gib(prepared: Prepared) -> float:
    """Peak memory of the last stage. A layer's activations are measured; "auto" counts as none that are computed again."""
    recipe, base = prepared.recipe, prepared.base

    def in_last_stage(model: nn.Module) -> Loss:
        if parts := recipe.stages[-1].trained_parts:
            train_parts(model, parts)
            return Loss(model)
        return Loss(add_adapter(model, recipe.adapter or Adapter()))

    loss, one_layer = in_last_stage(base.model), in_last_stage(base.one_layer) if base.one_layer is not None else None
    memory = predict_memory(loss, recipe, next((one_layer or loss).parameters()).device, one_layer)
    for adapted in (loss, one_layer):
        if adapted is not None and hasattr(adapted.model, "unload"):
            inner = plain(adapted.model)
            adapted.model.unload()  # type: ignore[operator]  # the model stays as it was
            if hasattr(inner, "peft_config"):
                del inner.peft_config
    return memory.peak(fixed_recomputed(recipe, memory.layers) or 0) / 2**30


@dataclass
class _Seen:
    tokens: int = 0
    trained: int = 0
    tiles: int = 0
    forward: Counter[str] = field(default_factory=Counter)
    """Operations of a forward pass, by part."""
    work: float = 0.0
    """Operations of training, all passes."""
    places: float = 0.0
    """Operations that all GPUs could do until the slowest one finished its share of each step."""


def _seen(prepared: Prepared, plan: StagePlan, gpus: int, once: Operations) -> _Seen:
    """Count the contents of exactly the steps that training will run."""
    recipe, seen, cost = prepared.recipe, _Seen(), once.cost(passes_of(prepared.recipe, plan.stage))
    for step in steps_of_stage(recipe, plan.stage, prepared.data, plan.steps):
        rows = [row for line in step for row in line]
        seen.tokens += sum(len(row.input_ids) for row in rows)
        seen.trained += sum(trained_tokens(row) for row in rows)
        seen.tiles += sum(row.tiles() for row in rows)
        seen.forward += once.forward(rows)
        batches = batches_of_step(step, recipe.micro_batch_size, gpus, cost)
        of_batch = [sum(cost(row) for line in batch for row in line if trained_tokens(row)) for batch in batches]
        seen.work += sum(of_batch)
        seen.places += gpus * max(sum(of_batch[rank::gpus]) for rank in range(gpus))
    return seen


def _adapter_size(model: Any, prepared: Prepared) -> int:
    """Number of adapter weights: rank * (in + out), and with DoRA also out, summed over the adapted layers."""
    adapter = prepared.recipe.adapter
    if adapter is None:
        return 0
    pattern = adapted_layers(adapter.targets, model)
    layers = (m for name, m in model.named_modules() if isinstance(m, nn.Linear) and re.fullmatch(pattern, name))
    return sum(adapter.rank * (m.in_features + m.out_features) + adapter.dora * m.out_features for m in layers)
