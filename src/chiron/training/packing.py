"""Pack samples into lines of one length, and plan what every optimizer step sees."""

import itertools
import random
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from chiron.errors import InputError
from chiron.training.encoding import Encoded, trained_tokens
from chiron.training.recipe import Recipe, Stage

_ORDER, _BINS = 0, 1  # which of an epoch's two streams of random numbers


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Bins of indices whose lengths sum to ``capacity`` at most: the longest first, each where it leaves least room.

    Best-fit decreasing; equal lengths keep their order, so the same lengths give the same bins. Every index is in one bin.

    Raises:
        ValueError: a length is negative or more than ``capacity``; nothing is cut.
    """
    filled: list[list[int]] = []
    open_bins: dict[int, list[int]] = {}  # by room left
    rooms: list[int] = []  # the keys of open_bins in order: few, however many the bins
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length = lengths[index]
        if not 0 <= length <= capacity:
            raise ValueError(f"sample {index} has {length} tokens and does not fit into {capacity}")
        place = bisect_left(rooms, length)
        if place == len(rooms):
            filled.append([index])
            _open(len(filled) - 1, capacity - length, open_bins, rooms)
            continue
        room = rooms[place]
        target = open_bins[room].pop()
        if not open_bins[room]:
            del open_bins[room], rooms[place]
        filled[target].append(index)
        _open(target, room - length, open_bins, rooms)
    return filled


def order(n: int, *, seed: int, epoch: int) -> list[int]:
    """A permutation of ``range(n)``: the same for the same seed and epoch, another for another. Neither may be negative."""
    return [int(i) for i in np.random.default_rng([seed, epoch, _ORDER]).permutation(n)]


def bins(lengths: Sequence[int], capacity: int, *, seed: int, epoch: int, window: int = 4096) -> list[list[int]]:
    """The packed lines of one epoch, shuffled: indices into ``lengths``, each in one line.

    Packing goes by windows of about ``window`` shuffled samples. Over all samples at once it would always put the same long ones together;
    within a window chance has its say, and some thousands are enough to fill the lines.

    Raises:
        ValueError: a length is more than ``capacity``, or ``window`` less than 1.
    """
    if window < 1:
        raise ValueError(f"a window of {window} samples")
    shuffled = order(len(lengths), seed=seed, epoch=epoch)
    # Windows of equal size: a small last one would be packed badly.
    count = max(1, round(len(shuffled) / window))
    edges = [len(shuffled) * i // count for i in range(count + 1)]
    lines: list[list[int]] = []
    for begin, end in pairwise(edges):
        members = shuffled[begin:end]
        lines += [[members[i] for i in line] for line in pack([lengths[i] for i in members], capacity)]
    return [lines[int(i)] for i in np.random.default_rng([seed, epoch, _BINS]).permutation(len(lines))]


def _open(number: int, room: int, open_bins: dict[int, list[int]], rooms: list[int]) -> None:
    if room not in open_bins:
        open_bins[room] = []
        insort(rooms, room)
    open_bins[room].append(number)


Line = tuple[Encoded, ...]
"""Rows packed into one sequence."""


@dataclass(frozen=True)
class StagePlan:
    """The steps of one stage."""

    stage: Stage
    steps: int
    epochs: float
    """How often its own data is gone through."""
    rows: int
    tokens: int
    """Real tokens of its own data, once."""
    trained_tokens: int
    """Of these, the ones trained on."""
    utilisation: float
    """Share of the first epoch's positions that hold a token, were all its lines as long as the longest."""


def steps_of_epoch(recipe: Recipe, stage: Stage, data: dict[str, list[Encoded]], epoch: int) -> list[list[Line]]:
    """The steps of one epoch: the stage's own rows and its share of earlier ones, freshly drawn, shuffled and packed into lines.

    By rows, the shuffled rows are cut into steps of exactly as many, and each step is packed on its own; the last one of an epoch has what
    is left. By tokens, lines are packed first and gathered into steps.
    """
    rows = [*data[stage.name], *_replayed(recipe, stage, data, epoch)]
    seed = recipe.seed * 1_000_003 + recipe.stages.index(stage)
    lengths = [len(r.input_ids) for r in rows]
    if (count := stage.batch.rows) is not None:
        shuffled = order(len(rows), seed=seed, epoch=epoch)
        cut = [shuffled[begin : begin + count] for begin in range(0, len(shuffled), count)]
        return [_packed([rows[i] for i in members], recipe.sequence) for members in cut]
    packed = bins(lengths, _line_length(recipe, stage, lengths), seed=seed, epoch=epoch)
    return list(_grouped([tuple(rows[i] for i in line) for line in packed], stage))


def steps_of_stage(recipe: Recipe, stage: Stage, data: dict[str, list[Encoded]], total: int) -> Iterator[list[Line]]:
    """The lines of each optimizer step, ``total`` steps of them, epoch after epoch. A step never spans two epochs."""
    made = 0
    for epoch in itertools.count():
        for step in steps_of_epoch(recipe, stage, data, epoch):
            if made == total:
                return
            made += 1
            yield step


def _packed(rows: Sequence[Encoded], capacity: int) -> list[Line]:
    return [tuple(rows[i] for i in line) for line in pack([len(row.input_ids) for row in rows], capacity)]


def _line_length(recipe: Recipe, stage: Stage, lengths: Sequence[int]) -> int:
    """Tokens of a packed line: ``sequence``, or less where a line of short rows would hold more of them than a step is to see."""
    return min(recipe.sequence, max(stage.batch.tokens or 0, *lengths))


def plan_stage(recipe: Recipe, stage: Stage, data: dict[str, list[Encoded]]) -> StagePlan:
    """How long a stage is.

    Raises:
        InputError: it has no rows, or nothing in them to train on.
    """
    own = data[stage.name]
    if not own:
        raise InputError(f"stage {stage.name}: {stage.data} holds no rows: there is nothing to train on")
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
    # The steps of rows depend on their order, which must not be that of the keys in a file.
    for name in sorted(stage.replay) if stage.batch.rows else stage.replay:
        rows, share = data[name], stage.replay[name]
        if not rows:
            raise InputError(f"stage {stage.name} replays '{name}', which has no rows")
        wanted = own / fresh * share
        dice = random.Random(f"{recipe.seed} {stage.name} {name} {epoch}")  # noqa: S311 - to be repeated, not to be secret
        taken = 0
        while taken < wanted:
            for row in dice.sample(rows, len(rows)):
                if taken >= wanted:
                    break
                chosen.append(row)
                taken += len(row.input_ids)
    return chosen


def _grouped(lines: Sequence[Line], stage: Stage) -> Iterator[list[Line]]:
    """Lines into steps; what is left at the end of an epoch joins the last step, so that no step is a small one."""
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
