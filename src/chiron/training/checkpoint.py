"""Training checkpoints with everything needed to resume, and the export of the trained model."""

import copy
import json
import logging
import os
import pickle
import shutil
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypedDict

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from chiron.errors import DiskError, InputError
from chiron.io import file_sha256, sync, write_atomically
from chiron.providers.local.chat_template import family_template
from chiron.providers.local.checkpoint import write_format
from chiron.providers.local.families.internvl import INTERNVL
from chiron.providers.local.loading import no_bars
from chiron.providers.local.tiling import Tiling, tile_budget
from chiron.training.metrics import held_out_losses, read_metrics
from chiron.training.model import LoadedModel
from chiron.training.packing import StagePlan
from chiron.training.quantization import merge, merge_into_full_precision
from chiron.training.recipe import Recipe, Stage

_log = logging.getLogger(__name__)

KEPT = 2
"""Number of checkpoints to keep; older ones are deleted."""
FULL_DISK = (OSError, RuntimeError, SafetensorError)
"""Errors that Python, torch and safetensors raise if the disk is full."""
UNREADABLE = (OSError, ValueError, RuntimeError, EOFError, pickle.UnpicklingError, SafetensorError)
"""Errors that they raise if a file is truncated or damaged."""
BEST = "best.safetensors"
SUMS = "SHA256SUMS"
"""File with the hashes of a checkpoint's files, as ``sha256sum --check`` reads it."""


class RunIdentity(TypedDict):
    """Identity of a run: a checkpoint is only resumed by a run with the same one."""

    recipe: str
    """Name of the recipe."""
    data: dict[str, str]
    """SHA-256 of every data file, by file name."""
    sha256: str
    """Hash of everything that determines the final weights."""


@dataclass(frozen=True)
class TrainPosition:
    """Progress of a run."""

    stage: int
    """Index into the recipe's stages."""
    step: int
    """Optimizer steps completed in this stage."""
    total_steps: int
    """Optimizer steps completed in all stages."""


def save_checkpoint(
    folder: Path,
    position: TrainPosition,
    weights: dict[str, Tensor],
    optimizer: dict[str, Any],
    randoms: dict[str, Any],
    run: RunIdentity,
    best: dict[str, Tensor] | None = None,
) -> Path:
    """Write a checkpoint to a temporary folder and rename it once it is complete on disk; delete old checkpoints.

    ``best``: weights at the lowest held-out loss so far, if the stage keeps them.

    Raises:
        DiskError: Writing failed. Earlier checkpoints are unchanged.
    """
    name = f"step-{position.total_steps:08d}"
    target, draft = folder / name, folder / f".{name}.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for broken_off in folder.glob(".step-*"):  # left by killed runs; each is as large as a checkpoint
            shutil.rmtree(broken_off, ignore_errors=True)
        draft.mkdir()
        save_file({k: v.detach().cpu().contiguous() for k, v in weights.items()}, draft / "weights.safetensors")
        if best is not None:
            save_file(best, draft / BEST)
        torch.save(optimizer, draft / "optimizer.pt")
        torch.save(randoms, draft / "random.pt")
        (draft / "place.json").write_text(json.dumps({**asdict(position), "run": run}, indent=2) + "\n")
        (draft / SUMS).write_text("".join(f"{file_sha256(path)}  {path.name}\n" for path in sorted(draft.iterdir())))
        _sync(draft)
        shutil.rmtree(target, ignore_errors=True)
        draft.rename(target)
        _sync(folder)
    except FULL_DISK as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise DiskError(f"checkpoint {target} cannot be written ({error}): free space and run the same command again") from error
    # Later checkpoints are damaged ones that this run fell back from.
    keep = [path for path in checkpoints(folder) if path.name <= name][-KEPT:]
    for old in set(checkpoints(folder)) - set(keep):
        shutil.rmtree(old, ignore_errors=True)
    return target


@dataclass(frozen=True)
class TrainCheckpoint:
    """A checkpoint loaded from disk."""

    position: TrainPosition
    weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    randoms: dict[str, Any]
    run: RunIdentity
    best: dict[str, Tensor] | None = None
    """Weights at the lowest held-out loss so far, if the stage keeps them."""


def checkpoints(folder: Path) -> list[Path]:
    """List complete checkpoints, oldest first."""
    return sorted(p for p in folder.glob("step-*") if (p / "place.json").is_file())


def load_last(folder: Path) -> TrainCheckpoint | None:
    """Load the newest checkpoint that is not damaged, and log a warning for each that is; return ``None`` if there are no checkpoints.

    Raises:
        InputError: All checkpoints are damaged.
    """
    found = checkpoints(folder)
    for path in reversed(found):
        try:
            return _load(path)
        except (*UNREADABLE, KeyError, TypeError, AttributeError) as error:
            problem = f"checkpoint {path} is damaged ({' '.join(str(error).split()) or type(error).__name__})"
            if path == found[0]:
                raise InputError(f"{problem}, and there is no other: remove {folder} to start again") from error
            _log.warning("%s: resuming from the one before", problem)
    return None


def _load(folder: Path) -> TrainCheckpoint:
    """Load a checkpoint. Raises one of many errors if it is damaged."""
    if (sums := folder / SUMS).is_file():  # earlier versions wrote none
        for line in sums.read_text().splitlines():
            digest, name = line.split("  ", 1)
            if file_sha256(folder / name) != digest:
                raise ValueError(f"{name} has changed since it was written")
    about = json.loads((folder / "place.json").read_text())
    run = about.pop("run")
    return TrainCheckpoint(
        TrainPosition(**about),
        load_file(folder / "weights.safetensors"),
        torch.load(folder / "optimizer.pt", map_location="cpu", weights_only=True),
        torch.load(folder / "random.pt", map_location="cpu", weights_only=True),
        run,
        load_file(folder / BEST) if (folder / BEST).is_file() else None,
    )


def random_states() -> dict[str, Any]:
    """Return torch's random states of the CPU and of this process's GPU."""
    states: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def restore_random_states(states: dict[str, Any]) -> None:
    """Restore the states that :func:`random_states` returned."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def write_weights(path: Path, weights: dict[str, Tensor]) -> None:
    """Write weights as safetensors, atomically.

    Raises:
        DiskError: Writing failed.
    """
    draft = path.with_name(f".{path.name}.draft")
    try:
        # safetensors rejects tied weights because they share memory, so each is copied.
        save_file({k: v.detach().cpu().contiguous().clone() for k, v in weights.items()}, draft)
        _sync(draft)
        draft.replace(path)
    except FULL_DISK as error:
        draft.unlink(missing_ok=True)
        raise DiskError(f"{path} cannot be written ({error}): free space and run the same command again") from error


def _sync(path: Path) -> None:
    """Flush a file, or a folder and its files, to disk."""
    for one in [*path.iterdir(), path] if path.is_dir() else [path]:
        sync(one)


KEPT_BASE = "base.safetensors"
"""File in the output folder with the weights below the adapter; written if earlier stages trained all weights."""
LIBRARIES = ("chiron-med", "torch", "transformers", "peft", "accelerate", "tokenizers")


def export(model: nn.Module, base: LoadedModel, out: Path, recipe: Recipe, plans: list[StagePlan], hashes: dict[str, str]) -> Path | None:
    """Write ``adapter/`` (if the model has one) and ``model/`` (merged weights, tokenizer, image settings, card) to ``out``.

    Returns the adapter's folder, or None.

    Raises:
        DiskError: Writing failed.
    """
    adapter = out / "adapter" if hasattr(model, "peft_config") else None
    draft = out / ".model"
    try:
        if adapter is not None:
            model.save_pretrained(adapter)  # type: ignore[operator]
            (adapter / "README.md").write_text(card(recipe, base, plans, hashes, out / "metrics.jsonl"))
            if (out / KEPT_BASE).is_file():
                # Earlier stages trained every weight, so the adapter does not fit the base model of the recipe.
                settings = adapter / "adapter_config.json"
                named = json.loads(settings.read_text()) | {"base_model_name_or_path": f"../{KEPT_BASE}"}
                write_atomically(settings, [json.dumps(named, indent=2, sort_keys=True) + "\n"])
            quantized = recipe.quantization is not None
            merged = merge_into_full_precision(recipe, base.family, adapter) if quantized else merge(copy.deepcopy(model))
        else:
            merged = model
        if recipe.precision == "bf16":
            merged = merged.to(torch.bfloat16)
        shutil.rmtree(draft, ignore_errors=True)
        with no_bars():
            merged.save_pretrained(draft, safe_serialization=True)
        family, system = base.family, base.family.system(recipe.system)
        base.tokenizer.chat_template = family_template(family, system)
        base.tokenizer.save_pretrained(draft)
        # Rows contain their own line breaks next to images, so generation adds what they have.
        unset = None if family.default_system is None else "none"
        write_format(draft, base.layout, system or unset, image_separator=INTERNVL.image_separator)
        (draft / "preprocessor_config.json").write_text(json.dumps(base.layout.processor_settings(), indent=2) + "\n")
        (draft / "README.md").write_text(card(recipe, base, plans, hashes, out / "metrics.jsonl"))
        shutil.rmtree(out / "model", ignore_errors=True)
        draft.rename(out / "model")
    except FULL_DISK as error:
        raise DiskError(f"{out / 'model'} cannot be written ({error}): free space and run the same command again") from error
    return adapter


def card(recipe: Recipe, base: LoadedModel, plans: list[StagePlan], hashes: dict[str, str], metrics: Path) -> str:
    """Write the model card: recipe, hashes of the data, versions and losses."""
    losses = {name: f"{loss:.4f}" for name, loss in held_out_losses(metrics, recipe.best_stages).items()}
    steps = {line["stage"]: line["step"] for line in read_metrics(metrics) if "loss" in line}  # fewer than planned after early stopping
    rows = "\n".join(
        f"| {p.stage.name} | {_trained(p.stage)} | {p.stage.objective} | {p.rows:,} | {(done := steps.get(p.stage.name, p.steps)):,} |"
        f" {p.epochs * done / p.steps:.2f} | {p.stage.learning_rate:g} | {losses.get(p.stage.name, '-')} |"
        for p in plans
    )
    data = "\n".join(f"- `{name}` sha256 `{digest}`" for name, digest in hashes.items())
    versions = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    settings = json.dumps(recipe.model_dump(mode="json", exclude={"scratch"}), indent=2)
    return f"""---
tags: [medical, vision-language, chain-of-thought]
---
# {recipe.name}

For research. Not a medical device.

Base: {recipe.base or "from scratch"}. Versions: {versions}.

| stage | trained | objective | rows | steps | epochs | learning rate | held-out loss |
|---|---|---|---|---|---|---|---|
{rows}

Data:
{data}

{serving(recipe, base)}
Recipe:
```json
{settings}
```
"""


def _trained(stage: Stage) -> str:
    return stage.trainable if isinstance(stage.trainable, str) else ", ".join(stage.trainable)


_SERVING = """## Serving it

`chiron` with `provider: local` prompts this model as in training, by the settings in `chiron.json`. For other programs:

- The chat template puts nothing next to an image, as in training. Send texts and images in the order of the row, line breaks included.
"""
_SHARED = """- Training shared {most} tiles among the images of a row; `preprocessor_config.json` alone gives {most} to every image. Pass
  the number with each request: `max_patches = max(1, {most} // number of images)`. {budgets}
  - transformers: `processor(text=..., images=..., images_kwargs={{"max_patches": N}})`
  - vLLM: `vllm serve FOLDER --trust-request-mm-kwargs`, only if you trust all clients (before vLLM 0.31 without this option), and in
    every request `"mm_processor_kwargs": {{"max_patches": N}}`
  - chiron: `{{provider: openai, base_url: ..., model: ..., serves: {{max_tiles: {most}, max_tiles_per: row}}}}` sends it
"""


def serving(recipe: Recipe, base: LoadedModel) -> str:
    """Section of the card on how to serve the model with the same inputs as in training."""
    images = recipe.images
    text = _SERVING
    if base.family.system(recipe.system) is not None:
        text += "- The chat template adds the system message of training if a conversation has none.\n"
    if not isinstance(base.layout, Tiling):
        text += f"- {base.layout.served}, as in training; no argument is needed.\n"
        return text
    if images.max_tiles_per == "image":
        text += f"- Every image gets up to {images.max_tiles} tiles, as in training; no argument is needed.\n"
    elif images.max_tiles > 1:
        budgets = ", ".join(f"{n} images: {tile_budget(n, images.tiling)}" for n in range(2, images.max_tiles + 1))
        text += _SHARED.format(most=images.max_tiles, budgets=f"({budgets}.)")
    if not images.thumbnail and images.max_tiles > 1:
        text += "- Training showed no thumbnail. The image processor of transformers adds one to every image of several tiles.\n"
    return text
