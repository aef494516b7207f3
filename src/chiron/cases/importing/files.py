"""The files of a source: listed in order, without links that lead out of it."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from chiron.errors import InputError


def files_under(folder: Path, skip: Path | None = None) -> Iterator[Path]:
    """Every plain file under a folder, in the order of names; hidden ones, ``skip`` and links out of the folder are passed over.

    Raises:
        InputError: the folder, or one in it, cannot be listed.
    """
    fence = os.path.realpath(folder)
    skipped = os.path.realpath(skip) if skip is not None else None

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename} cannot be listed: {error.strerror}")

    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and os.path.realpath(os.path.join(place, f)) != skipped)
        for name in sorted(names):
            path = Path(place, name)
            inside = not path.is_symlink() or os.path.realpath(path).startswith(fence + os.sep)
            if not name.startswith(".") and inside and path.is_file():
                yield path


@dataclass(frozen=True, slots=True)
class State:
    """What files look like from outside; an edited file looks different."""

    files: int
    size: int
    """Bytes."""
    digest: str
    """SHA-256 (hex) of names, sizes and times of change."""


def state_of(sources: Iterable[Path], skip: Path) -> State:
    """Look at files, and at all files under folders, without reading them."""
    digest, files, size = hashlib.sha256(), 0, 0
    for source in sources:
        for path in files_under(source, skip) if source.is_dir() else (source,):
            about = path.stat()
            digest.update(f"{path}\0{about.st_size}\0{about.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
            files, size = files + 1, size + about.st_size
    return State(files, size, digest.hexdigest())


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
