"""Batches as files next to the ledger: which calls were sent, under which ID they are found again, and the results that came back."""

import json
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from chiron.client.call import Call, Reply
from chiron.errors import DiskError, InputError
from chiron.io import sync, write_atomically, writing

FOLDER = "batches"
"""Folder next to the ledger."""
IMAGES = "images"
"""Folder within it, with records of the images that were uploaded on their own."""
DELETED = "deleted"
"""How a batch ended that the provider no longer has."""
COMPLETED = "completed"
"""How a batch ended whose requests all ran."""
_RECORDS = "[!.]*.json"
_MAX_LINE = 64 * 2**20
"""Maximum size of one result in bytes; a longer line counts as damaged."""


@dataclass
class BatchRecord:
    """Content of ``batches/NAME.json``. It is written before the upload, and again after each step."""

    name: str
    """Unique; the provider stores it with the batch."""
    model: str
    """Configured name of the model."""
    address: str
    """Address of the provider, or the folder of the files."""
    keys: list[str]
    """Keys of the calls, in the order of the requests."""
    created: float
    """Seconds since the epoch."""
    uploading: bool = False
    """Whether the requests may have been uploaded although their ID is unknown."""
    input_id: str | None = None
    """The provider's ID of the uploaded requests."""
    newest: str | None = None
    """The provider's newest batch before this one was created; ``None`` if unknown, and empty if it had none."""
    creating: bool = False
    """Whether the batch may have been created although its ID is unknown."""
    batch_id: str | None = None
    """The provider's ID of the batch."""
    ended: str | None = None
    """How the batch ended, in the provider's word."""
    discarded: bool = False
    """Whether the provider's copies of requests and results are deleted, or a message said that it does not delete them."""


@dataclass(frozen=True, slots=True)
class OpenBatch:
    """A batch that is not collected yet, for people who look at its run."""

    name: str
    """The provider's ID of the batch, or its own name before the provider has given one."""
    model: str
    calls: int
    created: float
    """Seconds since the epoch."""
    ended: str | None
    """How it ended at the provider, in the provider's word; ``None`` before its end is known."""

    @property
    def words(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M %z", time.localtime(self.created))
        ended = f", {self.ended}" if self.ended else ""
        return f"batch {self.name} of model '{self.model}': {self.calls:,} {'call' if self.calls == 1 else 'calls'}, since {since}{ended}"


@dataclass(frozen=True, slots=True)
class BatchStatus:
    """State of a batch at the provider."""

    done: int
    total: int
    ended: str | None = None
    """The provider's word for the end; ``None`` while it runs."""
    refused: str | None = None
    """Why the provider runs no request of this batch, without words of prompts."""
    later: bool = False
    """Whether a refused batch is accepted later: the provider's queue is full."""


class BatchService(Protocol):
    """One provider's batches of requests to one model. Coroutines raise ``CallFailed`` if the provider does not answer or refuses."""

    address: str
    max_requests: int
    """Maximum number of requests of one batch."""
    is_online: bool
    """Whether the provider also answers single calls."""
    unbilled: Collection[str]
    """Ends of a batch after which a request without a result surely costs nothing."""
    max_bytes: int
    """Maximum size of the requests of one batch."""

    saved_bytes: int
    """Bytes that requests are smaller because they refer to images."""

    @property
    def image_record(self) -> Path | None:
        """The record of images that were uploaded on their own."""

    def open(self, folder: Path, model: str) -> None:
        """Read what earlier processes have stored in the folder of the batches. ``model``: configured name.

        Raises:
            InputError: it cannot be read.
        """

    async def discard_images(self) -> None:
        """Delete the images that were uploaded on their own. Called once no batch needs them."""

    async def request(self, call: Call) -> bytes:
        """Return the line of the call in the file of requests, without its end.

        Raises:
            CallFailed: the request cannot be made.
        """

    async def submit(self, batch: "Batch") -> None:
        """Send the batch unless it was sent. Save the record after each step, so that this can be repeated after any interruption."""

    async def poll(self, batch: "Batch") -> BatchStatus:
        """Return the state of a batch that was sent."""

    async def download(self, batch: "Batch", to: Path) -> None:
        """Write the results of a batch that ended to a file, in any order."""

    def command(self, batch: "Batch") -> str:
        """Return the shell command that the user has to run for this batch; empty if there is none."""

    async def discard(self, batch: "Batch") -> None:
        """Delete the provider's copies of requests and results."""

    def head(self, result: Mapping[str, Any]) -> tuple[object, bool]:
        """Return the key in a line of the results, and whether the line is an answer."""

    def read(self, call: Call, result: bytes) -> Reply:
        """Parse one result.

        Raises:
            CallFailed: the call got no answer.
        """


class Batch:
    """One batch and its files."""

    def __init__(self, folder: Path, record: BatchRecord) -> None:
        """``folder``: the folder of all batches of a run."""
        self.folder, self.record = folder, record
        self.requests = folder / f"{record.name}.requests.jsonl"
        self.results = folder / f"{record.name}.results.jsonl"
        self.status = BatchStatus(0, len(record.keys))
        self.number = 0
        """Number within the run, for messages."""
        self._places: dict[str, tuple[int, bool]] | None = None
        """Start of each call's line in the results, and whether it is an answer; ``None`` before the batch has ended."""

    def save(self) -> None:
        write_atomically(self.folder / f"{self.record.name}.json", [json.dumps(asdict(self.record)) + "\n"])

    @property
    def is_read(self) -> bool:
        """Whether the results are known."""
        return self._places is not None

    def read_results(self, service: BatchService) -> None:
        """Read the results of an earlier process."""
        self._places = self.places_in(self.results, service)

    def keep_results(self, path: Path, places: dict[str, tuple[int, bool]]) -> None:
        """Keep a downloaded file as the results. They are on the disk afterwards, so the provider's copy may be deleted.

        Raises:
            OSError: writing failed.
        """
        sync(path)
        path.replace(self.results)
        sync(self.folder)
        self._places = places

    def places_in(self, path: Path, service: BatchService) -> dict[str, tuple[int, bool]]:
        """Find the line of each call in a file of results: its start, and whether it is an answer.

        An answer is preferred to an error; lines that are damaged or of other calls are ignored.
        """
        places: dict[str, tuple[int, bool]] = {}
        known = set(self.record.keys)
        for start, line in _lines(path):
            value = _decoded(line)
            key, answered = service.head(value) if isinstance(value, dict) else (None, False)
            if isinstance(key, str) and key in known and (key not in places or (answered and not places[key][1])):
                places[key] = (start, answered)
        return places

    def answered(self) -> list[str]:
        """Return the keys of the calls with an answer."""
        return [key for key, (_, answered) in (self._places or {}).items() if answered]

    def result(self, key: str) -> bytes | None:
        """Return a call's line of the results; ``None`` if it has none.

        Raises:
            InputError: the file cannot be read.
        """
        place = (self._places or {}).get(key)
        if place is None:
            return None
        try:
            with self.results.open("rb") as file:
                file.seek(place[0])
                return file.readline(_MAX_LINE)
        except OSError as error:
            raise InputError(f"{self.results} cannot be read ({error.strerror}): restore it, and run the same command again") from error

    def remove(self) -> None:
        # The record is last: without it, the others are deleted at the next start.
        for path in (self.requests, self.results, self.folder / f"{self.record.name}.json"):
            path.unlink(missing_ok=True)


def missing_requests(batch: Batch) -> DiskError:
    """Return the error for a batch whose requests are not on disk and may not have been sent."""
    return DiskError(
        f"{batch.requests} is missing, and its requests were not sent yet: restore it, or delete {batch.record.name}.json next to"
        " it; then run the same command again"
    )


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a file with their start."""
    with path.open("rb") as file:
        start = 0
        while line := file.readline(_MAX_LINE):
            yield start, line
            start += len(line)


def _decoded(line: bytes) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


class RequestFile:
    """The file of requests of a new batch, while it is written. Methods raise ``DiskError`` if that fails."""

    def __init__(self, folder: Path, name: str) -> None:
        """Create the file, readable by its owner only."""
        self.folder, self.name = folder, name
        self.keys: list[str] = []
        self.size = 0
        self._kept = False
        self._path = folder / f"{name}.requests.jsonl"
        with writing(self._path):
            folder.mkdir(mode=0o700, exist_ok=True)
            self._path.touch(mode=0o600)
            self._file = self._path.open("ab")

    def add(self, key: str, line: bytes) -> None:
        with writing(self._path):
            self._file.write(line + b"\n")
        self.keys.append(key)
        self.size += len(line) + 1

    def fits(self, line: bytes, service: BatchService) -> bool:
        """Return whether the batch stays within the provider's limits with one more request."""
        return len(self.keys) < service.max_requests and self.size + len(line) + 1 <= service.max_bytes

    def abandon(self) -> None:
        """Close the file, and delete it unless it belongs to a batch."""
        self._file.close()
        if not self._kept:
            self._path.unlink(missing_ok=True)

    def close(self, model: str, address: str) -> Batch:
        """Close the file and write the record of the batch."""
        with writing(self._path):
            self._file.close()
        batch = Batch(self.folder, BatchRecord(self.name, model, address, self.keys, time.time()))
        batch.save()
        self._kept = True
        return batch


def read_open_batches(run: Path) -> list[OpenBatch]:
    """Return the batches of a run that are not collected yet, oldest first. No file is changed.

    Raises:
        InputError: a record is damaged.
    """
    found = []
    for path in (run / FOLDER).glob(_RECORDS):
        try:
            record = _read_record(path)
        except InputError:
            if path.exists():
                raise
            continue  # collected in this moment
        found.append(OpenBatch(record.batch_id or record.name, record.model, len(record.keys), record.created, record.ended))
    return sorted(found, key=lambda batch: batch.created)


def open_batches(folder: Path) -> list[Batch]:
    """Return the batches of earlier processes, oldest first, and delete files that were not sent.

    Raises:
        InputError: a record is damaged.
    """
    if not folder.is_dir():
        return []
    batches = sorted((Batch(folder, _read_record(path)) for path in folder.glob(_RECORDS)), key=lambda batch: batch.record.created)
    kept = {path for batch in batches for path in (batch.requests, batch.results)}
    for path in folder.glob("*.jsonl*"):
        if path not in kept:
            path.unlink()
    return batches


def _read_record(path: Path) -> BatchRecord:
    damaged = InputError(f"{path} is damaged: restore it, or move it away; its calls are then sent and paid for again")
    try:
        record = BatchRecord(**json.loads(path.read_text("utf-8")))
        is_text = all(isinstance(value, str) for value in (record.model, record.address, *record.keys))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise damaged from error
    if path.name != f"{record.name}.json" or not is_text or not isinstance(record.created, int | float):
        raise damaged
    return record
