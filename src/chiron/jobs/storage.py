"""Copies of workers' ledgers: their storage (a shared folder, or an object store through fsspec), and what a killed run left there."""

import json
import posixpath
import sqlite3
import tempfile
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from os.path import relpath
from pathlib import Path
from typing import Any

from chiron.client.broker import open_leases
from chiron.client.ledger import Ledger
from chiron.client.ledger_merge import MergingLedger
from chiron.client.ledger_store import explained
from chiron.errors import DiskError, InputError
from chiron.extras import need
from chiron.io import write_atomically
from chiron.jobs.directory import WorkDirectory
from chiron.jobs.slurm import need_ended

COPIES, LEASES, WORKERS = "copies", "leases.sqlite", "workers.json"
"""In a run directory while workers run its job: copies (by default), leases, and the URL of the storage."""
_SUFFIX = ".sqlite"
PROBE = ".probe"
"""Suffix of the file by which a worker knows the storage."""
_LEAST = 1e-9
"""USD; less is a rounding error."""


class Storage:
    """One folder of a file system that fsspec knows. Methods raise ``DiskError`` if it cannot be read or written."""

    def __init__(self, url: str) -> None:
        """``url``: a path, or a URL such as ``s3://bucket/folder``.

        Raises:
            InputError: fsspec, or the package for this kind of URL, is not installed, or the URL is invalid.
        """
        self.url = url
        fsspec: Any = need("fsspec", "storage for copies of ledgers", "ray")
        try:
            self._fs, self._root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError, OSError) as error:
            raise InputError(f"--storage {url} cannot be used ({error}): name a shared folder or a URL that fsspec can open") from error

    def put(self, local: Path, name: str) -> None:
        """Store a file. A reader never sees half of it."""
        partial = self._path(f".{name}.partial")
        with self._explained("written"):
            if "file" in self._fs.protocol:
                # Ledgers contain patient data: only their owner may read them.
                Path(self._root).mkdir(mode=0o700, parents=True, exist_ok=True)
            else:
                self._fs.makedirs(self._root, exist_ok=True)
            self._fs.put_file(str(local), partial)
            self._fs.mv(partial, self._path(name))

    def get(self, name: str, local: Path) -> bool:
        """Fetch a file. Returns whether it exists."""
        with self._explained("read"):
            if not self._fs.exists(self._path(name)):
                return False
            self._fs.get_file(self._path(name), str(local))
            return True

    def copies(self) -> list[str]:
        """Return the names of the stored ledgers."""
        with self._explained("read"):
            self._fs.invalidate_cache()
            found = self._fs.ls(self._root, detail=False) if self._fs.exists(self._root) else []
        names = (posixpath.basename(str(path)) for path in found)
        return sorted(name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX) and not name.startswith("."))

    def copies_of(self, part: str) -> list[str]:
        """Return the names of the copies that attempts to run a part (``RUN-PART``) stored, oldest attempt first."""
        return sorted((name for name in self.copies() if part_of(name) == part), key=attempt_of)

    def put_ledger(self, ledger: Path, name: str) -> None:
        """Store a complete copy of a ledger that may be in use."""
        copy = ledger.with_name("copy.sqlite")
        copy.unlink(missing_ok=True)
        with explained(ledger), closing(sqlite3.connect(ledger)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
        self.put(copy, name + _SUFFIX)
        copy.unlink()

    def put_replies(self, ledger: Path, keys: Iterable[str], name: str) -> None:
        """Store a ledger with some replies of another one, which cost it nothing."""
        with tempfile.TemporaryDirectory() as folder:
            local = Path(folder) / "ledger.sqlite"
            with Ledger.open(local) as some:
                some.copy_calls_from(ledger, keys)
            self.put_ledger(local, name)

    def get_ledger(self, name: str, local: Path) -> bool:
        """Fetch the copy of a ledger. Returns whether there is one."""
        return self.get(name + _SUFFIX, local)

    def delete(self, name: str) -> None:
        """Delete the copy of a ledger if it exists."""
        self.remove(name + _SUFFIX)

    def remove(self, name: str) -> None:
        """Delete a file if it exists."""
        with self._explained("written"):
            if self._fs.exists(self._path(name)):
                self._fs.rm_file(self._path(name))

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # each file system has its own errors
            raise DiskError(f"storage {self.url} cannot be {what} ({error}): check its address and permissions, and run again") from error

    def _path(self, name: str) -> str:
        return posixpath.join(self._root, name)


def part_of(name: str) -> str:
    """Return the name of the part (``RUN-PART``) from that of an attempt to run it (``RUN-PART-ATTEMPT``)."""
    return name.rpartition("-")[0]


def attempt_of(name: str) -> int:
    """Return the number of an attempt from its name."""
    return int(name.rpartition("-")[2])


def spent_in_copy(storage: Storage, name: str | None) -> float:
    """Return the USD that the copy of a ledger has as spent; 0 without a copy."""
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / "ledger.sqlite"
        if name is None or not storage.get_ledger(name, local):
            return 0.0
        with Ledger.read(local) as ledger:
            return ledger.spent_usd()


def begin_parts(folder: Path, storage: Storage, leases: Path | None = None) -> str:
    """Record that workers run the job of a directory, for :func:`recover_parts`. Returns a new prefix for the names of its parts.

    The storage gets a file ``PREFIX.probe``, by which a worker knows that it sees the same storage. ``leases``: directory of the leases and
    of Slurm's scripts, if several jobs share them.
    """
    run = uuid.uuid4().hex[:8]
    with tempfile.NamedTemporaryFile() as empty:
        storage.put(Path(empty.name), run + PROBE)
    # Relative, because the run may be moved, or mounted elsewhere on the machine that merges.
    url = None if storage.url == str(folder / COPIES) else storage.url
    record = {"storage": url, "run": run, "leases": relpath((leases or folder).resolve(), folder.resolve())}
    write_atomically(folder / WORKERS, [json.dumps(record) + "\n"])
    return run


def recover_parts(directory: WorkDirectory) -> frozenset[str] | None:
    """Merge what workers left in the storage, and count the leases that no ledger accounts for. Does nothing if no workers ran the job.

    Returns the keys of the calls that several processes paid for; ``None`` if an earlier process merged some or all of the parts.

    Raises:
        InputError: the storage cannot be read, a copy is damaged, or Slurm still runs a part of the job.
        DiskError: writing failed.
    """
    mark = directory.path / WORKERS
    if not mark.is_file():
        return None
    record = json.loads(mark.read_text("utf-8"))
    leases, is_booked = (directory.path.resolve() / record.get("leases", "")).resolve(), bool(record.get("booked"))
    need_ended(leases)
    storage, booked, twice = Storage(record["storage"] or str(directory.path / COPIES)), defaultdict[str, float](float), set[str]()
    with MergingLedger.open(directory.ledger) as into, tempfile.TemporaryDirectory() as folder:
        merged: list[str] = []
        run = record.get("run", "")  # other runs may use the same storage
        for name in (name for name in storage.copies() if name.startswith(run)):
            local = Path(folder) / f"{name}{_SUFFIX}"
            storage.get_ledger(name, local)
            part = part_of(name)
            spent, also_paid = merge_part(local, into)
            booked[part] = max(booked[part], spent)
            twice |= also_paid
            merged.append(name)
        for lease in (lease for lease in open_leases(leases / LEASES) if lease.holder.startswith(run)):
            usd = lease.usd if lease.lost else lease.usd - booked[part_of(lease.holder)]
            # Without the copies that a killed process deleted, "booked" lacks what they account for.
            into.book_lost(lease.holder, usd if usd > _LEAST and not is_booked else 0.0)
    write_atomically(mark, [json.dumps({**record, "booked": True}) + "\n"])
    for file in directory.path.glob(f"{LEASES}*"):
        file.unlink()
    # Only now: a copy says how much of a lease is accounted for, also to the next process if this one is killed.
    for name in merged:
        storage.delete(name)
    storage.remove(run + PROBE)
    for file in [path for path in (directory.path / COPIES).glob("*") if path.suffix != _SUFFIX]:
        file.unlink()  # the token of the killed process, or half a copy
    with suppress(OSError):  # another storage was used, or it has a new copy of a worker that is still ending
        (directory.path / COPIES).rmdir()
    mark.unlink()
    return None if is_booked else frozenset(twice)


def merge_part(part: Path, into: MergingLedger) -> tuple[float, frozenset[str]]:
    """Merge a worker's ledger. Returns the USD that it has as spent, and the keys of calls that other parts had paid for too."""
    merged = into.merge(part, part=True)
    with Ledger.read(part) as ledger:
        return ledger.spent_usd(), merged.twice
