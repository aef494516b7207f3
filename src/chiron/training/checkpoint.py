"""Checkpoints: written whole or not at all, with everything that the next step depends on."""

import errno
import json
import os
import pickle
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from chiron.errors import DiskError, InputError

KEPT = 2
"""Checkpoints kept; the older ones go."""
FULL_DISK = (OSError, RuntimeError, SafetensorError)
"""What Python, torch and safetensors raise where a disk takes no more."""
UNREADABLE = (OSError, ValueError, RuntimeError, EOFError, pickle.UnpicklingError, SafetensorError)
"""What they raise at a file that is cut off or damaged."""
_CANNOT_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES}


@dataclass(frozen=True)
class TrainPosition:
    """Where a run stands."""

    stage: int
    """Index into the recipe's stages."""
    step: int
    """Optimizer steps done in it."""
    total_steps: int
    """Done in all stages."""


def save_checkpoint(
    folder: Path, place: TrainPosition, weights: dict[str, Tensor], optimizer: dict[str, Any], randoms: dict[str, Any], run: dict[str, Any]
) -> Path:
    """Write a checkpoint; it gets its name only when all of it is on disk.

    Raises:
        DiskError: the disk took it not; the checkpoints before it are untouched.
    """
    name = f"step-{place.total_steps:08d}"
    target, draft = folder / name, folder / f".{name}.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for broken_off in folder.glob(".step-*"):  # a kill left them, as large as a checkpoint each
            shutil.rmtree(broken_off, ignore_errors=True)
        draft.mkdir()
        save_file({k: v.detach().cpu().contiguous() for k, v in weights.items()}, draft / "weights.safetensors")
        torch.save(optimizer, draft / "optimizer.pt")
        torch.save(randoms, draft / "random.pt")
        (draft / "place.json").write_text(json.dumps({**asdict(place), "run": run}, indent=2) + "\n")
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
class Saved:
    """A checkpoint, read."""

    place: TrainPosition
    weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    randoms: dict[str, Any]
    run: dict[str, Any]


def checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    return sorted(p for p in folder.glob("step-*") if (p / "place.json").is_file())


def load_last(folder: Path) -> Saved | None:
    """The newest checkpoint, ``None`` if there is none.

    Raises:
        InputError: it is damaged.
    """
    found = checkpoints(folder)
    if not found:
        return None
    last = found[-1]
    try:
        about = json.loads((last / "place.json").read_text())
        run = about.pop("run")
        return Saved(
            TrainPosition(**about),
            load_file(last / "weights.safetensors"),
            torch.load(last / "optimizer.pt", map_location="cpu", weights_only=True),
            torch.load(last / "random.pt", map_location="cpu", weights_only=True),
            run,
        )
    except (*UNREADABLE, KeyError, TypeError) as error:
        raise InputError(f"checkpoint {last} is damaged ({error}): remove it, and the one before it is used") from error


def random_states() -> dict[str, Any]:
    """Torch's random states, of the CPU and of the GPU that this process computes on."""
    states: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def restore_random_states(states: dict[str, Any]) -> None:
    """Put them back."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def write_weights(path: Path, weights: dict[str, Tensor]) -> None:
    """Weights as safetensors, whole or not at all.

    Raises:
        DiskError: the disk took it not.
    """
    draft = path.with_name(f".{path.name}.draft")
    try:
        # Tied weights would be refused as sharing memory; each is written for itself.
        save_file({k: v.detach().cpu().contiguous().clone() for k, v in weights.items()}, draft)
        _sync(draft)
        draft.replace(path)
    except FULL_DISK as error:
        draft.unlink(missing_ok=True)
        raise DiskError(f"{path} cannot be written ({error}): free space and run the same command again") from error


def _sync(path: Path) -> None:
    """Bring a file, or a folder and what lies in it, to disk."""
    for one in [*path.iterdir(), path] if path.is_dir() else [path]:
        handle = os.open(one, os.O_RDONLY)
        try:
            os.fsync(handle)
        except OSError as error:
            # Some file systems cannot sync a folder. Others tell only here that they are full.
            if error.errno not in _CANNOT_SYNC:
                raise
        finally:
            os.close(handle)
