"""Write all exports of a release while rows arrive: JSONL files, and the small files that list them."""

import json
from collections import Counter, defaultdict
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from chiron.mmrp.exports.export import ReleasedRow, exports, messages


class Exports:
    """Files of the exports.

    Test rows are only in Parquet and in ``test/``, so that no trainer finds them.
    """

    def __init__(self, folder: Path) -> None:
        """Create the writer; ``folder`` is the release folder."""
        self._folder = folder
        self._files: dict[Path, IO[str]] = {}
        self._counts: dict[str, Counter[str]] = defaultdict(Counter)
        """Number of rows by export and ``PART-SPLIT``."""

    def __enter__(self) -> Self:
        """Return the writer."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close the files; without an error, also write the files that list them."""
        for file in self._files.values():
            file.close()
        if kind is None:
            for name, counts in self._counts.items():
                for file_name, value in exports()[name].index(counts).items():
                    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
                    (self._folder / "exports" / name / file_name).write_text(text, "utf-8")

    def add(self, row: ReleasedRow) -> None:
        """Write a row in every format.

        Raises:
            AssertionError: an exported row is invalid for its trainer, which is a bug in the export.
        """
        self._line(Path(row.split) / f"{row.part}.jsonl", chiron_row(row))
        if row.split == "test":
            return
        file = f"{row.part}-{row.split}"
        for name, export in exports().items():
            record = export.row(row)
            if (fault := next(export.faults(record), None)) is not None:
                raise AssertionError(f"row {row.id} as {name}: {fault}")
            self._counts[name][file] += 1
            self._line(Path("exports") / name / f"{file}.jsonl", record)

    def _line(self, path: Path, record: dict[str, Any]) -> None:
        file = self._files.get(path)
        if file is None:
            target = self._folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            file = self._files[path] = target.open("w", encoding="utf-8", errors="backslashreplace")
        file.write(json.dumps(record, ensure_ascii=False) + "\n")


def chiron_row(row: ReleasedRow) -> dict[str, Any]:
    """Convert to ``{"id", "images": [relative to images/], "messages": [{"role", "content"}]}``, the format of ``chiron train``."""
    return {"id": row.id, "images": [image.name for image in row.images], "messages": messages(row)}
