"""Writing a file whole or not at all."""

import errno
import os
import re
import stat
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from chiron.errors import DiskError

_LEFTOVER = re.compile(r"\..+\.(?:jsonl?|html|md|yaml|csv|tsv)\.(?:(\d+)\.)?[a-z0-9_]{8}")
"""What :func:`write_atomically` calls a file until it is whole: the name, the process, something random. Before, without the process."""
_OLD = 3600.0
"""Seconds after which a file that names no process is taken for a leftover."""


def write_atomically(path: Path, lines: Iterable[str]) -> None:
    """Write a file that only its owner may read, whole or not at all.

    Raises:
        DiskError: the disk took it not; what was there before is still there.
    """
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.{os.getpid()}.")
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


def remove_leftovers(folder: Path) -> None:
    """Remove what processes that were killed left of files that they were writing here. Meant for the start of a process's work."""
    with suppress(OSError):  # a folder that cannot be read or written is reported by what works in it
        for path in folder.iterdir():
            if (match := _LEFTOVER.fullmatch(path.name)) is not None and _is_leftover(path, match[1]):
                path.unlink(missing_ok=True)


def _is_leftover(path: Path, pid: str | None) -> bool:
    about = path.lstat()
    if not stat.S_ISREG(about.st_mode):
        return False
    if pid is None:
        return time.time() - about.st_mtime > _OLD
    if int(pid) == os.getpid():
        return True  # of a namesake: this process has written nothing here yet
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:
        pass
    return False


def unwritten(path: Path, error: OSError) -> DiskError:
    """What to say of a file that could not be written, and how to mend it."""
    full = error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG}
    mend = "free space on its disk" if full else "see that it is a place where you may write a file"
    return DiskError(f"{path} cannot be written ({error.strerror or error}): {mend}, and run the same command again")
