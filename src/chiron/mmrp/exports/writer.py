"""Write all exports of a release while rows arrive: JSONL files, and the small files that list them."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

from chiron.mmrp.exports.faults import Faults, internvl_faults, message_faults, trl_faults
from chiron.mmrp.exports.internvl import internvl_meta, internvl_row
from chiron.mmrp.exports.rows import IMAGES, ReleasedRow, chiron_row, llamafactory_entry, llamafactory_row, ms_swift_row
from chiron.mmrp.exports.trl import trl_row
from chiron.mmrp.signals.exports import FORMS, converted, llamafactory_pairs

_FORMATS: Final = {
    "internvl": (internvl_row, internvl_faults),
    "llamafactory": (llamafactory_row, message_faults),
    "ms-swift": (ms_swift_row, message_faults),
    "trl": (trl_row, trl_faults),
}


class Exports:
    """Files of the exports.

    Test rows are only in Parquet and in ``test/``, so that no trainer finds them.
    """

    def __init__(self, folder: Path) -> None:
        """Create the writer; ``folder`` is the release folder."""
        self._folder = folder
        self._files: dict[Path, IO[str]] = {}
        self._counts: dict[str, Counter[str]] = defaultdict(Counter)
        """Number of rows by trainer and file."""

    def __enter__(self) -> Self:
        """Return the writer."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close the files; without an error, also write the files that list them."""
        for file in self._files.values():
            file.close()
        if kind is None:
            self._write_indexes()

    def add(self, row: ReleasedRow) -> None:
        """Write a row in every format.

        Raises:
            AssertionError: an exported row is invalid for its trainer, which is a bug in this program.
        """
        self._line(Path(row.split) / f"{row.part}.jsonl", chiron_row(row))
        if row.split == "test":
            return
        for name, record in _signal_records(row) if row.part in FORMS else _records(row):
            self._counts[name][f"{row.part}-{row.split}"] += 1
            self._line(Path("exports") / name / f"{row.part}-{row.split}.jsonl", record)

    def _line(self, path: Path, record: dict[str, Any]) -> None:
        file = self._files.get(path)
        if file is None:
            target = self._folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            file = self._files[path] = target.open("w", encoding="utf-8", errors="backslashreplace")
        file.write(json.dumps(record, ensure_ascii=False) + "\n")

    def _write_indexes(self) -> None:
        metas: dict[str, dict[str, Any]] = defaultdict(dict)
        for name, rows in self._counts["internvl"].items():
            part, _, split = name.rpartition("-")
            # A process reward model is trained apart from conversations.
            meta = "meta" + (f"_{part}" if part in FORMS else "") + ("_validation" if split == "validation" else "")
            metas[meta][f"mmrp-{name}"] = internvl_meta(f"exports/internvl/{name}.jsonl", rows)
        for meta, entries in metas.items():
            self._json(Path("exports/internvl") / f"{meta}.json", entries)
        info = {
            f"mmrp-{name}": (llamafactory_pairs if name.startswith("preferences-") else llamafactory_entry)(f"{name}.jsonl")
            for name in self._counts["llamafactory"]
        }
        self._json(Path("exports/llamafactory/dataset_info.json"), info)

    def _json(self, path: Path, value: dict[str, Any]) -> None:
        (self._folder / path).parent.mkdir(parents=True, exist_ok=True)
        (self._folder / path).write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _records(row: ReleasedRow) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a conversation in the form of every trainer, with the trainer's name."""
    for name, (make, faults) in _FORMATS.items():
        record = make(row)
        _need_right(name, row.id, record, faults)
        yield name, record


def _signal_records(row: ReleasedRow) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a training signal in the form of every trainer that has one, with the trainer's name."""
    for form in FORMS[row.part]:
        # LLaMA-Factory resolves paths from its dataset_dir; the other trainers are started in the release.
        root = f"../../{IMAGES}" if form.trainer == "llamafactory" else IMAGES
        yield form.trainer, converted(form, row, [f"{root}/{image.name}" for image in row.images])


def _need_right(name: str, row: str, record: dict[str, Any], faults: Faults) -> None:
    if found := next(faults(record), None):
        raise AssertionError(f"row {row} as {name}: {found}")
