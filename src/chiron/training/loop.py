"""Training loop over steps of packed lines, on one process or several."""

import contextlib
import itertools
import math
import resource
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from chiron.cases.images import ImageFolder
from chiron.errors import InputError
from chiron.providers.local.tiling import ImageLayout, TileKey, Tiles
from chiron.training.batches import Decoder, PackedBatch, collate, one_ahead
from chiron.training.checkpoint import TrainPosition
from chiron.training.encoding import LossWeighting, token_weight, trained_tokens
from chiron.training.metrics import StepMetrics
from chiron.training.model import ShardedLoss, gather, part_of
from chiron.training.packing import Cost, Line, StagePlan, micro_batches
from chiron.training.recipe import Recipe, Stage
from chiron.training.tile_cache import TileCache


@dataclass
class TrainState:
    """Model, optimizer and accelerator of this process."""

    loss: nn.Module
    """Module that returns the summed loss of a batch; wrapped if there are several processes."""
    optimizer: torch.optim.Optimizer
    accelerator: Accelerator
    pad_id: int
    layout: ImageLayout
    """How the model sees images."""
    tiles: TileCache | None = None
    """Decoded images on disk, if the recipe has them."""
    cost: Cost | None = None
    """Operations of a row, by which several processes share the rows of a step."""


@dataclass(frozen=True, slots=True)
class Requests:
    """What was asked for from outside of the loop. All processes have the same, although a signal may reach only some of them."""

    stop: bool
    """End the run after this step. True if any process was asked to."""
    checkpoint: bool
    """Write a checkpoint after this step. Only the first process decides, because clocks differ."""


def make_optimizer(model: nn.Module, recipe: Recipe, stage: Stage) -> torch.optim.AdamW:
    """Create AdamW over the trained weights, without weight decay for vectors (norms, biases, scales).

    With ``learning_rates``, each part of the model has its own groups. Their ``factor`` multiplies the learning rate of every step.
    """
    groups: dict[tuple[str, bool], dict[str, Any]] = {}
    for matrices in (True, False):
        for name, weight in model.named_parameters():
            if weight.requires_grad and (weight.ndim >= 2) == matrices:
                part = part_of(name)
                rate = stage.learning_rates.get(part)
                empty = {"params": [], "weight_decay": recipe.weight_decay if matrices else 0.0}
                if rate is not None:
                    empty |= {"factor": rate / stage.learning_rate, "lr": rate}
                groups.setdefault((part if rate is not None else "", matrices), empty)["params"].append(weight)
    return torch.optim.AdamW(list(groups.values()), lr=stage.learning_rate, betas=recipe.betas, fused=True)


def learning_rate(plan: StagePlan, step: int) -> float:
    """Learning rate at ``step`` (from 0): linear warm-up, then cosine decay to zero."""
    rise = max(1, math.ceil(plan.stage.warmup * plan.steps)) if plan.stage.warmup else 0
    if step < rise:
        return plan.stage.learning_rate * (step + 1) / rise
    return plan.stage.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, plan.steps - rise)))


def train_stage(
    state: TrainState,
    recipe: Recipe,
    plan: StagePlan,
    steps: Iterable[list[Line]],
    folder: ImageFolder,
    *,
    position: TrainPosition,
    asked: Callable[[], Requests],
    after: Callable[[TrainPosition, StepMetrics, Requests], bool],
) -> TrainPosition:
    """Train the remaining steps of a stage, starting at ``position``; call ``after`` at the end of each step, and end if it returns true.

    ``asked``: what this process was asked for so far; read in each step, and exchanged between the processes.

    Raises:
        InputError: The loss is not finite, or memory ran out. The last checkpoint is kept.
    """
    state.loss.train()
    world, rank = state.accelerator.num_processes, state.accelerator.process_index
    todo = list(itertools.islice(steps, position.step, None))
    shares = [micro_batches(step, recipe.micro_batch_size, world, rank, state.cost) for step in todo]
    with (
        Decoder(folder, state.layout, recipe.workers, cache=state.tiles) as decoder,
        one_ahead(_collated(state, recipe, decoder.ahead(batch for share in shares for batch in share))) as ready,
    ):
        for step, share in zip(todo, shares, strict=True):
            began = time.perf_counter()
            rate = learning_rate(plan, position.step)
            for group in state.optimizer.param_groups:
                group["lr"] = rate * group.get("factor", 1.0)
            rows = [row for line in step for row in line]
            weight = step_weight(step, recipe.loss_weighting)
            what = f"stage {plan.stage.name}, step {position.step + 1}"
            with memory_explained(what):
                done = _one_step(state, ready, len(share), weight, recipe, images=any(row.images for row in rows), asked=asked)
            if not math.isfinite(done.loss) or not math.isfinite(done.norm):
                names = ", ".join(row.id for line in step[:3] for row in line[:1])
                raise InputError(
                    f"{what}: the loss is not finite (loss {done.loss / weight:g}, gradient {done.norm:g}): lower learning_rate, or check"
                    f" the rows of this step ({names}, ...); the last checkpoint is kept"
                )
            with memory_explained(what):  # the first optimizer step allocates the moments
                state.optimizer.step()
            state.optimizer.zero_grad(set_to_none=True)
            position = TrainPosition(position.stage, position.step + 1, position.total_steps + 1)
            tokens = sum(len(row.input_ids) for row in rows)
            ended = after(
                position,
                StepMetrics(
                    stage=plan.stage.name,
                    step=position.step,
                    steps=plan.steps,
                    total_steps=position.total_steps,
                    loss=done.loss / weight,
                    learning_rate=rate,
                    gradient_norm=done.norm,
                    tokens=tokens,
                    trained_tokens=sum(trained_tokens(row) for row in rows),
                    utilisation=tokens / done.positions,
                    seconds=time.perf_counter() - began,
                    memory_gib=memory_gib(),
                    waited=done.waited,
                ),
                done.requests,
            )
            if ended:
                break
    return position


@dataclass(frozen=True, slots=True)
class _Step:
    """What a step computed, over all processes except :attr:`waited`."""

    loss: float
    """Summed."""
    positions: int
    norm: float
    """Of the gradient, before clipping."""
    requests: Requests
    waited: float
    """Seconds that this process waited for batches."""


def _collated(state: TrainState, recipe: Recipe, decoded: Iterable[tuple[Sequence[Line], dict[TileKey, Tiles]]]) -> Iterator[PackedBatch]:
    for lines, tiles in decoded:
        batch = collate(lines, tiles, length=None, pad_id=state.pad_id, weighting=recipe.loss_weighting, layout=state.layout, raw=True)
        yield batch.pinned() if state.accelerator.device.type == "cuda" else batch


def _one_step(
    state: TrainState,
    batches: Iterator[PackedBatch],
    count: int,
    weight: float,
    recipe: Recipe,
    *,
    images: bool,
    asked: Callable[[], Requests],
) -> _Step:
    """Compute the gradients of one optimizer step from the next ``count`` batches.

    ``weight``: total weight of the trained tokens of the step. ``images``: whether any row of the step has one.
    """
    accelerator = state.accelerator
    summed = torch.zeros((), device=accelerator.device)
    positions, waited = 0, 0.0
    for number in range(1, count + 1):
        began = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - began
        batch = batch.to(accelerator.device, non_blocking=True)
        positions += batch.input_ids.numel()
        # Processes exchange gradients once per step, in their last batch.
        with _no_exchange(state.loss, accelerator) if number < count else contextlib.nullcontext():
            with accelerator.autocast():
                loss = state.loss(**batch.loss_inputs())
            # The exchange averages over processes. Scaling gives a token the same weight on every process.
            accelerator.backward(loss * (accelerator.num_processes / weight))
        summed += loss.detach()
    mine = asked()
    flags = (float(mine.stop), float(mine.checkpoint and accelerator.is_main_process))
    here = torch.tensor([0.0, positions, *flags], device=accelerator.device, dtype=torch.float64)
    here[0] = summed  # on the device, so that it is not waited for
    totals = accelerator.reduce(here, reduction="sum").tolist()
    if isinstance(state.loss, ShardedLoss) and not images:
        # These zero gradients only keep the processes in sync. With them, the optimizer would apply weight decay.
        for unused in state.loss.image_weights():
            unused.grad = None
    norm = gather(accelerator.clip_grad_norm_(state.loss.parameters(), recipe.clip))
    requests = Requests(stop=totals[2] > 0, checkpoint=totals[3] > 0)
    return _Step(totals[0], int(totals[1]), float(norm if norm is not None else 0.0), requests, waited)


@contextlib.contextmanager
def _no_exchange(loss: nn.Module, accelerator: Accelerator) -> Iterator[None]:
    """Accumulate gradients locally; the next backward pass outside this context exchanges them."""
    if not isinstance(loss, FSDPModule):
        with accelerator.no_sync(loss):
            yield
        return
    loss.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        loss.set_requires_gradient_sync(True)


def _eval_batches(
    state: TrainState, recipe: Recipe, lines: Sequence[Line], folder: ImageFolder
) -> Iterator[tuple[list[Line], PackedBatch]]:
    """Yield this process's share of ``lines`` as batches on its device, for losses without gradients."""
    state.loss.eval()
    world, rank = state.accelerator.num_processes, state.accelerator.process_index
    with Decoder(folder, state.layout, recipe.workers, cache=state.tiles) as decoder:
        for share, tiles in decoder.ahead(micro_batches(lines, recipe.micro_batch_size, world, rank)):
            batch = collate(share, tiles, length=None, pad_id=state.pad_id, layout=state.layout)
            yield share, batch.to(state.accelerator.device)


@torch.no_grad()
def held_out_loss(state: TrainState, recipe: Recipe, lines: Sequence[Line], folder: ImageFolder) -> float:
    """Mean loss per token with a label, or per preference pair, in nats, over packed held-out lines."""
    summed = torch.zeros((), device=state.accelerator.device, dtype=torch.float64)
    for _, batch in _eval_batches(state, recipe, lines, folder):
        with state.accelerator.autocast():
            summed += state.loss(**batch.loss_inputs()).double()
    total: Tensor = state.accelerator.reduce(summed, reduction="sum")
    return float(total) / step_weight(lines, "token")


@torch.no_grad()
def reference_log_probabilities(
    state: TrainState, recipe: Recipe, lines: Sequence[Line], folder: ImageFolder
) -> dict[str, tuple[float, float]]:
    """Log-probabilities of the chosen and the rejected reply of this process's pairs under the current model, by row id."""
    found: dict[str, tuple[float, float]] = {}
    for share, batch in _eval_batches(state, recipe, lines, folder):
        with state.accelerator.autocast():
            scores = state.loss(**replace(batch, reference=None).loss_inputs())
        pairs = [row.id for line in share for row in line if trained_tokens(row)]
        found.update(zip(pairs, map(tuple, scores.view(-1, 2).tolist()), strict=True))
    return found


def step_weight(step: Sequence[Line], weighting: LossWeighting) -> float:
    """Total weight of a step: of its trained tokens, or the number of its preference pairs."""
    if pairs := sum(bool(row.lengths) for line in step for row in line):
        return float(pairs)
    return math.fsum(trained_tokens(row) * token_weight(row, weighting) for line in step for row in line)


def memory_gib() -> float:
    """Peak memory in GiB: of the GPU if there is one, otherwise of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


@contextlib.contextmanager
def memory_explained(what: str) -> Iterator[None]:
    """Convert an out-of-memory error during ``what`` into a message with a fix.

    Raises:
        InputError: Memory ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        # torch.OutOfMemoryError is a RuntimeError; the CPU allocator raises a plain RuntimeError.
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in str(error):
            raise InputError(
                f"{what}: out of memory: lower micro_batch_size or max_seq_length, or set gradient_checkpointing: true;"
                " the last checkpoint is kept"
            ) from error
        raise
