"""A folder that appears whole or not at all: made beside its place, under a lock, and moved there when it is done."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chiron.errors import InputError
from chiron.files import unwritten
from chiron.lock import alone


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
