"""Write rows in the formats of ``chiron train`` and of other trainers: JSONL files, and the small files that list them."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from chiron.io import write_atomically
from chiron.mmrp.exports.export import Export, ReleasedImage, ReleasedRow, exports, messages, rejected
from chiron.mmrp.row import CONVERSATIONS, ROWS, read_rows


class Exports:
    """Files of a release's exports, written while rows arrive.

    Test rows are only in Parquet and in ``test/``, so that no trainer finds them.
    """

    def __init__(self, folder: Path) -> None:
        """Create the writer; ``folder`` is the release folder."""
        self._folder = folder
        self._files: dict[Path, IO[str]] = {}
        self._counts: dict[str, Counter[str]] = defaultdict(Counter)
        """Number of rows by export and ``PART-SPLIT``."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close the files; without an error, also write the files that list them."""
        for file in self._files.values():
            file.close()
        if kind is None:
            _write_indexes(self._folder / "exports", self._counts)

    def add(self, row: ReleasedRow) -> None:
        """Write a row in the formats of all trainers that read its part.

        Raises:
            AssertionError: an exported row is invalid for its trainer, which is a bug in the export.
        """
        self._line(Path(row.split) / f"{row.part}.jsonl", chiron_row(row))
        if row.split == "test":
            return
        file = f"{row.part}-{row.split}"
        for name, export in exports().items():
            if (record := export.line(row)) is not None:
                self._counts[name][file] += 1
                self._line(Path("exports") / name / f"{file}.jsonl", record)

    def _line(self, path: Path, record: dict[str, Any]) -> None:
        file = self._files.get(path)
        if file is None:
            target = self._folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            file = self._files[path] = target.open("w", encoding="utf-8", errors="backslashreplace")
        file.write(json.dumps(record, ensure_ascii=False) + "\n")


def _write_indexes(folder: Path, counts: Mapping[str, Mapping[str, int]]) -> None:
    for name, rows in counts.items():
        for file_name, value in exports()[name].index(rows).items():
            (folder / name / file_name).write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")


def chiron_row(row: ReleasedRow) -> dict[str, Any]:
    """Convert to ``{"id", "images": [relative to images/], "messages": [{"role", "content"}]}``, the format of ``chiron train``.

    A preference pair has ``prompt``, ``chosen`` and ``rejected`` in place of ``messages``. Step rewards have only ``prompt``, so that no
    stage learns to write the bad steps. The other fields of a signal are added.
    """
    record: dict[str, Any] = {"id": row.id, "images": [image.name for image in row.images], **row.record.get("signal", {})}
    if row.part not in {"preferences", "rewards"}:
        return {**record, "messages": messages(row.turns)}
    *prompt, chosen = row.turns
    record["prompt"] = messages(prompt)
    return record if row.part == "rewards" else {**record, "chosen": messages([chosen]), "rejected": messages([rejected(row)])}


def export_signal(directory: Path, images: Path) -> None:
    """Write the rows of a signal for every trainer to ``exports/TRAINER/PART.jsonl``, with the absolute paths of the images.

    All rows are written; ``chiron build release`` divides them into splits and adds the formats that need the sizes of images.

    Raises:
        InputError: ``rows.jsonl`` cannot be read.
        DiskError: a file cannot be written.
        AssertionError: a row is invalid for its trainer, which is a bug in the export.
    """
    first = next(read_rows(directory / ROWS), None)
    if first is None or first.part in CONVERSATIONS:
        return
    for name, export in exports().items():
        form = export.signals.get(first.part)
        if form is None or form.sized:
            continue
        folder = directory / "exports" / name
        folder.mkdir(parents=True, exist_ok=True)
        written = Counter[str]()
        write_atomically(folder / f"{first.part}.jsonl", _signal_lines(directory, images, export, written))
        _write_indexes(directory / "exports", {name: written})


def _signal_lines(directory: Path, images: Path, export: Export, written: Counter[str]) -> Iterator[str]:
    for order, row in enumerate(read_rows(directory / ROWS)):
        there = tuple(ReleasedImage(name, 0, 0) for name in row.images)
        released = ReleasedRow(row.id, row.part, "train", there, row.turns, row.to_record(), group="", order=order, weight=1.0)
        record = export.line(released, [str((images / name).resolve()) for name in row.images])
        written[row.part] += 1
        yield json.dumps(record, ensure_ascii=False) + "\n"
