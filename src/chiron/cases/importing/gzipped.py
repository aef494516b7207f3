"""Files that may be compressed with gzip."""

import gzip
import io
from pathlib import Path
from typing import BinaryIO

MAX_BYTES = 2**30
"""Of a compressed file, unpacked. A small archive can unpack to any size."""


def without_gz(name: str) -> str:
    """A file name without ``.gz`` at its end."""
    return name[:-3] if name.lower().endswith(".gz") else name


def open_unpacked(path: Path) -> BinaryIO:
    """Open a file for reading, unpacked if its name ends in ``.gz``.

    Raises:
        OSError: the file cannot be read, or is not a gzip archive.
        EOFError: the archive is truncated.
        ValueError: it unpacks to more than :data:`MAX_BYTES`.
    """
    if not path.name.lower().endswith(".gz"):
        return path.open("rb")
    with gzip.open(path, "rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"unpacks to more than {MAX_BYTES // 2**20} MiB")
    return io.BytesIO(data)
