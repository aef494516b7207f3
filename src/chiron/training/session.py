"""Complete training run: check the data, train the stages in order, write checkpoints, and export the model."""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
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
from chiron.providers.local.dialogue import ChatFormat, system_text
from chiron.training.checkpoint import (
    UNREADABLE,
    Saved,
    TrainPosition,
    load_last,
    random_states,
    restore_random_states,
    save_checkpoint,
    write_weights,
)
from chiron.training.encoding import Encoded, Encoder, encode_all
from chiron.training.export import KEPT_BASE, export
from chiron.training.loop import TrainState, held_out_loss, make_optimizer, memory_explained, train_stage
from chiron.training.metrics import FOLDER, EventFiles, HeldOut, MetricsFile, StepMetrics, check_installed, draw_curves, read_metrics
from chiron.training.model import Loaded, Loss, add_adapter, load_base, train_everything, trained_state
from chiron.training.packing import StagePlan, bins, plan_stage, steps_of_stage
from chiron.training.recipe import Adapter, Recipe, Stage
from chiron.training.rows import read_rows, rows_fingerprint
from chiron.training.sharding import ShardedLoss, bring_home, sharded, split_state, whole_state


@dataclass(frozen=True)
class Prepared:
    """A training run that is loaded, checked and planned, ready for the first step."""

    recipe: Recipe
    base: Loaded
    data: dict[str, list[Encoded]]
    """Encoded rows by stage name."""
    held_out: dict[str, list[Encoded]]
    plans: list[StagePlan]
    hashes: dict[str, str]
    """SHA-256 of every data file, by file name."""
    folder: ImageFolder

    @cached_property
    def identity(self) -> dict[str, Any]:
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
        # Newer keys are hashed only if they differ from the default, so that runs of an earlier version can be resumed.
        later = ((recipe, "system", None), (recipe, "loss_weighting", "token"), (recipe["images"], "max_tiles_per", "row"))
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
class Trained:
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
    chat = ChatFormat(system=system_text(recipe.system))
    encoder = Encoder(base.tokenizer, tiling=recipe.images.tiling, tokens_per_tile=base.tokens_per_tile, chat=chat)
    encoder.check_against(base.model)
    folder = ImageFolder(images if images is not None else data / "images")
    hashes: dict[str, str] = {}

    def read(name: str) -> list[Encoded]:
        path = data / name
        rows = read_rows(path)
        hashes[name] = rows_fingerprint(path)
        return encode_all(rows, folder, encoder, limit=recipe.max_seq_length)

    rows = {**{name: read(file) for name, file in recipe.base_stages.items()}, **{stage.name: read(stage.data) for stage in recipe.stages}}
    held = {stage.name: read(stage.held_out) for stage in recipe.stages if stage.held_out}
    plans = [plan_stage(recipe, stage, rows) for stage in recipe.stages]
    return Prepared(recipe, base, rows, held, plans, hashes, folder)


def train(prepared: Prepared, out: Path, *, watch: Callable[[StepMetrics | HeldOut], None] = lambda _: None) -> Trained:
    """Train every stage that is not yet complete in ``out``, then export the model.

    If the process is killed at any point, the same call resumes and produces the same weights.

    Raises:
        InputError: ``out`` contains another run, the loss is not finite, or memory ran out.
        DiskError: A checkpoint, the metrics or the model cannot be written. The last checkpoint is kept.
    """
    recipe, model = prepared.recipe, prepared.base.model
    accelerator = _accelerator(recipe)
    saved = load_last(out / "checkpoints")
    if saved is not None and saved.run != prepared.identity:
        raise InputError(f"{out} holds a training of another recipe or other data: choose another --out")
    place = saved.place if saved is not None else TrainPosition(0, 0, 0)
    with contextlib.ExitStack() as files:
        if saved is not None and place.stage == len(prepared.plans):
            # All stages are complete, but the model may not be exported yet. Load the trained weights for the export.
            model = _ready(model, recipe, prepared.plans[-1].stage, out, saved, writes=accelerator.is_main_process)
        told = [*_records(out, recipe, place, files), watch] if accelerator.is_main_process else []

        def tell(metrics: StepMetrics | HeldOut) -> None:
            for listener in told:
                listener(metrics)

        for index, plan in enumerate(prepared.plans):
            if index >= place.stage:
                resumed = saved if saved is not None and saved.place.stage == index else None
                model = _ready(model, recipe, plan.stage, out, resumed, writes=accelerator.is_main_process)
                place = _run_stage(prepared, model, accelerator, plan, resumed, place, out, tell)
    adapter = None
    if accelerator.is_main_process:
        adapter = export(model, prepared.base.tokenizer, out, recipe, prepared.plans, prepared.hashes)
        draw_curves(out / "metrics.jsonl", out / "curves.png")
    accelerator.wait_for_everyone()
    losses = {str(line["stage"]): float(line["held_out_loss"]) for line in read_metrics(out / "metrics.jsonl") if "held_out_loss" in line}
    return Trained(out, out / "model", adapter, place.total_steps, losses)


def _run_stage(
    prepared: Prepared,
    model: nn.Module,
    accelerator: Accelerator,
    plan: StagePlan,
    resumed: Saved | None,
    place: TrainPosition,
    out: Path,
    tell: Callable[[StepMetrics | HeldOut], None],
) -> TrainPosition:
    """Train one stage with its own optimizer, from ``resumed`` or from its start, and measure its held-out loss."""
    recipe = prepared.recipe
    # The random numbers of a stage (dropout) do not depend on earlier stages, so that a run can resume at any stage.
    torch.manual_seed(recipe.seed * 1_000_003 + 1009 * place.stage + accelerator.process_index)
    with memory_explained(f"stage {plan.stage.name}, before its first step"):
        trainee = _trainee(prepared, model, accelerator, plan, resumed)

    def keep(at: TrainPosition) -> None:
        randoms = _gathered(accelerator, random_states())
        state = whole_state(trainee.optimizer.state_dict(), keep=accelerator.is_main_process) if at.step else {}
        if isinstance(trainee.loss, ShardedLoss):
            bring_home(trainee.loss, model)
        if accelerator.is_main_process:
            save_checkpoint(out / "checkpoints", at, trained_state(model), state, randoms, prepared.identity)
        accelerator.wait_for_everyone()

    def after(at: TrainPosition, metrics: StepMetrics) -> None:
        tell(metrics)
        if at.step % recipe.checkpoint_every == 0 and at.step < plan.steps:
            keep(at)

    steps = steps_of_stage(recipe, plan.stage, prepared.data, plan.steps)
    place = train_stage(trainee, recipe, plan, steps, prepared.folder, place=place, after=after)
    if rows := prepared.held_out.get(plan.stage.name):
        lines = [tuple(rows[i] for i in line) for line in bins([len(r.input_ids) for r in rows], recipe.max_seq_length, seed=0, epoch=0)]
        with memory_explained(f"stage {plan.stage.name}, held-out loss"):
            loss = held_out_loss(trainee, recipe, lines, prepared.folder)
        tell(HeldOut(plan.stage.name, place.total_steps, loss, len(rows)))
    accelerator.free_memory()
    place = TrainPosition(place.stage + 1, 0, place.total_steps)
    keep(place)
    return place


def _trainee(prepared: Prepared, model: nn.Module, accelerator: Accelerator, plan: StagePlan, resumed: Saved | None) -> TrainState:
    """Build this process's model (sharded or not) and optimizer, and restore their state from a checkpoint."""
    recipe, world = prepared.recipe, accelerator.num_processes
    left = resumed if resumed is not None and resumed.place.step else None
    if recipe.shard and world > 1:
        loss: nn.Module = sharded(model, accelerator.device, world)
        optimizer: torch.optim.Optimizer = make_optimizer(loss, recipe, plan.stage.learning_rate)
        if left is not None:
            optimizer.load_state_dict(split_state(left.optimizer, optimizer))
        parameters = [p for p in loss.parameters() if p.requires_grad]
    else:
        optimizer = make_optimizer(model, recipe, plan.stage.learning_rate)
        if left is not None:
            optimizer.load_state_dict(left.optimizer)
        loss, optimizer = accelerator.prepare(Loss(model), optimizer)
        parameters = [p for p in model.parameters() if p.requires_grad]
    if left is not None:
        mine = left.randoms.get(str(accelerator.process_index))
        if mine is None:
            wrote = f"{len(left.randoms)} process{'es' if len(left.randoms) > 1 else ''}"
            raise InputError(f"the last checkpoint was written by {wrote}: go on with as many (these are {world}), or fewer")
        restore_random_states(mine)
    return TrainState(loss, parameters, optimizer, accelerator, prepared.base.tokenizer.pad_token_id or 0)


def _ready(model: nn.Module, recipe: Recipe, stage: Stage, out: Path, resumed: Saved | None, *, writes: bool) -> nn.Module:
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
        raise InputError(
            f"{path}, the weights under the adapter, cannot be read ({error}): choose another --out, and training begins anew"
        ) from error


def _accelerator(recipe: Recipe) -> Accelerator:
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        raise InputError("accelerate's own FSDP cannot be used here: launch without --use_fsdp, and set shard: true in the recipe")
    # If the vision tower is trained, text-only batches leave its parameters unused.
    unused = any(stage.trainable == "all" for stage in recipe.stages)
    return Accelerator(
        mixed_precision="bf16" if recipe.precision == "bf16" else "no",
        cpu=not torch.cuda.is_available(),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=unused)],
    )


def _records(out: Path, recipe: Recipe, place: TrainPosition, files: contextlib.ExitStack) -> list[Callable[[StepMetrics | HeldOut], None]]:
    """Open the metrics writers, continuing from ``place``; ``files`` closes them."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out} cannot be made: {error.strerror}") from error
    metrics = MetricsFile(out / "metrics.jsonl", total_steps=place.total_steps)
    if not recipe.tensorboard:
        return [metrics.add]
    return [metrics.add, files.enter_context(EventFiles(out / FOLDER, list(read_metrics(metrics.path)))).add]


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
