"""Complete training run: check the data, train the stages in order, write checkpoints, and export the model."""

import contextlib
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import gather_object
from safetensors.torch import load_file
from torch import Tensor, nn

from chiron.cases.images import ImageFolder
from chiron.errors import InputError
from chiron.io import file_sha256
from chiron.training.base import LoadedModel, load_base
from chiron.training.checkpoint import UNREADABLE, RunIdentity, TrainCheckpoint, TrainPosition, load_last, run_identity, write_weights
from chiron.training.encoding import Encoded, RowEncoder, encode_all
from chiron.training.export import KEPT_BASE, export
from chiron.training.held_out import HeldOutQuestion, Score, check_questions, choose_questions
from chiron.training.metrics import (
    FOLDER,
    HeldOut,
    MetricsFile,
    StepMetrics,
    check_installed,
    draw_curves,
    held_out_losses,
    read_metrics,
    tensorboard_writer,
)
from chiron.training.model import add_adapter, train_parts
from chiron.training.packing import StagePlan, plan_stage
from chiron.training.recipe import Adapter, Recipe, Stage
from chiron.training.rows import read_rows
from chiron.training.stage import RunContext, StageRun
from chiron.training.tile_cache import TileCache
from chiron.training.trackers import check_trackers, tracker_writer

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
    questions: dict[str, list[HeldOutQuestion]] = field(default_factory=dict)
    """Held-out rows that are answered during training, by stage name."""

    @cached_property
    def identity(self) -> RunIdentity:
        """Name and hashes by which a checkpoint of this run is recognized."""
        return run_identity(self.recipe, self.hashes)


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


def prepare(recipe: Recipe, data: Path, images: Path | None = None, *, load: Callable[[Recipe], LoadedModel] = load_base) -> Prepared:
    """Load the base model, read and encode every row, and plan every stage.

    ``load``: :func:`~chiron.training.known_bases.load_for_estimate` if nothing is trained.

    Raises:
        InputError: The base, a data file, a row, an image or a tracker cannot be used. The message names it.
    """
    if recipe.event_files:
        check_installed()
    check_trackers(recipe.remote_trackers)
    base = load(recipe)
    settings = base.family.dialogue_settings(base.model.config, base.layout, base.family.system(recipe.system))
    encoder = RowEncoder(base.tokenizer, **settings)
    encoder.check_against(base.model)
    folder = ImageFolder(images if images is not None else data / "images")
    hashes: dict[str, str] = {}

    questions: dict[str, list[HeldOutQuestion]] = {}

    def read(name: str, objective: str = "sft", asked_in: Stage | None = None) -> list[Encoded]:
        path = data / name
        rows = read_rows(path, preferences=objective == "dpo")
        try:
            hashes[name] = file_sha256(path)
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}") from error
        encoded = encode_all(rows, folder, encoder, limit=recipe.max_seq_length)
        if asked_in is not None and asked_in.answers:
            questions[asked_in.name] = choose_questions(path, rows, encoded, recipe, asked_in)
        return encoded

    rows = {name: read(file) for name, file in recipe.base_stages.items()}
    rows |= {stage.name: read(stage.data, stage.objective) for stage in recipe.stages}
    held = {stage.name: read(stage.held_out, stage.objective, stage) for stage in recipe.stages if stage.held_out}
    plans = [plan_stage(recipe, stage, rows) for stage in recipe.stages]
    return Prepared(recipe, base, rows, held, plans, hashes, folder, questions)


def train(
    prepared: Prepared,
    out: Path,
    *,
    watch: Callable[[StepMetrics | HeldOut], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
    score: Score = lambda *_: None,
) -> TrainingSummary:
    """Train every stage that is not yet complete in ``out``, then export the model.

    If the process is killed at any point, the same call resumes and produces the same weights.

    Args:
        prepared: the run.
        out: output folder.
        watch: called with every line of ``metrics.jsonl``, in the first process.
        stop: called in each step. If true in any process, all end after this step.
        score: compares a generated answer with the known one; needed by stages with ``answers``.

    Raises:
        TrainingStopped: ``stop`` was true. A checkpoint was written.
        InputError: ``out`` contains another run, the tile cache cannot be written, the loss is not finite, or memory ran out.
        DiskError: A checkpoint, the metrics or the model cannot be written. The last checkpoint is kept.
    """
    recipe, model = prepared.recipe, prepared.base.model
    check_questions(recipe, prepared.questions, score)
    accelerator = _accelerator(recipe)
    tiles = _tile_cache(prepared, accelerator)
    saved = _saved(prepared, out)
    position = saved.position if saved is not None else TrainPosition(0, 0, 0)
    with contextlib.ExitStack() as files:
        if saved is not None and position.stage == len(prepared.plans):
            # All stages are complete, but the model may not be exported yet. Load the trained weights for the export.
            model = _ready(model, recipe, prepared.plans[-1].stage, out, saved, writes=accelerator.is_main_process)
        listeners = [*_records(out, recipe, position, files), watch] if accelerator.is_main_process else []

        def notify(metrics: StepMetrics | HeldOut) -> None:
            for listener in listeners:
                listener(metrics)

        run = RunContext(prepared, accelerator, out, notify, stop, score, tiles)
        for index, plan in enumerate(prepared.plans):
            if index >= position.stage:
                resumed = saved if saved is not None and saved.position.stage == index else None
                model = _ready(model, recipe, plan.stage, out, resumed, writes=accelerator.is_main_process)
                position = StageRun(run, model, plan, position, resumed).train()
    adapter = None
    if accelerator.is_main_process:
        adapter = export(model, prepared.base, out, recipe, prepared.plans, prepared.hashes)
        pairs = {stage.name for stage in recipe.stages if stage.objective == "dpo"}
        draw_curves(out / "metrics.jsonl", out / "curves.png", preference_stages=pairs)
    accelerator.wait_for_everyone()
    losses = held_out_losses(out / "metrics.jsonl", recipe.best_stages)
    return TrainingSummary(out, out / "model", adapter, position.total_steps, losses)


def _saved(prepared: Prepared, out: Path) -> TrainCheckpoint | None:
    """Load the last checkpoint of this run, if there is one."""
    saved = load_last(out / "checkpoints")
    _check_processes(gather_object([(prepared.identity, saved and saved.position)]), out)
    if saved is not None:
        _log.info("%s: resuming stage %d at step %d", out, saved.position.stage + 1, saved.position.step)
    if saved is not None and saved.run != prepared.identity:
        raise InputError(f"{out} contains a run of another recipe or other data: choose another --out")
    return saved


def _check_processes(found: Sequence[tuple[RunIdentity, TrainPosition | None]], out: Path) -> None:
    """Check that all processes train the same; ``found``: the run of each, and where its last checkpoint ends."""
    first, position = found[0]
    for rank, (other, at) in enumerate(found):
        if other != first:
            names = [name for name, digest in first["data"].items() if other["data"].get(name) != digest]
            what = ", ".join(names) or "the recipe or the base"
            raise InputError(f"{what} of process {rank} differs from that of process 0: copy the same recipe, data and base to all nodes")
        if at != position:
            raise InputError(
                f"the processes found different checkpoints in {out}: all need the same files; put --out on a shared file system"
            )


def _ready(model: nn.Module, recipe: Recipe, stage: Stage, out: Path, resumed: TrainCheckpoint | None, *, writes: bool) -> nn.Module:
    """Prepare the model for a stage: set which weights are trainable and load those of a checkpoint.

    ``writes``: whether this process writes the files of the run. All processes have the same weights.
    """
    base = out / KEPT_BASE
    adapted = hasattr(model, "peft_config")
    if stage.trained_parts:
        train_parts(model, stage.trained_parts)
    elif not adapted:
        before = recipe.stages[: recipe.stages.index(stage)]
        if resumed is not None and any("lora_" in name for name in resumed.weights):
            if before and before[0].trained_parts:
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
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0":
        # The store outlives restarts, without a prefix per attempt: a process can read the address of a dead one and wait for it.
        raise InputError(
            "torchrun --max-restarts shares one store with all attempts, and a restarted process can find the address of a dead one in it: "
            "set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 on every node, and use --rdzv-backend c10d"
        )
    # If the vision tower is trained, text-only batches leave its parameters unused.
    unused = any(stage.trained_parts for stage in recipe.stages) or set((recipe.adapter or Adapter()).targets) != {"language"}
    return Accelerator(
        mixed_precision="bf16" if recipe.precision == "bf16" else "no",
        cpu=not torch.cuda.is_available(),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=unused)],
    )


def _tile_cache(prepared: Prepared, accelerator: Accelerator) -> TileCache | None:
    recipe = prepared.recipe
    if recipe.tile_cache is None:
        return None
    size, cache, problem = int(recipe.tile_cache_gib * 2**30), None, None
    try:
        cache = TileCache(Path(recipe.tile_cache), prepared.base.layout, size, writers=accelerator.num_processes)
    except InputError as error:
        problem = str(error)
    # An error in one process only, as on a node without the folder, would leave the others waiting for it.
    problems = gather_object([problem])
    for rank, found in enumerate(problems):
        if found is not None:
            raise InputError(f"process {rank}: {found}" if len(problems) > 1 else found)
    return cache


def _records(
    out: Path, recipe: Recipe, position: TrainPosition, files: contextlib.ExitStack
) -> list[Callable[[StepMetrics | HeldOut], None]]:
    """Open the metrics writers, continuing from ``position``; ``files`` closes them."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out} cannot be created ({error.strerror}): choose another") from error
    written = list(read_metrics(out / "metrics.jsonl"))
    metrics = MetricsFile(out / "metrics.jsonl", total_steps=position.total_steps)
    past = list(read_metrics(metrics.path))
    listeners: list[Callable[[StepMetrics | HeldOut], None]] = [metrics.add]
    if recipe.event_files:
        listeners.append(files.enter_context(tensorboard_writer(out / FOLDER, past)))
    return [*listeners, *(files.enter_context(tracker_writer(name, recipe, out, written, past)) for name in recipe.remote_trackers)]
