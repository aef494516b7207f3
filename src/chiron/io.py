"""Read and write files: whole-file writes, folders that appear complete, lock files, YAML."""

import errno
import os
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from chiron.errors import DiskError, InputError

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


MOST_BYTES = 2**20
"""Of a file that a person writes by hand."""
_MOST_VALUES = 100_000
"""That a key's value may hold, counting what aliases repeat."""
_NUMBERS = {"tag:yaml.org,2002:int", "tag:yaml.org,2002:float"}


class _Unusable(yaml.MarkedYAMLError):
    """YAML by its grammar, and yet nothing that a person can have meant."""


class _Loader(yaml.SafeLoader):
    """Plain data only, and each key once: YAML's own loader would keep the last one and say nothing."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """A mapping as it is written, before ``<<`` merges others into it (which may well repeat keys)."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if (key.tag, key.value) in seen:
                raise _Unusable(problem=f"the key '{key.value}' stands twice: take one away", problem_mark=key.start_mark)
            seen.add((key.tag, key.value))
        return node

    def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
        """A value; YAML can write half a character, which nothing that is written down later can hold."""
        node = super().compose_scalar_node(anchor)
        if node.tag in _NUMBERS and ":" in node.value:
            raise _Unusable(
                problem=f"{node.value} would be read as a number to the base 60: write one number (in seconds, say), or put it in quotes",
                problem_mark=node.start_mark,
            )
        if not node.value.isascii() and any("\ud800" <= c <= "\udfff" for c in node.value):
            raise _Unusable(problem="half a character (a surrogate) stands in a text: take it away", problem_mark=node.start_mark)
        return node


def read_yaml(path: Path, kind: str, *, hint: str = "") -> Any:
    """What a YAML file holds.

    Args:
        path: the file.
        kind: what it is, for the message: ``configuration``, ``recipe``.
        hint: what else to say where it cannot be read.

    Raises:
        InputError: it cannot be read, or is no YAML.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MOST_BYTES + 1)
        text = raw.decode("utf-8") if len(raw) <= MOST_BYTES else ""
    except (OSError, ValueError) as error:
        raise InputError(f"{kind} {path} cannot be read: {error}{hint}") from error
    if len(raw) > MOST_BYTES:
        raise InputError(f"{kind} {path} is larger than {MOST_BYTES // 2**20} MiB: is it the right file?{hint}")
    try:
        value = yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        where = f", line {error.problem_mark.line + 1}" if error.problem_mark is not None else ""
        raise InputError(f"{kind} {path}{where} is not valid YAML: {' '.join(str(error.problem or error).split())}") from error
    except yaml.YAMLError as error:
        raise InputError(f"{kind} {path} is not valid YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise InputError(f"{kind} {path} is nested too deeply: no {kind} needs more than a few levels") from error
    except (ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        # Tags that their values do not fit (!!bool foo), at which PyYAML stumbles in many ways; dates and numbers that look like some and
        # are none: 2001-99-99, or an integer of five thousand digits.
        raise InputError(f"{kind} {path} holds a value that is none: {error}; put text in quotes") from error
    for key, inner in value.items() if isinstance(value, dict) else [("it", value)]:
        if _is_larger(inner, _MOST_VALUES):
            raise InputError(f"{kind} {path}: '{key}' holds more than {_MOST_VALUES:,} values, counting what its aliases (*name) repeat")
    return value


def _is_larger(value: Any, most: int) -> bool:
    """Whether a value holds more than ``most`` values. Aliases may make it endless."""
    left, waiting = most, [value]
    while waiting:
        one = waiting.pop()
        left -= 1
        if left < 0:
            return True
        waiting.extend([*one.keys(), *one.values()] if isinstance(one, dict) else one if isinstance(one, list | set | tuple) else [])
    return False


@contextmanager
def new_folder(out: Path, *, mark: str, replace: bool = False) -> Iterator[Path]:
    """A temporary folder on the disk of ``out`` that becomes ``out`` if the block ends well, and is gone if it does not.

    What a killed process left behind is cleared away by the next. To replace means two renames: a process killed between them leaves
    the old folder under its temporary name, and the next one puts it back first.

    Args:
        out: the folder to be.
        mark: a file in it by which a folder is known to be one of these; nothing else is ever replaced.
        replace: whether ``out`` may be there already.

    Raises:
        InputError: ``out`` is there, or another process is making it, or its parent cannot be written.
        DiskError: the disk is full.
    """
    out = Path(os.path.abspath(out))  # noqa: PTH100 - a link is replaced, not followed
    prefix, old = f".{out.name}.partial-", out.parent / f".{out.name}.old"
    busy = f"{out} is being made by another process: wait for it, or choose another --out"
    with alone(out.parent / f".{out.name}.lock", place=f"folder {out}", busy=busy):
        try:
            _clear(out, old, prefix)
            if os.path.lexists(out):
                _need_ours(out, mark, replace=replace)
            work = out.parent / f"{prefix}{secrets.token_hex(6)}"
            work.mkdir()
            try:
                yield work
                _open_up(work)
                if out.exists():
                    out.rename(old)
                work.rename(out)
                shutil.rmtree(old, ignore_errors=True)  # the new one is in its place; what is left of the old the next run clears
            finally:
                shutil.rmtree(work, ignore_errors=True)  # moved away if all went well; else an error is under way that says more
        except OSError as error:
            raise unwritten(out, error) from error


def _open_up(folder: Path) -> None:
    """Let files that were written for their owner alone be read by whom the umask lets read the folder: it is made to be given away."""
    mode = folder.stat().st_mode & 0o666
    for place, _, names in os.walk(folder):
        for name in names:
            if (path := Path(place, name)).stat().st_mode & 0o777 == 0o600:
                path.chmod(mode)


def _clear(out: Path, old: Path, prefix: str) -> None:
    if old.exists():
        if out.exists():
            shutil.rmtree(old)
        else:
            old.rename(out)
    for left in out.parent.glob(f"{_literal(prefix)}*"):
        shutil.rmtree(left)


def _need_ours(out: Path, mark: str, *, replace: bool) -> None:
    if not replace:
        raise InputError(f"{out} exists: choose another --out, or replace it with --replace")
    if out.is_symlink() or not (out / mark).is_file():
        raise InputError(f"{out} is no folder that this command wrote (it has no {mark}): choose another --out")


def _literal(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)
