"""One process at a time: a lock file that goes free with its process, however that ends."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from chiron.errors import InputError

_MODE = 0o600


@contextmanager
def alone(lock: Path, *, place: str, busy: str, wait: float = 0.0) -> Iterator[None]:
    """Hold a lock file for as long as the block lasts; its folder is made if it is not there.

    Args:
        lock: the file.
        place: what it guards, for errors, such as ``run directory x``.
        busy: the error where another process holds it.
        wait: seconds to wait for that one.

    Raises:
        InputError: another process holds it, or its folder cannot be made or written.
    """
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{place} cannot be made ({error.strerror}): choose another") from error
    held = FileLock(lock, mode=_MODE)
    try:
        held.acquire(timeout=wait)
    except Timeout:
        raise InputError(busy) from None
    except OSError as error:
        raise InputError(f"{place} cannot be written ({error.strerror}): choose another") from error
    try:
        yield
    finally:
        held.release()


def is_held(lock: Path) -> bool:
    """Whether another process holds it right now."""
    try:
        with FileLock(lock, mode=_MODE).acquire(timeout=0):
            return False
    except Timeout:
        return True
    except OSError:
        return False  # not ours to write in, so not ours to run in either
