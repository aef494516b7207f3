"""Training checkpoints with everything needed to resume, and the identity of the run that may."""

import hashlib
import json
import logging
import os
import pickle
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from chiron.errors import DiskError, InputError
from chiron.io import file_sha256, sync
from chiron.training.recipe import Recipe

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


_UNHASHED: dict[str, Any] = {
    **dict.fromkeys(("workers", "checkpoint_every", "checkpoint_minutes", "micro_batch_size", "tensorboard", "trackers", "shard"), True),
    **dict.fromkeys(("gradient_checkpointing", "compile", "tile_cache", "tile_cache_gib"), True),
    "stages": {"__all__": {"answers", "answer_tokens"}},
}
"""Keys of a recipe that do not change the final weights."""
_LATER: dict[str, Any] = {"system": None, "loss_weighting": "token", "quantization": None}
_LATER_IMAGES: dict[str, Any] = {"max_tiles_per": "row", "max_pixels": None, "longest_edge": None}
_LATER_ADAPTER: dict[str, Any] = {"targets": ["language"], "rslora": False, "dora": False}
_LATER_STAGE: dict[str, Any] = {"learning_rates": {}, "keep_best": False, "patience": None}
"""Newer keys with their defaults. Only other values are hashed, so that runs of an earlier version can be resumed."""


def run_identity(recipe: Recipe, data: dict[str, str]) -> RunIdentity:
    """Hash everything that determines the final weights. ``data``: SHA-256 of every data file, by file name.

    Folders that the recipe names count by their content, not by their path.
    """
    settings = recipe.model_dump(mode="json", exclude=_UNHASHED)
    # Checkpoints of earlier versions were hashed with these names.
    for name, hashed in (("max_seq_length", "sequence"), ("base_stages", "earlier")):
        settings[hashed] = settings.pop(name)
    if settings["attention"] == "auto":  # earlier versions had no other default
        settings["attention"] = "sdpa"
    for stage in settings["stages"]:
        stage["train"] = stage.pop("trainable")
        if stage["objective"] == "sft":
            del stage["objective"], stage["beta"]
        if not stage["keep_best"] and stage["patience"] is None:
            del stage["held_out_every"]  # measurements alone change no weight
        _drop(stage, _LATER_STAGE)
    _drop(settings, _LATER)
    _drop(settings["images"], _LATER_IMAGES)
    _drop(settings["adapter"] or {}, _LATER_ADAPTER)
    if recipe.scratch is not None:
        settings["scratch"]["tokenizer"] = _digest(Path(recipe.scratch.tokenizer))
    elif recipe.base is not None and Path(recipe.base).is_dir():
        settings["base"] = _digest(Path(recipe.base))
    # Earlier versions built steps of rows from packed lines. Such a run cannot be resumed, because the steps differ.
    planned = ["steps of exactly so many rows"] if any(stage.batch.rows for stage in recipe.stages) else []
    text = json.dumps([settings, data, *planned], sort_keys=True)
    return {"recipe": recipe.name, "data": data, "sha256": hashlib.sha256(text.encode()).hexdigest()}


def _drop(values: dict[str, Any], usual: dict[str, Any]) -> None:
    """Remove the keys that have their usual value."""
    for key, value in usual.items():
        if key in values and values[key] == value:
            del values[key]


def _digest(folder: Path) -> str:
    """Return the SHA-256 of a checkpoint's weights, settings and tokenizer."""
    paths = sorted(p for p in folder.iterdir() if p.suffix in {".json", ".safetensors"})
    return hashlib.sha256("".join(f"{path.name} {file_sha256(path)}\n" for path in paths).encode()).hexdigest()


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
