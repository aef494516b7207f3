"""Find the run directories under the given folders."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from chiron.errors import ChironError, InputError
from chiron.jobs.directory import LEDGER, RUN, WorkDirectory

Kind = Literal["search", "build", "evaluation", "training", "release", "unknown"]
METRICS, PROVENANCE = "metrics.jsonl", "provenance.json"
SAMPLES = "samples.jsonl"
_MARKS = {RUN, LEDGER, METRICS, PROVENANCE}
"""A folder that contains one of these files is a run."""
_INSIDE = {"images", "checkpoints", "model", "adapter", "tensorboard", "exports", "run_images"}
"""Folders that never contain runs and may contain very many files."""
_DEEPEST = 8
_MOST_FOLDERS = 20_000
"""Maximum number of folders that are searched for runs."""


@dataclass(frozen=True)
class Place:
    """A directory that looks like a run."""

    id: str
    """Short hash of its path, for addresses. Addresses never contain a path."""
    path: Path
    name: str
    """Path relative to the folder above the given one."""


def need_folders(folders: Sequence[Path]) -> None:
    """Check that the given folders exist.

    Raises:
        InputError: one does not.
    """
    for folder in folders:
        if not os.path.isdir(folder):
            raise InputError(f"folder {folder} does not exist: name a folder that contains runs")


def find_places(folders: Sequence[Path]) -> list[Place]:
    """Return the run directories under the folders, by path. Links to folders are not followed."""
    found: dict[Path, Place] = {}
    left = [_MOST_FOLDERS]
    for folder in folders:
        root = Path(os.path.realpath(folder))
        for path in _walk(root, 0, left):
            name = str(path.relative_to(root.parent)) if path != root.parent else path.name
            found.setdefault(path, Place(hashlib.sha256(os.fsencode(path)).hexdigest()[:12], path, name))
    return [found[path] for path in sorted(found)]


def _walk(folder: Path, depth: int, left: list[int]) -> Iterator[Path]:
    left[0] -= 1
    try:
        with os.scandir(folder) as entries:
            listed = list(entries)
    except OSError:
        return  # a folder that cannot be entered contains no run for this user
    if any(entry.name in _MARKS for entry in listed):
        yield folder
    if depth == _DEEPEST:
        return
    for entry in sorted(listed, key=lambda entry: entry.name):
        if left[0] <= 0:
            return
        if not entry.name.startswith(".") and entry.name not in _INSIDE and entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path), depth + 1, left)


def kind_of(path: Path) -> tuple[Kind, str]:
    """Return what a run directory contains, and why that is unknown; the reason is empty if it is known."""
    try:
        run = WorkDirectory(path).read_run() or {}
    except ChironError as problem:
        return "unknown", str(problem)
    return (kind, "") if (kind := _kind(path, run)) != "unknown" else ("unknown", _unknown(path))


def _kind(path: Path, run: dict[str, Any]) -> Kind:
    identity = run.get("identity")
    identity = identity if isinstance(identity, dict) else {}
    if "part" in identity or "part" in run:
        return "build"
    if "mentors" in identity:
        return "search"
    if "protocol" in identity or "model" in run:
        return "evaluation"
    if (path / METRICS).is_file():
        return "training"
    return "release" if (path / PROVENANCE).is_file() else "unknown"


def _unknown(path: Path) -> str:
    if not (path / RUN).is_file():
        return f"{path} has a {LEDGER} but no {RUN}: put {RUN} back, or run its command again"
    return f"{path / RUN} does not say what the run is: it may be of another version of chiron"
