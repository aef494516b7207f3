"""Pack samples into lines of a fixed maximum length, and plan the optimizer steps."""

import itertools
import random
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from chiron.errors import InputError
from chiron.training.encoding import IGNORED, Encoded, trained_tokens
from chiron.training.recipe import Recipe, Stage

_ORDER, _BINS = 0, 1  # ids of the two random streams of an epoch


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Pack indices into bins of at most ``capacity`` with best-fit decreasing.

    Places the longest first, each into the bin with the least remaining room. Each index is in exactly one bin. Equal lengths keep their
    order, so the result is deterministic.

    Raises:
        ValueError: A length is negative or more than ``capacity``; samples are never truncated.
    """
    filled: list[list[int]] = []
    # Room, time and number of each bin, sorted. Times are negative: of bins with equal rooms, the last one changed comes first.
    opened: list[tuple[int, int, int]] = []
    for time, index in enumerate(sorted(range(len(lengths)), key=lambda i: -lengths[i])):
        length = lengths[index]
        if not 0 <= length <= capacity:
            raise ValueError(f"sample {index} has {length} tokens and does not fit into {capacity}")
        place = bisect_left(opened, (length, -len(lengths), 0))
        if place < len(opened):
            room, _, number = opened.pop(place)
        else:
            room, number = capacity, len(filled)
            filled.append([])
        filled[number].append(index)
        insort(opened, (room - length, -time, number))
    return filled


def order(n: int, *, seed: int, epoch: int) -> list[int]:
    """Return a permutation of ``range(n)`` that depends only on ``seed`` and ``epoch``; both must be at least 0."""
    found: list[int] = np.random.default_rng([seed, epoch, _ORDER]).permutation(n).tolist()
    return found


def bins(lengths: Sequence[int], capacity: int, *, seed: int, epoch: int, window: int = 4096) -> list[list[int]]:
    """Shuffle and pack one epoch: lines of indices into ``lengths``, each index in exactly one line.

    Packs windows of about ``window`` shuffled samples. Packing all samples at once would combine the same long samples in every epoch.
    A few thousand samples per window are enough to fill the lines.

    Raises:
        ValueError: A length is more than ``capacity``, or ``window`` is less than 1.
    """
    if window < 1:
        raise ValueError(f"window must be at least 1 (got {window})")
    shuffled = order(len(lengths), seed=seed, epoch=epoch)
    # Windows have equal size, because a small last one would be packed badly.
    count = max(1, round(len(shuffled) / window))
    edges = [len(shuffled) * i // count for i in range(count + 1)]
    lines: list[list[int]] = []
    for begin, end in pairwise(edges):
        members = shuffled[begin:end]
        lines += [[members[i] for i in line] for line in pack([lengths[i] for i in members], capacity)]
    return [lines[int(i)] for i in np.random.default_rng([seed, epoch, _BINS]).permutation(len(lines))]


Line = tuple[Encoded, ...]
"""Rows packed into one sequence."""
Cost = Callable[[Encoded], float]
"""Operations that a row needs. Only the ratio between two rows matters."""


@dataclass(frozen=True)
class StagePlan:
    """Length and data of one stage."""

    stage: Stage
    steps: int
    epochs: float
    """Number of passes over the stage's own data."""
    rows: int
    tokens: int
    """Real tokens in one pass over the stage's own data."""
    trained_tokens: int
    """Number of these tokens with a label."""
    utilisation: float
    """Share of positions in the first epoch that are not padding, if all lines are padded to the longest."""


def steps_of_epoch(recipe: Recipe, stage: Stage, data: dict[str, list[Encoded]], epoch: int) -> list[list[Line]]:
    """Build the steps of one epoch from the stage's own rows and a new sample of replayed rows, shuffled and packed.

    With ``batch.rows``, the shuffled rows are split into steps of that size, and each step is packed separately. The last step of an epoch
    has the remaining rows. With ``batch.tokens``, lines are packed first and then grouped into steps.
    """
    rows = [*data[stage.name], *_replayed(recipe, stage, data, epoch)]
    seed = recipe.seed * 1_000_003 + recipe.stages.index(stage)
    lengths = [len(r.input_ids) for r in rows]
    if (count := stage.batch.rows) is not None:
        shuffled = order(len(rows), seed=seed, epoch=epoch)
        cut = [shuffled[begin : begin + count] for begin in range(0, len(shuffled), count)]
        packed = [pack([lengths[i] for i in members], recipe.max_seq_length) for members in cut]
        return [[tuple(rows[members[i]] for i in line) for line in step] for members, step in zip(cut, packed, strict=True)]
    # Lines are shorter if a full one would exceed the tokens of a step.
    longest = min(recipe.max_seq_length, max(stage.batch.tokens or 0, *lengths))
    lines = bins(lengths, longest, seed=seed, epoch=epoch)
    return list(_grouped([tuple(rows[i] for i in line) for line in lines], stage))


def steps_of_stage(recipe: Recipe, stage: Stage, data: dict[str, list[Encoded]], total: int) -> Iterator[list[Line]]:
    """Yield the lines of each of ``total`` optimizer steps, epoch after epoch. A step never spans two epochs."""
    made = 0
    for epoch in itertools.count():
        for step in steps_of_epoch(recipe, stage, data, epoch):
            if made == total:
                return
            made += 1
            yield step


def plan_stage(recipe: Recipe, stage: Stage, data: dict[str, list[Encoded]]) -> StagePlan:
    """Compute the number of steps and the data statistics of a stage.

    Raises:
        InputError: The stage, or a stage that it replays, has no rows.
    """
    own = data[stage.name]
    if not own:
        raise InputError(f"stage {stage.name}: {stage.data} has no rows: add some, or remove the stage")
    epoch = steps_of_epoch(recipe, stage, data, 0)
    a_round, lines = len(epoch), [line for step in epoch for line in step]
    steps = stage.steps if stage.steps is not None else max(1, round(a_round * (stage.epochs or 1.0)))
    used = [sum(len(r.input_ids) for r in line) for line in lines]
    return StagePlan(
        stage=stage,
        steps=steps,
        epochs=steps / a_round,
        rows=len(own),
        tokens=sum(len(r.input_ids) for r in own),
        trained_tokens=sum(trained_tokens(r) for r in own),
        utilisation=sum(used) / (len(lines) * max(used)),
    )


def _replayed(recipe: Recipe, stage: Stage, data: dict[str, list[Encoded]], epoch: int) -> list[Encoded]:
    own = sum(len(r.input_ids) for r in data[stage.name])
    fresh = 1 - sum(stage.replay.values())
    chosen: list[Encoded] = []
    # Steps of rows depend on the order of the rows, which must not depend on the order of keys in the recipe.
    for name in sorted(stage.replay) if stage.batch.rows else stage.replay:
        rows, share = data[name], stage.replay[name]
        if not rows:
            raise InputError(f"stage {stage.name} replays '{name}', which has no rows")
        wanted = own / fresh * share
        dice = random.Random(f"{recipe.seed} {stage.name} {name} {epoch}")  # noqa: S311 - needs to be reproducible, not secret
        taken = 0
        while taken < wanted:
            for row in dice.sample(rows, len(rows)):
                if taken >= wanted:
                    break
                chosen.append(row)
                taken += len(row.input_ids)
    return chosen


def _grouped(lines: Sequence[Line], stage: Stage) -> Iterator[list[Line]]:
    """Group lines into steps of about equal size, so that the last step of an epoch is not a small one."""
    wanted = stage.batch.tokens or 1
    sizes = [sum(len(r.input_ids) for r in line) for line in lines]
    steps = max(1, round(sum(sizes) / wanted))
    share, filled, step = sum(sizes) / steps, 0.0, list[Line]()
    made = 0
    for line, size in zip(lines, sizes, strict=True):
        step.append(line)
        filled += size
        if filled >= share * (made + 1) - 1e-6 and made < steps - 1:
            yield step
            step, made = [], made + 1
    if step:
        yield step


def micro_batches(step: Sequence[Line], at_once: int, world: int, rank: int, cost: Cost | None = None) -> list[list[Line]]:
    """Split a step into batches and return those of this process.

    Every process gets the same number of batches, because processes synchronize in each. Padding batches have no labels. With ``cost``,
    several processes get rows that need about equally many operations: all wait for the slowest. The lines may then be shorter ones.
    """
    return batches_of_step(step, at_once, world, cost)[rank::world]


def batches_of_step(step: Sequence[Line], at_once: int, world: int, cost: Cost | None = None) -> list[list[Line]]:
    """Return the batches of all processes: number ``i`` is of process ``i % world``. See :func:`micro_batches`."""
    if not step:  # a stage without held-out rows
        return []
    groups = -(-len(step) // (at_once * world)) * world
    batches = _balanced(step, groups, at_once, world, cost) if cost is not None and world > 1 else None
    if batches is None:
        # As many lines in each, as far as possible.
        edges = [len(step) * i // groups for i in range(groups + 1)]
        batches = [list(step[begin:end]) for begin, end in pairwise(edges)]
    silent = tuple(replace(row, labels=np.full_like(row.labels, IGNORED)) for row in step[0][:1])
    return [batch or [silent] for batch in batches]


def _balanced(step: Sequence[Line], groups: int, at_once: int, world: int, cost: Cost) -> list[list[Line]] | None:
    """Pack the rows of a step again, into batches and processes that need about equally many operations; None if they do not fit."""
    rows = [row for line in step for row in line]
    costs, lengths = [cost(row) for row in rows], [len(row.input_ids) for row in rows]
    longest = max(sum(len(row.input_ids) for row in line) for line in step)
    # As few lines as possible: those of a batch are padded to its longest one.
    fitting = (_spread(costs, lengths, count, longest) for count in range(groups, groups * at_once + 1, groups))
    shared = next((lines for lines in fitting if lines is not None), None)
    if shared is None:
        return None
    lines = [members for members in shared if members]
    of_line = [sum(costs[i] for i in members) for members in lines]
    batches = _spread(of_line, [1] * len(lines), groups, at_once)
    assert batches is not None  # noqa: S101 - there is room for all lines
    of_batch = [sum(of_line[n] for n in batch) for batch in batches]
    of_process = _spread(of_batch, [1] * groups, world, groups // world)
    assert of_process is not None  # noqa: S101 - there is room for all batches
    in_turn = (batches[number] for together in zip(*of_process, strict=True) for number in together)
    return [[tuple(rows[i] for i in lines[number]) for number in batch] for batch in in_turn]


def _spread(costs: Sequence[float], sizes: Sequence[int], count: int, room: int) -> list[list[int]] | None:
    """Put each item, the dearest first, into the cheapest of ``count`` groups that has room for its size; None if none has.

    Members and groups are in a fixed order, so that all processes find the same.
    """
    groups: list[list[int]] = [[] for _ in range(count)]
    cheapest, left = [(0.0, number) for number in range(count)], [room] * count
    for item in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        place = next((at for at, (_, number) in enumerate(cheapest) if left[number] >= sizes[item]), None)
        if place is None:
            return None
        spent, number = cheapest.pop(place)
        groups[number].append(item)
        left[number] -= sizes[item]
        insort(cheapest, (spent + costs[item], number))
    return groups
