"""What a training run costs, estimated before it, and how fast it was, measured after it.

Of an estimate, steps, tokens and tiles are exact; operations, memory and hours are not.
"""

import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from chiron.training.encoding import trained_tokens
from chiron.training.metrics import read_metrics
from chiron.training.model import Loss, adapted_layers, add_adapter, part_of, plain, train_parts
from chiron.training.packing import Cost, Line, StagePlan, batches_of_step, steps_of_stage
from chiron.training.recipe import Adapter, Recipe
from chiron.training.resources import Operations, count_weights, fixed_recomputed, passes_of, predict_memory
from chiron.training.session import Prepared

ACHIEVED_TFLOPS = 330.0
"""Useful operations per second, in 10^12, of InternVL3-8B with LoRA on one H200 in bf16, without activations computed again: measured 316
and 336 (``bench/README.md``). Change with ``--tflops``; a finished training reports its own.
"""


@dataclass(frozen=True)
class StageEstimate:
    """Estimate of one stage."""

    stage: str
    tokens: int
    """Real tokens in all steps, replay included."""
    tiles: int
    """Tiles in all steps; a tile counts each time it is used."""
    busy: float
    """Average share of the GPUs' time with work. All wait for the one whose share of a step takes longest."""
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
    text = model.config.get_text_config()
    once = Operations.of(model, prepared.base.family)
    # How many layers "auto" computes again is known only on the GPU; here, it counts as none.
    again = (fixed_recomputed(prepared.recipe, text.num_hidden_layers) or 0) / text.num_hidden_layers
    speed = tflops if tflops is not None else ACHIEVED_TFLOPS / (1 + again / 2)
    stages = tuple(_estimate_stage(prepared, plan, gpus, once, speed) for plan in prepared.plans)
    return TrainingEstimate(count_weights(model), _trained_weights(model, prepared.recipe), _memory_gib(prepared), stages, gpus, speed)


def _estimate_stage(prepared: Prepared, plan: StagePlan, gpus: int, once: Operations, speed: float) -> StageEstimate:
    """Count the contents of exactly the steps that training will run."""
    recipe, stage = prepared.recipe, plan.stage
    steps = list(steps_of_stage(recipe, stage, prepared.data, plan.steps))
    rows = [row for step in steps for line in step for row in line]
    passes = passes_of(recipe, stage)
    forward = once.forward(rows)
    operations = sum(count * forward[part] for part, count in passes.items())
    if stage.objective == "dpo":  # the reference is one forward pass over the stage's own rows
        operations += once.forward(prepared.data[stage.name]).total()
    busy = _busy(steps, recipe, gpus, once.cost(passes))
    return StageEstimate(
        stage=stage.name,
        tokens=sum(len(row.input_ids) for row in rows),
        tiles=sum(row.tiles() for row in rows),
        busy=busy,
        petaflops=operations / 1e15,
        hours=operations / (gpus * busy * speed * 1e12) / 3600,
    )


def _busy(steps: Sequence[Sequence[Line]], recipe: Recipe, gpus: int, cost: Cost) -> float:
    """Share of the GPUs' time with work, if all wait in each step for the one whose share takes longest."""
    work, possible = 0.0, 0.0
    for step in steps:
        batches = batches_of_step(step, recipe.micro_batch_size, gpus, cost)
        of_batch = [sum(cost(row) for line in batch for row in line if trained_tokens(row)) for batch in batches]
        work += sum(of_batch)
        # Processes that share the weights wait for each other in every batch, others at the end of a step.
        rounds = [of_batch[at : at + gpus] for at in range(0, len(of_batch), gpus)]
        possible += gpus * (sum(map(max, rounds)) if recipe.shard else max(map(sum, zip(*rounds, strict=True))))
    return work / possible


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


def _trained_weights(model: Any, recipe: Recipe) -> int:
    """Number of weights trained in the last stage. An adapter has rank * (in + out) for each adapted layer, and with DoRA also out."""
    if parts := recipe.stages[-1].trained_parts:
        return sum(p.numel() for name, p in model.named_parameters() if part_of(name) in parts)
    adapter = recipe.adapter or Adapter()
    pattern = adapted_layers(adapter.targets, model)
    layers = (m for name, m in model.named_modules() if isinstance(m, nn.Linear) and re.fullmatch(pattern, name))
    return sum(adapter.rank * (m.in_features + m.out_features) + adapter.dora * m.out_features for m in layers)


_MUCH = 0.1
"""Share of the time from which waiting for images limits a training."""


@dataclass(frozen=True)
class Throughput:
    """Speed of the steps in ``metrics.jsonl``, over all processes. The first step of each stage does not count."""

    tokens_per_second: float
    """Without padding."""
    useful_tflops: float
    """Operations per GPU that the training needs, in 10^12 per second; activations computed again do not count."""
    shares: dict[str, float]
    """Share of the useful operations by part: language, attention, head, vision."""
    waited: float
    """Share of the time in which the model waited for batches."""
    peak_tflops: float | None
    """Measured speed of large matrix products on this GPU, in bf16; None without a GPU."""
    gpus: int = 1

    @property
    def limit(self) -> str:
        """What limits the speed: ``data``, or the part of the model with most operations."""
        return "data" if self.waited > _MUCH else max(self.shares, key=self.shares.__getitem__)

    def lines(self) -> list[str]:
        """Describe it for people."""
        of_peak = ""
        if self.peak_tflops is not None:
            of_peak = f", {self.useful_tflops / self.peak_tflops:.0%} of this GPU's matrix products ({self.peak_tflops:,.0f})"
        where, each = (f" on {self.gpus} GPUs", " each") if self.gpus > 1 else ("", "")
        parts = ", ".join(f"{name} {share:.0%}" for name, share in self.shares.items())
        advice = ": raise workers, or set tile_cache" if self.limit == "data" else ""
        return [
            f"{self.tokens_per_second:,.0f} tokens/s{where}, {self.useful_tflops:,.3g} useful TFLOP/s{each}{of_peak}",
            f"operations: {parts}; {self.waited:.0%} of the time waited for images{advice}",
        ]


def measure_throughput(prepared: Prepared, metrics: Path, *, gpus: int = 1) -> Throughput | None:
    """Return the speed of a finished training on so many GPUs; None if it had no step but the first of each stage."""
    seconds: dict[tuple[str, int], tuple[float, float]] = {
        (line["stage"], line["step"]): (line["seconds"], line.get("waited", 0.0)) for line in read_metrics(metrics) if "seconds" in line
    }
    once = Operations.of(prepared.base.model, prepared.base.family)
    operations, tokens, took, waited = Counter[str](), 0, 0.0, 0.0
    for plan in prepared.plans:
        passes = passes_of(prepared.recipe, plan.stage)
        for number, step in enumerate(steps_of_stage(prepared.recipe, plan.stage, prepared.data, plan.steps), start=1):
            if number == 1 or (plan.stage.name, number) not in seconds:
                continue
            rows = [row for line in step for row in line]
            operations.update(once.useful(rows, passes))
            tokens += sum(len(row.input_ids) for row in rows)
            took += seconds[plan.stage.name, number][0]
            waited += seconds[plan.stage.name, number][1]
    if not took:
        return None
    useful = sum(operations.values())
    peak = matmul_peak(torch.device("cuda")) / 1e12 if torch.cuda.is_available() else None
    shares = {part: n / useful for part, n in operations.items()}
    return Throughput(tokens / took, useful / took / 1e12 / gpus, shares, waited / took, peak, gpus)


def matmul_peak(device: torch.device) -> float:
    """Measure the operations per second of large matrix products: in bf16 on a GPU, in fp32 on a CPU. Takes a second."""
    side, dtype = (8192, torch.bfloat16) if device.type == "cuda" else (1024, torch.float32)
    one = torch.randn(side, side, device=device, dtype=dtype)
    for _ in range(3):
        one @ one
    began, count = _now(device), 0
    while _now(device) - began < 1.0:
        for _ in range(5):
            one @ one
        count += 5
    return count * 2 * side**3 / (_now(device) - began)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
