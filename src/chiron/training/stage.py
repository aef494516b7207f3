"""One stage of a run: its optimizer, its checkpoints, and its held-out loss."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from chiron.errors import ChironError, InputError
from chiron.io import write_atomically
from chiron.training.checkpoint import TrainCheckpoint, TrainPosition, random_states, restore_random_states, save_checkpoint
from chiron.training.loop import (
    Requests,
    TrainState,
    held_out_loss,
    make_optimizer,
    memory_explained,
    reference_log_probabilities,
    train_stage,
)
from chiron.training.metrics import HeldOut, StepMetrics
from chiron.training.model import Loss, ShardedLoss, copy_from_shards, gather_state, sharded, split_state, trained_state
from chiron.training.packing import Line, StagePlan, bins, steps_of_stage
from chiron.training.recipe import Recipe, Stage
from chiron.training.rows import Encoded

if TYPE_CHECKING:
    from chiron.training.session import Prepared


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


class StageRun:
    """Training of one stage, from a checkpoint within it or from its start."""

    def __init__(
        self, run: RunContext, model: nn.Module, plan: StagePlan, position: TrainPosition, resumed: TrainCheckpoint | None
    ) -> None:
        """``model``: with the weights of ``position``. ``resumed``: the checkpoint, if it is within this stage or at its start."""
        self._run, self._model, self._plan, self._start, self._resumed = run, model, plan, position, resumed
        recipe = run.prepared.recipe
        # The random numbers of a stage (dropout) do not depend on earlier stages, so that a run can resume at any stage.
        torch.manual_seed(recipe.seed * 1_000_003 + 1009 * position.stage + run.accelerator.process_index)
        with memory_explained(f"stage {plan.stage.name}, before its first step"):
            self._state = _train_state(run.prepared, model, run.accelerator, plan, resumed)
        self._kept = time.monotonic()
        rows, held_out = run.prepared.data[plan.stage.name], run.prepared.held_out.get(plan.stage.name, [])
        if plan.stage.objective == "dpo":
            rows, held_out = _with_references(run.prepared, self._state, plan.stage, run.out, resumed, (rows, held_out))
        self._rows, self._held_out = rows, held_out

    def train(self) -> TrainPosition:
        """Train the remaining steps, measure the held-out loss, and write the checkpoint of the next stage's start.

        Raises:
            TrainingStopped: The run was asked to stop. A checkpoint was written.
        """
        prepared, recipe, stage = self._run.prepared, self._run.prepared.recipe, self._plan.stage
        steps = steps_of_stage(recipe, stage, {**prepared.data, stage.name: self._rows}, self._plan.steps)
        position = train_stage(
            self._state, recipe, self._plan, steps, prepared.folder, position=self._start, asked=self._asked, after=self._after
        )
        if self._held_out:
            lines = _lines(self._held_out, recipe)
            with memory_explained(f"stage {stage.name}, held-out loss"):
                loss = held_out_loss(self._state, recipe, lines, prepared.folder)
            self._run.notify(HeldOut(stage.name, position.total_steps, loss, len(self._held_out)))
        self._run.accelerator.free_memory()
        position = TrainPosition(position.stage + 1, 0, position.total_steps)
        self._keep(position)
        return position

    def _asked(self) -> Requests:
        minutes = self._run.prepared.recipe.checkpoint_minutes
        return Requests(stop=self._run.stop(), checkpoint=minutes is not None and time.monotonic() - self._kept >= 60 * minutes)

    def _after(self, at: TrainPosition, metrics: StepMetrics, requests: Requests) -> None:
        self._run.notify(metrics)
        due = requests.checkpoint or at.step % self._run.prepared.recipe.checkpoint_every == 0
        if requests.stop or (due and at.step < self._plan.steps):
            self._keep(at)
        if requests.stop:
            raise TrainingStopped(
                f"stopped after step {at.total_steps} with a checkpoint in {self._run.out}: run the same command again to resume"
            )

    def _keep(self, at: TrainPosition) -> None:
        """Write a checkpoint. All processes must call this together."""
        accelerator, state = self._run.accelerator, self._state
        randoms = _gathered(accelerator, random_states())
        optimizer = gather_state(state.optimizer.state_dict(), keep=accelerator.is_main_process) if at.step else {}
        if isinstance(state.loss, ShardedLoss):
            copy_from_shards(state.loss, self._model)
        if accelerator.is_main_process:
            folder = self._run.out / "checkpoints"
            save_checkpoint(folder, at, trained_state(self._model), optimizer, randoms, self._run.prepared.identity)
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
        everyone = gather_object([shares]) if state.accelerator.num_processes > 1 else [shares]
        found = [{name: pair for share in everyone for name, pair in share[n].items()} for n in range(len(data))]
        if state.accelerator.is_main_process:
            write_atomically(path, [json.dumps(found) + "\n"])
    return [[replace(row, reference=found[n][row.id]) for row in rows] for n, rows in enumerate(data)]


def _train_state(
    prepared: "Prepared", model: nn.Module, accelerator: Accelerator, plan: StagePlan, resumed: TrainCheckpoint | None
) -> TrainState:
    """Build this process's model (sharded or not) and optimizer, and restore their state from a checkpoint."""
    recipe, world = prepared.recipe, accelerator.num_processes
    left = resumed if resumed is not None and resumed.position.step else None
    if recipe.shard and world > 1:
        loss: nn.Module = sharded(model, accelerator.device, world, beta=plan.stage.beta)
        optimizer: torch.optim.Optimizer = make_optimizer(loss, recipe, plan.stage.learning_rate)
        if left is not None:
            optimizer.load_state_dict(split_state(left.optimizer, optimizer))
        parameters = [p for p in loss.parameters() if p.requires_grad]
    else:
        optimizer = make_optimizer(model, recipe, plan.stage.learning_rate)
        if left is not None:
            optimizer.load_state_dict(left.optimizer)
        loss, optimizer = accelerator.prepare(Loss(model, beta=plan.stage.beta), optimizer)
        parameters = [p for p in model.parameters() if p.requires_grad]
    if left is not None:
        mine = left.randoms.get(str(accelerator.process_index))
        if mine is None:
            wrote = f"{len(left.randoms)} process{'es' if len(left.randoms) > 1 else ''}"
            raise InputError(f"the last checkpoint was written by {wrote}: resume with as many or fewer (these are {world})")
        restore_random_states(mine)
    return TrainState(loss, parameters, optimizer, accelerator, prepared.base.tokenizer.pad_token_id or 0)


def _gathered(accelerator: Accelerator, states: dict[str, Any]) -> dict[str, Any]:
    """Random states of all processes, by rank."""
    if accelerator.num_processes == 1:
        return {"0": states}
    everyone = gather_object([{str(accelerator.process_index): states}])
    return {rank: state for one in everyone for rank, state in one.items()}
