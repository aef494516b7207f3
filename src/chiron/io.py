"""Read and write files: atomic files and folders, lock files, JSON Lines."""

import errno
import glob
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

from filelock import FileLock, Timeout

from chiron.errors import DiskError, InputError

_log = logging.getLogger(__name__)
_LEFTOVER = re.compile(r"\..+\.(?:jsonl?|html|md|yaml|csv|tsv)\.(?:(\d+)\.)?[a-z0-9_]{8}")
"""Matches temporary files of :func:`write_atomically`: target name, process id, random suffix. Older versions omitted the process id."""
_CANNOT_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES}
_OLD = 3600.0
"""Age in seconds after which a temporary file without a process id counts as a leftover."""


def write_atomically(path: Path, lines: Iterable[str]) -> None:
    """Write a file atomically, readable by its owner only.

    Raises:
        DiskError: writing failed; the existing file is unchanged.
    """
    with writing(path), _replacing(path, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _replacing(
    path: Path, mode: str, prefix: str | None = None, *, encoding: str | None = None, errors: str | None = None
) -> Iterator[IO[Any]]:
    """Open a temporary file, readable by its owner only, that takes the place of ``path`` when the block ends without an error."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=prefix if prefix is not None else f".{path.name}.{os.getpid()}.")
    try:
        with os.fdopen(handle, mode, encoding=encoding, errors=errors) as file:
            yield file
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Flush a file, or a folder's list of its files, to disk.

    Raises:
        OSError: the disk is full or fails.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some file systems cannot sync a folder. Others report only here that they are full.
        if error.errno not in _CANNOT_SYNC:
            raise
    finally:
        os.close(handle)


def write_bytes(path: Path, *parts: bytes | memoryview, prefix: str = ".") -> None:
    """Write a file atomically, readable by its owner only, without waiting for the disk.

    ``prefix``: beginning of the temporary file's name.

    Raises:
        OSError: writing failed; the existing file is unchanged.
    """
    with _replacing(path, "wb", prefix) as file:
        file.writelines(parts)


FIGURE_FORMATS = ("svg", "png", "pdf")


def write_figure(figure: Any, path: Path) -> None:
    """Write a figure of matplotlib atomically; its format is the file's suffix. Equal figures give equal files, without a date.

    Raises:
        InputError: the suffix is not in :data:`FIGURE_FORMATS`.
        DiskError: the file cannot be written.
    """
    from matplotlib import rc_context

    form = path.suffix.lower().removeprefix(".")
    if form not in FIGURE_FORMATS:
        raise InputError(f"{path}: a figure is written as .svg, .png or .pdf: name one of them")
    metadata = {"png": None, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[form]
    # Fixed salt: otherwise the ids within an SVG are random.
    with writing(path), _replacing(path, "wb") as file, rc_context({"svg.hashsalt": "coverage"}):
        figure.savefig(file, format=form, dpi=150, metadata=metadata)


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files that killed processes left in a folder. Call it when a process starts."""
    with suppress(OSError):  # an unusable folder is reported by the code that needs it
        for path in folder.iterdir():
            if (match := _LEFTOVER.fullmatch(path.name)) is not None and _is_leftover(path, match[1]):
                path.unlink(missing_ok=True)
                _log.info("removed a temporary file that a killed process left: %s", path)


def _is_leftover(path: Path, pid: str | None) -> bool:
    about = path.lstat()
    if not stat.S_ISREG(about.st_mode):
        return False
    if pid is None:
        return time.time() - about.st_mtime > _OLD
    if int(pid) == os.getpid():
        return True  # left by an earlier process with the same id: this one has not written here yet
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:
        pass
    return False


def unwritten(path: Path, error: OSError) -> DiskError:
    """Return the error for a file that cannot be written, with advice on how to fix it."""
    full = error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG}
    fix = "free space on its disk" if full else "check that you may write there"
    return DiskError(f"{path} cannot be written ({error.strerror or error}): {fix}, then run the same command again")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Translate errors of the disk while the block writes ``path``.

    Raises:
        DiskError: writing failed; see :func:`unwritten`.
    """
    try:
        yield
    except OSError as error:
        raise unwritten(path, error) from error


_MODE = 0o600


@contextmanager
def alone(lock: Path, *, place: str, busy: str, wait: float = 0.0) -> Iterator[None]:
    """Hold a lock file while the block runs; create its folder if missing.

    Args:
        lock: lock file.
        place: what the lock protects, for error messages, such as ``run directory x``.
        busy: error message if another process holds the lock.
        wait: seconds to wait for the other process.

    Raises:
        InputError: another process holds the lock, or the folder cannot be created or written.
    """
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{place} cannot be created ({error.strerror}): choose another") from error
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
    """Return whether another process holds the lock now."""
    try:
        with FileLock(lock, mode=_MODE).acquire(timeout=0):
            return False
    except Timeout:
        return True
    except OSError:
        return False  # without write permission here, no run of this user can hold it


MAX_LINE = 2**28
"""Maximum size in bytes of a line of JSON: more than any row with its images inside."""
_T = TypeVar("_T")


class BrokenJson:
    """Data that is not valid JSON, and why."""

    def __init__(self, problem: str) -> None:
        """Store ``problem``: what is wrong and how to fix it, in one line."""
        self.problem = problem


class JsonLine(NamedTuple):
    number: int
    """From 1, counting blank lines."""
    offset: int
    """Byte offset of the line in the file."""
    value: Any
    """Parsed value, or :class:`BrokenJson`."""


def parse_json(data: bytes) -> Any:
    r"""Parse UTF-8 JSON, with or without a byte order mark; return :class:`BrokenJson` if that fails.

    A lone surrogate (``"\ud800"``) is valid JSON, although it cannot be encoded as UTF-8 again.
    """
    try:
        return json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return BrokenJson(f"not UTF-8 text (byte {error.start} of the line): save the file as UTF-8")
    except json.JSONDecodeError as error:
        return BrokenJson(f"broken JSON at column {error.colno}: {error.msg}")
    except RecursionError:
        return BrokenJson("JSON that is nested too deeply")
    except ValueError as error:  # for example, an integer of thousands of digits
        return BrokenJson(f"broken JSON: {error}")


def read_jsonl(path: Path, *, hint: str = "") -> Iterator[JsonLine]:
    """Yield the lines of a JSON Lines file that are not blank.

    Args:
        path: file to read, one line at a time.
        hint: text appended to the error if the file cannot be read.

    Raises:
        InputError: the file cannot be read, or a line is longer than ``MAX_LINE``.
    """
    try:
        with path.open("rb") as file:
            offset = 0
            # Binary, split at \n only: str.splitlines also splits at U+2028 and similar characters, which JSON text may contain.
            for number, line in enumerate(iter(lambda: file.readline(MAX_LINE + 1), b""), start=1):
                if len(line) > MAX_LINE:
                    raise InputError(f"{path}, line {number} is longer than {MAX_LINE // 2**20} MiB: is it the right file?")
                if line.strip():
                    yield JsonLine(number, offset, parse_json(line.rstrip(b"\r\n")))
                offset += len(line)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}){hint}") from error


def parse_jsonl(path: Path, parse: Callable[[Any], _T], kind: str, fix: str, *, hint: str = "") -> Iterator[_T]:
    """Convert each line with ``parse``; see :func:`read_jsonl` and :func:`parse_line` for arguments and errors."""
    return (parse_line(path, line, parse, kind, fix) for line in read_jsonl(path, hint=hint))


def parse_line(path: Path, line: JsonLine, parse: Callable[[Any], _T], kind: str, fix: str) -> _T:
    """Convert a line of a JSON Lines file with ``parse``.

    Args:
        path: the file, for error messages.
        line: line of the file.
        parse: converts a JSON value; may raise what a missing key or a value of the wrong type raises.
        kind: what a line is, for error messages, such as ``row of a dataset``.
        fix: what to do about an unusable line, for error messages.

    Raises:
        InputError: the line is unusable; the message has file and line.
    """
    if isinstance(line.value, BrokenJson):
        raise InputError(f"{path}, line {line.number}: not a {kind} ({line.value.problem}): {fix}")
    try:
        return parse(line.value)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{path}, line {line.number}: not a {kind} ({type(error).__name__}: {error}): {fix}") from error


@contextmanager
def new_folder(out: Path, *, mark: str, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``out`` if the block succeeds and is deleted otherwise.

    The temporary folder is on the same disk as ``out``. The next call removes what a killed process left behind. Replacing takes two
    renames. If a process is killed between them, the old folder keeps a temporary name and the next call restores it first.

    Args:
        out: final folder.
        mark: file that identifies a folder of this kind; folders without it are never replaced.
        replace: whether ``out`` may already exist.

    Raises:
        InputError: ``out`` exists, another process is creating it, or its parent cannot be written.
        DiskError: the disk is full.
    """
    out = Path(os.path.abspath(out))  # noqa: PTH100 - do not follow a link: replace it
    prefix, old = f".{out.name}.partial-", out.parent / f".{out.name}.old"
    busy = f"{out} is being written by another process: wait for it, or choose another --out"
    with alone(out.parent / f".{out.name}.lock", place=f"folder {out}", busy=busy), writing(out):
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
            shutil.rmtree(old, ignore_errors=True)  # the new folder is in place; the next call removes any rest of the old one
        finally:
            shutil.rmtree(work, ignore_errors=True)  # already moved on success; on failure, the original error matters more


def _open_up(folder: Path) -> None:
    """Extend owner-only file permissions to those the umask gives the folder, because the folder is made to be shared."""
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
            _log.warning("restored %s: a process was killed while it was replaced", out)
    for left in out.parent.glob(f"{glob.escape(prefix)}*"):
        shutil.rmtree(left)


def _need_ours(out: Path, mark: str, *, replace: bool) -> None:
    if not replace:
        raise InputError(f"{out} exists: choose another --out, or replace it with --replace")
    if out.is_symlink() or not (out / mark).is_file():
        raise InputError(f"{out} was not written by this command (it has no {mark}): choose another --out")


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as hex.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
