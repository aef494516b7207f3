"""Training checkpoints: written atomically, with everything needed to resume."""

import errno
import json
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

KEPT = 2
"""Number of checkpoints to keep; older ones are deleted."""
FULL_DISK = (OSError, RuntimeError, SafetensorError)
"""Errors that Python, torch and safetensors raise if the disk is full."""
UNREADABLE = (OSError, ValueError, RuntimeError, EOFError, pickle.UnpicklingError, SafetensorError)
"""Errors that they raise if a file is truncated or damaged."""
_CANNOT_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES}


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
) -> Path:
    """Write a checkpoint to a temporary folder and rename it once it is complete on disk; delete old checkpoints.

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
        torch.save(optimizer, draft / "optimizer.pt")
        torch.save(randoms, draft / "random.pt")
        (draft / "place.json").write_text(json.dumps({**asdict(position), "run": run}, indent=2) + "\n")
        _sync(draft)
        shutil.rmtree(target, ignore_errors=True)
        draft.rename(target)
        _sync(folder)
    except FULL_DISK as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise DiskError(f"checkpoint {target} cannot be written ({error}): free space and run the same command again") from error
    for old in checkpoints(folder)[:-KEPT]:
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


def checkpoints(folder: Path) -> list[Path]:
    """List complete checkpoints, oldest first."""
    return sorted(p for p in folder.glob("step-*") if (p / "place.json").is_file())


def load_last(folder: Path) -> TrainCheckpoint | None:
    """Load the newest checkpoint; return ``None`` if there are no checkpoints.

    Raises:
        InputError: The checkpoint is damaged.
    """
    found = checkpoints(folder)
    if not found:
        return None
    last = found[-1]
    try:
        about = json.loads((last / "place.json").read_text())
        run = about.pop("run")
        return TrainCheckpoint(
            TrainPosition(**about),
            load_file(last / "weights.safetensors"),
            torch.load(last / "optimizer.pt", map_location="cpu", weights_only=True),
            torch.load(last / "random.pt", map_location="cpu", weights_only=True),
            run,
        )
    except (*UNREADABLE, KeyError, TypeError) as error:
        raise InputError(f"checkpoint {last} is damaged ({error}): remove it to resume from the one before") from error


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
        handle = os.open(one, os.O_RDONLY)
        try:
            os.fsync(handle)
        except OSError as error:
            # Some file systems cannot sync a folder. Others report only here that they are full.
            if error.errno not in _CANNOT_SYNC:
                raise
        finally:
            os.close(handle)
