"""Records out of the files in which benchmarks are published: JSON, JSONL, CSV, Parquet, Arrow; one at a time."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chiron.errors import InputError

FORMATS = (".json", ".jsonl", ".csv", ".parquet", ".arrow")
_ROWS_AT_ONCE = 32
"""Of Parquet and Arrow: a row may hold megabytes of images."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """In place of a record: what is wrong with it."""

    problem: str


Record = dict[str, Any] | Unreadable


def read_records(path: Path) -> Iterator[Record]:
    """Every record of a file, told by the file's ending.

    Raises:
        InputError: the file cannot be read as what its name says, or the extra ``eval`` is missing.
    """
    readers = {".json": _json, ".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet, ".arrow": _arrow}
    try:
        for record in readers[path.suffix.lower()](path):
            yield record if isinstance(record, dict | Unreadable) else Unreadable(f"a record is {type(record).__name__}, not an object")
    except KeyError as error:
        if path.suffix.lower() in readers:
            raise
        raise InputError(f"{path}: files of a benchmark end in {', '.join(FORMATS)}") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}): download it again") from error
    except (ValueError, csv.Error, RecursionError) as error:
        raise InputError(
            f"{path} is no readable {path.suffix[1:].upper()} ({' '.join(str(error).split())[:200]}): download it again"
        ) from error


def _json(path: Path) -> Iterator[Any]:
    value = json.loads(path.read_text("utf-8-sig"))
    if isinstance(value, dict):
        # Some put their list under a key ("data", "test"); some have the records by id.
        lists = [v for v in value.values() if isinstance(v, list)]
        value = lists[0] if len(lists) == 1 else [{"id": key, **v} for key, v in value.items() if isinstance(v, dict)]
    if not isinstance(value, list):
        raise InputError(f"{path} holds neither a list nor an object of records")
    yield from value


def _jsonl(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8-sig") as file:
        for line in file:
            if line.strip():
                try:
                    yield json.loads(line)
                except (ValueError, RecursionError) as error:
                    yield Unreadable(f"no JSON: {error}")


def _csv(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        for record in csv.DictReader(file, strict=True):
            # More cells than columns stand under None, missing ones are None.
            yield Unreadable("it has more cells than the header has columns") if None in record else record


def _parquet(path: Path) -> Iterator[Any]:
    parquet = _pyarrow("parquet")
    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE):
            yield from batch.to_pylist()


def _arrow(path: Path) -> Iterator[Any]:
    """What ``datasets`` writes: a stream; others write files."""
    pyarrow, ipc = _pyarrow(), _pyarrow("ipc")
    with pyarrow.memory_map(str(path)) as source:
        try:
            batches: Any = ipc.open_stream(source)
        except pyarrow.ArrowInvalid:
            opened = ipc.open_file(source)
            batches = (opened.get_batch(number) for number in range(opened.num_record_batches))
        for batch in batches:
            for start in range(0, batch.num_rows, _ROWS_AT_ONCE):
                yield from batch.slice(start, _ROWS_AT_ONCE).to_pylist()


def _pyarrow(part: str = "") -> Any:
    try:
        from importlib import import_module

        return import_module(f"pyarrow.{part}" if part else "pyarrow")
    except ImportError as error:
        raise InputError(f"Parquet and Arrow need pyarrow ({error}): pip install 'chiron-med[eval]'") from error
