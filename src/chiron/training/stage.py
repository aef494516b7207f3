"""One stage of a run: its optimizer, its checkpoints, and its held-out loss."""

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import nn

from chiron.errors import ChironError, InputError
from chiron.io import write_atomically
from chiron.training.checkpoint import TrainCheckpoint, TrainPosition, random_states, restore_random_states, save_checkpoint
from chiron.training.encoding import Encoded
from chiron.training.held_out import SAMPLES, BestWeights, SampledAnswer, Score, add_samples, answer
from chiron.training.loop import (
    Requests,
    TrainState,
    held_out_loss,
    make_optimizer,
    memory_explained,
    reference_log_probabilities,
    train_stage,
)
from chiron.training.metrics import HeldOut, StepMetrics, read_metrics
from chiron.training.model import Loss, ShardedLoss, compile_layers, copy_from_shards, gather_state, sharded, split_state, trained_state
from chiron.training.packing import Line, StagePlan, bins, steps_of_stage
from chiron.training.recipe import Recipe, Stage
from chiron.training.resources import Operations, choose_recomputed, passes_of
from chiron.training.tile_cache import TileCache

if TYPE_CHECKING:
    from chiron.training.session import Prepared


_log = logging.getLogger(__name__)


class TrainingStopped(ChironError):
    """Training was asked to stop. Its last checkpoint contains every step that was done."""


@dataclass(frozen=True)
class RunContext:
    """What all stages of a run share."""

    prepared: "Prepared"
    accelerator: Accelerator
    out: Path
    notify: Callable[[StepMetrics | HeldOut], None]
    """Receives the lines of ``metrics.jsonl``."""
    stop: Callable[[], bool]
    """Whether this process was asked to stop."""
    score: Score
    tiles: TileCache | None = None


class StageRun:
    """Training of one stage, from a checkpoint within it or from its start."""

    def __init__(
        self, run: RunContext, model: nn.Module, plan: StagePlan, position: TrainPosition, resumed: TrainCheckpoint | None
    ) -> None:
        """``model``: with the weights of ``position``. ``resumed``: the checkpoint, if it is within this stage or at its start."""
        self._run, self._model, self._plan, self._start = run, model, plan, position
        recipe = run.prepared.recipe
        # The random numbers of a stage (dropout) do not depend on earlier stages, so that a run can resume at any stage.
        torch.manual_seed(recipe.seed * 1_000_003 + 1009 * position.stage + run.accelerator.process_index)
        with memory_explained(f"stage {plan.stage.name}, before its first step"):
            self._state = _train_state(run, model, plan, resumed)
        self._kept = time.monotonic()
        rows, held_out = run.prepared.data[plan.stage.name], run.prepared.held_out.get(plan.stage.name, [])
        if plan.stage.objective == "dpo":
            rows, held_out = _with_references(run.prepared, self._state, plan.stage, run.out, resumed, (rows, held_out))
        self._rows, self._held_out = rows, held_out
        self._best = BestWeights(plan.stage, self._past_losses(), resumed.best if resumed is not None and position.step else None)

    def train(self) -> TrainPosition:
        """Train the remaining steps, measure the held-out loss, and write the checkpoint of the next stage's start.

        Raises:
            TrainingStopped: The run was asked to stop. A checkpoint was written.
        """
        prepared, recipe, stage = self._run.prepared, self._run.prepared.recipe, self._plan.stage
        position = self._start
        if position.step and self._due(position):  # stopped between this step and its measurement
            self._measure(position)
        if not self._best.patience_is_over:
            steps = steps_of_stage(recipe, stage, {**prepared.data, stage.name: self._rows}, self._plan.steps)
            position = train_stage(
                self._state, recipe, self._plan, steps, prepared.folder, position=position, asked=self._asked, after=self._after
            )
        if self._held_out:
            self._measure(position)
        self._run.accelerator.free_memory()
        position = TrainPosition(position.stage + 1, 0, position.total_steps)
        self._keep(position)
        return position

    def _due(self, at: TrainPosition) -> bool:
        every = self._plan.stage.held_out_every
        return bool(self._held_out) and every is not None and at.step % every == 0

    def _measure(self, at: TrainPosition) -> None:
        """Measure the held-out loss after a step, unless it is known. All processes must call this together."""
        if self._best.measured(at.total_steps):
            return
        prepared, stage, accelerator = self._run.prepared, self._plan.stage, self._run.accelerator
        with memory_explained(f"stage {stage.name}, held-out loss"):
            loss = held_out_loss(self._state, prepared.recipe, _lines(self._held_out, prepared.recipe), prepared.folder)
            correct = self._answer(at)
        self._state.loss.train()
        accuracy = sum(correct) / len(correct) if correct else None
        if self._best.add(at.total_steps, loss) and stage.keep_best:
            if isinstance(self._state.loss, ShardedLoss):
                copy_from_shards(self._state.loss, self._model)
            if accelerator.is_main_process:
                self._best.weights = {name: weight.cpu().clone() for name, weight in trained_state(self._model).items()}
        self._run.notify(HeldOut(stage.name, at.total_steps, loss, len(self._held_out), len(correct), accuracy))

    def _answer(self, at: TrainPosition) -> list[bool]:
        """Answer the stage's questions and write ``samples.jsonl``; return which answers are right."""
        run, stage = self._run, self._plan.stage
        questions = run.prepared.questions.get(stage.name, [])
        if not questions:
            return []
        replies = answer(self._model, self._state, run.prepared.recipe, questions, run.prepared.folder, stage.answer_tokens)
        answers = []
        for one, (tokens, finished) in zip(questions, replies, strict=True):
            reply = run.prepared.base.tokenizer.decode(tokens, skip_special_tokens=True)
            told = (one.encoded.id, one.encoded.images, one.question, one.row["reference"], reply)
            answers.append(SampledAnswer(stage.name, at.total_steps, *told, finished, run.score(reply, one.row)))
        if run.accelerator.is_main_process:
            add_samples(run.out / SAMPLES, answers)
        return [sample.correct for sample in answers if sample.correct is not None]

    def _past_losses(self) -> list[tuple[int, float]]:
        """Measurements of this stage before this run, the same in all processes."""
        name, path = self._plan.stage.name, self._run.out / "metrics.jsonl"
        lines = read_metrics(path) if self._run.accelerator.is_main_process else ()  # the others do not write the file
        past = [[(line["total_steps"], line["held_out_loss"]) for line in lines if line["stage"] == name and "held_out_loss" in line]]
        found: list[tuple[int, float]] = broadcast_object_list(past)[0]
        return found

    def _asked(self) -> Requests:
        minutes = self._run.prepared.recipe.checkpoint_minutes
        return Requests(stop=self._run.stop(), checkpoint=minutes is not None and time.monotonic() - self._kept >= 60 * minutes)

    def _after(self, at: TrainPosition, metrics: StepMetrics, requests: Requests) -> bool:
        """Record a step, measure, and write a checkpoint, each if it is due; return whether the stage ends early."""
        self._run.notify(metrics)
        # A run that was asked to stop has little time. It measures when it resumes.
        if self._due(at) and not requests.stop:
            self._measure(at)
        due = requests.checkpoint or at.step % self._run.prepared.recipe.checkpoint_every == 0
        if requests.stop or (due and at.step < self._plan.steps):
            self._keep(at)
        if requests.stop:
            raise TrainingStopped(
                f"stopped after step {at.total_steps} with a checkpoint in {self._run.out}: run the same command again to resume"
            )
        return self._best.patience_is_over

    def _keep(self, at: TrainPosition) -> None:
        """Write a checkpoint. All processes must call this together."""
        accelerator, state = self._run.accelerator, self._state
        randoms = dict(gather_object([(str(accelerator.process_index), random_states())]))
        optimizer = gather_state(state.optimizer.state_dict(), keep=accelerator.is_main_process) if at.step else {}
        if isinstance(state.loss, ShardedLoss):
            copy_from_shards(state.loss, self._model)
        if not at.step and self._plan.stage.keep_best:
            self._best.restore(self._model, accelerator)
        if accelerator.is_main_process:
            folder, weights = self._run.out / "checkpoints", trained_state(self._model)
            best = self._best.weights if at.step else None
            save_checkpoint(folder, at, weights, optimizer, randoms, self._run.prepared.identity, best)
        accelerator.wait_for_everyone()
        self._kept = time.monotonic()


def _lines(rows: Sequence[Encoded], recipe: Recipe) -> list[Line]:
    return [tuple(rows[i] for i in line) for line in bins([len(r.input_ids) for r in rows], recipe.max_seq_length, seed=0, epoch=0)]


def _with_references(
    prepared: "Prepared", state: TrainState, stage: Stage, out: Path, resumed: TrainCheckpoint | None, data: tuple[list[Encoded], ...]
) -> list[list[Encoded]]:
    """Add the reference's log-probabilities to the pairs of a stage; ``data``: its rows and its held-out rows.

    The reference is the model at the start of the stage; for the first adapter stage, that is the model without adapter. A run that
    resumes within the stage reads the log-probabilities from a file, because it no longer has that model.
    """
    path = out / f"reference-{stage.name}.json"
    found: list[dict[str, tuple[float, float]]]
    if resumed is not None and resumed.position.step:
        try:
            found = [{name: (a, b) for name, (a, b) in pairs.items()} for pairs in json.loads(path.read_text("utf-8"))]
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise InputError(f"{path}, the reference of stage {stage.name}, cannot be read ({error}): choose another --out") from error
    else:
        with memory_explained(f"stage {stage.name}, reference"):
            shares = [reference_log_probabilities(state, prepared.recipe, _lines(rows, prepared.recipe), prepared.folder) for rows in data]
        everyone = gather_object([shares])
        found = [{name: pair for share in everyone for name, pair in share[n].items()} for n in range(len(data))]
        if state.accelerator.is_main_process:
            write_atomically(path, [json.dumps(found) + "\n"])
    return [[replace(row, reference=found[n][row.id]) for row in rows] for n, rows in enumerate(data)]


def _train_state(run: RunContext, model: nn.Module, plan: StagePlan, resumed: TrainCheckpoint | None) -> TrainState:
    """Build this process's model (sharded or not) and optimizer, and restore their state from a checkpoint."""
    prepared, accelerator = run.prepared, run.accelerator
    recipe, world = prepared.recipe, accelerator.num_processes
    left = resumed if resumed is not None and resumed.position.step else None
    cost = Operations.of(model, prepared.base.family).cost(passes_of(recipe, plan.stage))
    if recipe.shard and world > 1:
        if isinstance(recipe.gradient_checkpointing, int):  # "auto" is "all": the free memory of a shard is not measured
            choose_recomputed(Loss(model), recipe, accelerator.device)
        loss: nn.Module = sharded(model, accelerator.device, world, beta=plan.stage.beta)
        optimizer: torch.optim.Optimizer = make_optimizer(loss, recipe, plan.stage)
        if left is not None:
            optimizer.load_state_dict(split_state(left.optimizer, optimizer))
    else:
        optimizer = make_optimizer(model, recipe, plan.stage)
        if left is not None:
            optimizer.load_state_dict(left.optimizer)
        alone = Loss(model, beta=plan.stage.beta).to(accelerator.device)
        recomputed = choose_recomputed(alone, recipe, accelerator.device)
        if recomputed:
            _log.info("stage %s: %d layers compute their activations again", plan.stage.name, recomputed)
        if recipe.compile:
            compile_layers(model)
        loss, optimizer = accelerator.prepare(alone, optimizer)
    if left is not None:
        mine = left.randoms.get(str(accelerator.process_index))
        if mine is None:
            wrote = f"{len(left.randoms)} process{'es' if len(left.randoms) > 1 else ''}"
            raise InputError(f"the last checkpoint was written by {wrote}: resume with as many or fewer (these are {world})")
        restore_random_states(mine)
    pad_id = prepared.base.tokenizer.pad_token_id or 0
    return TrainState(loss, optimizer, accelerator, pad_id, prepared.base.layout, run.tiles, cost)
