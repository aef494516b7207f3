"""What every optimizer step of a stage sees: a function of recipe, data and seed, so that a resumed run finds its place by number."""

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from chiron.errors import InputError
from chiron.training.encoding import Encoded, trained_tokens
from chiron.training.packing import bins, order, pack
from chiron.training.recipe import Recipe, Stage

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
