"""Writing a file whole or not at all."""

import errno
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from chiron.errors import DiskError


def write_atomically(path: Path, lines: Iterable[str]) -> None:
    """Write a file that only its owner may read, whole or not at all.

    Raises:
        DiskError: the disk took it not; what was there before is still there.
    """
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.writelines(lines)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise unwritten(path, error) from error


def unwritten(path: Path, error: OSError) -> DiskError:
    """What to say of a file that could not be written, and how to mend it."""
    full = error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG}
    mend = "free space on its disk" if full else "see that it is a place where you may write a file"
    return DiskError(f"{path} cannot be written ({error.strerror or error}): {mend}, and run the same command again")
