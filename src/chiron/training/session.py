"""Complete training run: check the data, train the stages in order, write checkpoints, and export the model."""

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import gather_object
from safetensors.torch import load_file
from torch import Tensor, nn

from chiron.cases.images import ImageFolder
from chiron.errors import InputError
from chiron.io import write_atomically
from chiron.training.checkpoint import (
    KEPT_BASE,
    UNREADABLE,
    RunIdentity,
    TrainCheckpoint,
    TrainPosition,
    export,
    load_last,
    random_states,
    restore_random_states,
    save_checkpoint,
    write_weights,
)
from chiron.training.loop import TrainState, held_out_loss, make_optimizer, memory_explained, reference_log_probabilities, train_stage
from chiron.training.metrics import (
    FOLDER,
    HeldOut,
    MetricsFile,
    StepMetrics,
    check_installed,
    draw_curves,
    read_metrics,
    tensorboard_writer,
)
from chiron.training.model import (
    LoadedModel,
    Loss,
    ShardedLoss,
    add_adapter,
    copy_from_shards,
    gather_state,
    load_base,
    sharded,
    split_state,
    train_everything,
    trained_state,
)
from chiron.training.packing import Line, StagePlan, bins, plan_stage, steps_of_stage
from chiron.training.recipe import Adapter, Recipe, Stage
from chiron.training.rows import Encoded, RowEncoder, encode_all, read_rows, rows_fingerprint

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """A training run that is loaded, checked and planned, ready for the first step."""

    recipe: Recipe
    base: LoadedModel
    data: dict[str, list[Encoded]]
    """Encoded rows by stage name."""
    held_out: dict[str, list[Encoded]]
    plans: list[StagePlan]
    hashes: dict[str, str]
    """SHA-256 of every data file, by file name."""
    folder: ImageFolder

    @cached_property
    def identity(self) -> RunIdentity:
        """Recipe name and hashes of everything that determines the final weights.

        Folders that the recipe names count by their content, not by their path.
        """
        ignored = {"workers", "checkpoint_every", "micro_batch_size", "tensorboard", "shard", "gradient_checkpointing"}
        recipe = self.recipe.model_dump(mode="json", exclude=ignored)
        # Checkpoints of earlier versions were hashed with these names.
        for name, hashed in (("max_seq_length", "sequence"), ("base_stages", "earlier")):
            recipe[hashed] = recipe.pop(name)
        for stage in recipe["stages"]:
            stage["train"] = stage.pop("trainable")
            if stage["objective"] == "sft":
                del stage["objective"], stage["beta"]
        # Newer keys are hashed only if they differ from the default, so that runs of an earlier version can be resumed.
        images = recipe["images"]
        later = (
            (recipe, "system", None),
            (recipe, "loss_weighting", "token"),
            (images, "max_tiles_per", "row"),
            (images, "max_pixels", None),
        )
        for values, key, usual in later:
            if values[key] == usual:
                del values[key]
        if self.recipe.scratch is not None:
            recipe["scratch"]["tokenizer"] = _digest(Path(self.recipe.scratch.tokenizer))
        elif self.recipe.base is not None and Path(self.recipe.base).is_dir():
            recipe["base"] = _digest(Path(self.recipe.base))
        # Earlier versions built steps of rows from packed lines. Such a run cannot be resumed, because the steps differ.
        planned = ["steps of exactly so many rows"] if any(stage.batch.rows for stage in self.recipe.stages) else []
        text = json.dumps([recipe, self.hashes, *planned], sort_keys=True)
        return {"recipe": self.recipe.name, "data": self.hashes, "sha256": hashlib.sha256(text.encode()).hexdigest()}


@dataclass(frozen=True)
class TrainingSummary:
    """Output of a training run."""

    out: Path
    model: Path
    """Folder of the merged model, in safetensors; loads in plain transformers."""
    adapter: Path | None
    steps: int
    held_out: dict[str, float]
    """Held-out loss by stage."""


def prepare(recipe: Recipe, data: Path, images: Path | None = None) -> Prepared:
    """Load the base model, read and encode every row, and plan every stage.

    Raises:
        InputError: The base, a data file, a row, an image or TensorBoard cannot be used. The message names it.
    """
    if recipe.tensorboard:
        check_installed()
    base = load_base(recipe)
    settings = base.family.dialogue_settings(base.model.config, base.layout, base.family.system(recipe.system))
    encoder = RowEncoder(base.tokenizer, **settings)
    encoder.check_against(base.model)
    folder = ImageFolder(images if images is not None else data / "images")
    hashes: dict[str, str] = {}

    def read(name: str, objective: str = "sft") -> list[Encoded]:
        path = data / name
        rows = read_rows(path, preferences=objective == "dpo")
        hashes[name] = rows_fingerprint(path)
        return encode_all(rows, folder, encoder, limit=recipe.max_seq_length)

    rows = {name: read(file) for name, file in recipe.base_stages.items()}
    rows |= {stage.name: read(stage.data, stage.objective) for stage in recipe.stages}
    held = {stage.name: read(stage.held_out, stage.objective) for stage in recipe.stages if stage.held_out}
    plans = [plan_stage(recipe, stage, rows) for stage in recipe.stages]
    return Prepared(recipe, base, rows, held, plans, hashes, folder)


def train(prepared: Prepared, out: Path, *, watch: Callable[[StepMetrics | HeldOut], None] = lambda _: None) -> TrainingSummary:
    """Train every stage that is not yet complete in ``out``, then export the model.

    If the process is killed at any point, the same call resumes and produces the same weights.

    Raises:
        InputError: ``out`` contains another run, the loss is not finite, or memory ran out.
        DiskError: A checkpoint, the metrics or the model cannot be written. The last checkpoint is kept.
    """
    recipe, model = prepared.recipe, prepared.base.model
    accelerator = _accelerator(recipe)
    saved = load_last(out / "checkpoints")
    if saved is not None:
        _log.info("%s: resuming stage %d at step %d", out, saved.position.stage + 1, saved.position.step)
    if saved is not None and saved.run != prepared.identity:
        raise InputError(f"{out} contains a run of another recipe or other data: choose another --out")
    position = saved.position if saved is not None else TrainPosition(0, 0, 0)
    with contextlib.ExitStack() as files:
        if saved is not None and position.stage == len(prepared.plans):
            # All stages are complete, but the model may not be exported yet. Load the trained weights for the export.
            model = _ready(model, recipe, prepared.plans[-1].stage, out, saved, writes=accelerator.is_main_process)
        listeners = [*_records(out, recipe, position, files), watch] if accelerator.is_main_process else []

        def notify(metrics: StepMetrics | HeldOut) -> None:
            for listener in listeners:
                listener(metrics)

        for index, plan in enumerate(prepared.plans):
            if index >= position.stage:
                resumed = saved if saved is not None and saved.position.stage == index else None
                model = _ready(model, recipe, plan.stage, out, resumed, writes=accelerator.is_main_process)
                position = _run_stage(prepared, model, accelerator, plan, resumed, position, out, notify)
    adapter = None
    if accelerator.is_main_process:
        adapter = export(model, prepared.base, out, recipe, prepared.plans, prepared.hashes)
        pairs = {stage.name for stage in recipe.stages if stage.objective == "dpo"}
        draw_curves(out / "metrics.jsonl", out / "curves.png", preference_stages=pairs)
    accelerator.wait_for_everyone()
    losses = {str(line["stage"]): float(line["held_out_loss"]) for line in read_metrics(out / "metrics.jsonl") if "held_out_loss" in line}
    return TrainingSummary(out, out / "model", adapter, position.total_steps, losses)


def _run_stage(
    prepared: Prepared,
    model: nn.Module,
    accelerator: Accelerator,
    plan: StagePlan,
    resumed: TrainCheckpoint | None,
    position: TrainPosition,
    out: Path,
    notify: Callable[[StepMetrics | HeldOut], None],
) -> TrainPosition:
    """Train one stage with its own optimizer, from ``resumed`` or from its start, and measure its held-out loss."""
    recipe = prepared.recipe
    # The random numbers of a stage (dropout) do not depend on earlier stages, so that a run can resume at any stage.
    torch.manual_seed(recipe.seed * 1_000_003 + 1009 * position.stage + accelerator.process_index)
    with memory_explained(f"stage {plan.stage.name}, before its first step"):
        state = _train_state(prepared, model, accelerator, plan, resumed)

    def keep(at: TrainPosition) -> None:
        randoms = _gathered(accelerator, random_states())
        optimizer = gather_state(state.optimizer.state_dict(), keep=accelerator.is_main_process) if at.step else {}
        if isinstance(state.loss, ShardedLoss):
            copy_from_shards(state.loss, model)
        if accelerator.is_main_process:
            save_checkpoint(out / "checkpoints", at, trained_state(model), optimizer, randoms, prepared.identity)
        accelerator.wait_for_everyone()

    def after(at: TrainPosition, metrics: StepMetrics) -> None:
        notify(metrics)
        if at.step % recipe.checkpoint_every == 0 and at.step < plan.steps:
            keep(at)

    rows, held_out = prepared.data[plan.stage.name], prepared.held_out.get(plan.stage.name, [])
    if plan.stage.objective == "dpo":
        rows, held_out = _with_references(prepared, state, plan.stage, out, resumed, (rows, held_out))
    steps = steps_of_stage(recipe, plan.stage, {**prepared.data, plan.stage.name: rows}, plan.steps)
    position = train_stage(state, recipe, plan, steps, prepared.folder, position=position, after=after)
    if held_out:
        lines = _lines(held_out, recipe)
        with memory_explained(f"stage {plan.stage.name}, held-out loss"):
            loss = held_out_loss(state, recipe, lines, prepared.folder)
        notify(HeldOut(plan.stage.name, position.total_steps, loss, len(held_out)))
    accelerator.free_memory()
    position = TrainPosition(position.stage + 1, 0, position.total_steps)
    keep(position)
    return position


def _lines(rows: Sequence[Encoded], recipe: Recipe) -> list[Line]:
    return [tuple(rows[i] for i in line) for line in bins([len(r.input_ids) for r in rows], recipe.max_seq_length, seed=0, epoch=0)]


def _with_references(
    prepared: Prepared, state: TrainState, stage: Stage, out: Path, resumed: TrainCheckpoint | None, data: tuple[list[Encoded], ...]
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
    prepared: Prepared, model: nn.Module, accelerator: Accelerator, plan: StagePlan, resumed: TrainCheckpoint | None
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
    return TrainState(loss, parameters, optimizer, accelerator, prepared.base.tokenizer.pad_token_id or 0, prepared.base.layout)


def _ready(model: nn.Module, recipe: Recipe, stage: Stage, out: Path, resumed: TrainCheckpoint | None, *, writes: bool) -> nn.Module:
    """Prepare the model for a stage: set which weights are trainable and load those of a checkpoint.

    ``writes``: whether this process writes the files of the run. All processes have the same weights.
    """
    base = out / KEPT_BASE
    adapted = hasattr(model, "peft_config")
    if stage.trainable == "all":
        train_everything(model)
    elif not adapted:
        before = recipe.stages[: recipe.stages.index(stage)]
        if resumed is not None and any("lora_" in name for name in resumed.weights):
            if before and before[0].trainable == "all":
                model.load_state_dict(_kept_base(base))
        elif before:
            # Earlier stages trained every weight. The adapter is saved separately, so the weights below it are saved too.
            if resumed is not None:
                model.load_state_dict(resumed.weights, strict=False)
            if writes:
                write_weights(base, model.state_dict())
        torch.manual_seed(recipe.seed)
        model = add_adapter(model, recipe.adapter or Adapter())
    if resumed is not None:
        known = {name for name, _ in model.named_parameters()}
        if set(resumed.weights) <= known:
            model.load_state_dict(resumed.weights, strict=False)
    return model


def _kept_base(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except UNREADABLE as error:
        raise InputError(f"{path}, the weights under the adapter, cannot be read ({error}): start again with another --out") from error


def _accelerator(recipe: Recipe) -> Accelerator:
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        raise InputError("accelerate's own FSDP is not supported: launch without --use_fsdp, and set shard: true in the recipe")
    # If the vision tower is trained, text-only batches leave its parameters unused.
    unused = any(stage.trainable == "all" for stage in recipe.stages)
    return Accelerator(
        mixed_precision="bf16" if recipe.precision == "bf16" else "no",
        cpu=not torch.cuda.is_available(),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=unused)],
    )


def _records(
    out: Path, recipe: Recipe, position: TrainPosition, files: contextlib.ExitStack
) -> list[Callable[[StepMetrics | HeldOut], None]]:
    """Open the metrics writers, continuing from ``position``; ``files`` closes them."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out} cannot be created ({error.strerror}): choose another") from error
    metrics = MetricsFile(out / "metrics.jsonl", total_steps=position.total_steps)
    if not recipe.tensorboard:
        return [metrics.add]
    return [metrics.add, files.enter_context(tensorboard_writer(out / FOLDER, list(read_metrics(metrics.path))))]


def _digest(folder: Path) -> str:
    """Return the SHA-256 of a checkpoint's weights, settings and tokenizer."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.suffix in {".json", ".safetensors"}):
        with path.open("rb") as file:
            digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def _gathered(accelerator: Accelerator, states: dict[str, Any]) -> dict[str, Any]:
    """Random states of all processes, by rank."""
    if accelerator.num_processes == 1:
        return {"0": states}
    everyone = gather_object([{str(accelerator.process_index): states}])
    return {rank: state for one in everyone for rank, state in one.items()}
