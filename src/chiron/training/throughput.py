"""How fast a training ran, and what it spent its time on."""

import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch

from chiron.training.metrics import read_metrics
from chiron.training.operations import Operations, passes_of
from chiron.training.packing import steps_of_stage
from chiron.training.session import Prepared

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
