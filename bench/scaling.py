"""Several GPUs, simulated: how evenly they share the steps of a training, and what exchanging gradients costs.

``python -m bench.scaling``. Nothing here ran on several GPUs. The rows are those of :mod:`bench.train_throughput`, and the
steps, lines and shares are the trainer's own. Assumed: a GPU's time for a line is proportional to its useful operations, at the speed that
one H200 reached; a ring exchanges the gradients at the end of a step, and nothing hides it.
"""

from collections.abc import Iterator

import torch

from bench.table import heading, table
from bench.train_throughput import ADAPTER, FULL, Size, make_model, mixture
from chiron.providers.local.families.internvl import INTERNVL
from chiron.training.model import plain
from chiron.training.packing import Cost, Line, batches_of_step, steps_of_epoch
from chiron.training.recipe import Recipe, Stage
from chiron.training.resources import Operations

SPEED = {"InternVL3-2B": 321e12, "InternVL3-8B": 316e12}
"""Useful operations per second of one H200, measured (``bench/README.md``)."""
LINKS = {"NVLink": 300e9, "PCIe or between machines": 20e9}
"""Bytes per second that a ring of GPUs exchanges."""
GPUS, ROWS = (1, 2, 4, 8, 16), (16, 32, 64, 128)


def step_seconds(step: list[Line], gpus: int, cost: Cost, speed: float, *, by_cost: bool) -> float:
    """Seconds until the slowest GPU has done its share of a step."""
    batches = batches_of_step(step, 1, gpus, cost if by_cost else None)
    known = [sum(cost(row) for line in batch for row in line if (row.labels >= 0).any()) for batch in batches]
    return max(sum(known[rank::gpus]) for rank in range(gpus)) / speed


def efficiencies(size: Size, rows: int) -> Iterator[list[object]]:
    """Speed on several GPUs as a share of linear: lines shared out as they are, rows shared by their cost, and with exchanges."""
    with torch.device("meta"):
        model = make_model(size, torch.device("meta"))
    cost = Operations.of(model, INTERNVL).cost(ADAPTER)
    data = mixture(size, INTERNVL.tokens_per_tile(plain(model).config))
    stage = Stage.model_validate({"name": "cot", "data": "cot.jsonl", "epochs": 1, "batch": {"rows": rows}, "learning_rate": 4e-5})
    recipe = Recipe.model_validate({"name": "scaling", "base": size.name, "max_seq_length": size.sequence, "stages": [stage]})
    steps = steps_of_epoch(recipe, stage, {"cot": data}, 0)
    speed, gradients = SPEED[size.name], 4 * sum(p.numel() for p in model.parameters() if p.requires_grad)
    alone = sum(step_seconds(step, 1, cost, speed, by_cost=False) for step in steps)
    for gpus in GPUS[1:]:
        even, shared = (sum(step_seconds(step, gpus, cost, speed, by_cost=how) for step in steps) for how in (False, True))
        exchange = {link: len(steps) * 2 * (gpus - 1) / gpus * gradients / rate for link, rate in LINKS.items()}
        told = [f"{alone / gpus / (shared + seconds):.0%}" for seconds in exchange.values()]
        yield [size.name, rows, gpus, f"{alone / gpus / even:.0%}", f"{alone / gpus / shared:.0%}", *told]


def main() -> None:
    """Print the table."""
    heading("Several GPUs, simulated: share of linear speed")
    found = [line for size in FULL for rows in ROWS for line in efficiencies(size, rows)]
    table(["model", "rows a step", "GPUs", "whole lines", "rows by cost", *(f"with exchange, {link}" for link in LINKS)], found)


if __name__ == "__main__":
    main()
