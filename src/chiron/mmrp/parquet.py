"""Write Parquet files that ``datasets`` loads with images and types, a few rows at a time."""

from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any, Final

from chiron.errors import InputError
from chiron.extras import install_command
from chiron.mmrp.exports.export import ReleasedRow
from chiron.mmrp.row import Part

GROUP_BYTES: Final = 16 * 2**20
"""Bytes of images per row group; several times this is held in memory, and a reader must load a group at once."""
SHARD_BYTES: Final = 256 * 2**20
"""Approximate bytes of images per file."""
GROUP_ROWS: Final = 1000


def features(part: Part | None = None) -> Any:
    """Return the columns as :class:`datasets.Features`, with those of a part's training signal.

    Raises:
        InputError: ``datasets`` is not installed.
    """
    try:
        from datasets import Features, Image, List, Value
    except ModuleNotFoundError as error:
        raise InputError(f"a release needs the package '{error.name}': {install_command('data')}") from error
    text = Value("string")
    return Features(
        {
            "id": text,
            "part": text,
            "case_id": text,
            "group": text,
            "images": List(Image()),
            "messages": List({"role": text, "content": text}),
            "question": text,
            "answer": text,
            "options": List(text),
            "reasoning": text,
            "findings": List(text),
            "modalities": List(text),
            "body_system": text,
            "difficulty": Value("float64"),
            "depth": Value("int32"),
            "order": Value("int64"),
            "weight": Value("float64"),
            "licence": text,
            "provenance": {
                "run": text,
                "calls": List(text),
                "prompts": List({"name": text, "sha256": text}),
                "models": List({"role": text, "model": text}),
                "review": {
                    "status": text,
                    "edited_steps": List(Value("int32")),
                    "edited_answer": Value("bool"),
                    "reviewers": Value("int32"),
                    "adjudicated": Value("bool"),
                    "path_sha256": text,
                },
            },
            **signal_features(part),
        }
    )


def signal_features(part: Part | None) -> dict[str, Any]:
    """Return the columns of a part's training signal; ``{}`` if it has none."""
    from datasets import List, Value

    text, number, count, yes = Value("string"), Value("float64"), Value("int32"), Value("bool")
    place = {"depth": count, "attempt": count}
    columns: dict[Part, dict[str, Any]] = {
        "preferences": {
            "rejected": text, "completion": text, "chosen_score": number, "rejected_score": number, "chosen_mentor": text,
            "rejected_mentor": text, "prefix_steps": count, **place,
        },
        "rewards": {
            "units": List(text), "scores": List(number), "labels": List(yes), "threshold": number, "answered": List(count),
            "mentor": text, "whole_path": yes, "human_labels": List(text), **place,
        },
        "rl": {"pass_rate": number, "answered": count},
        "reflections": {
            "wrong": text, "reason": text, "wrong_score": number, "right_score": number, "wrong_mentor": text, "right_mentor": text,
            "asked": text, "prefix_steps": count, **place,
        },
    }  # fmt: skip
    return {"signal": columns[part]} if part in columns else {}


def parquet_row(row: ReleasedRow, images: list[bytes]) -> dict[str, Any]:
    """Convert a row to the columns of :func:`features`; ``images`` are the bytes of its image files."""
    record: Mapping[str, Any] = row.record
    by = record["provenance"]
    same = ("question", "answer", "options", "reasoning", "findings", "modalities", "body_system", "difficulty", "depth", "licence")
    return {
        **{key: record[key] for key in same},
        **({"signal": record["signal"]} if record.get("signal") else {}),
        "id": row.id,
        "part": row.part,
        "case_id": str(record["case_id"]),
        "group": row.group,
        "images": [{"bytes": data, "path": image.name} for image, data in zip(row.images, images, strict=True)],
        "messages": [{"role": turn.role, "content": turn.text} for turn in row.turns],
        "order": row.order,
        "weight": row.weight,
        "provenance": {
            # Only the folder's name, because the path may contain names of people.
            "run": PurePath(by["run"]).name,
            "calls": by["calls"],
            "prompts": [{"name": name, "sha256": sha} for name, sha in sorted(by["prompts"].items())],
            "models": [{"role": role, "model": model} for role, model in sorted(by["models"].items())],
            "review": by.get("review"),
        },
    }


class ParquetShards:
    """Writer of ``FOLDER/SPLIT-00000.parquet`` and so on, for the rows of one part and split."""

    def __init__(self, folder: Path, split: str, part: Part) -> None:
        """Create the writer; files appear with the first row."""
        import pyarrow as pa

        self._folder, self._split = folder, split
        # The schema contains the features as metadata, which tell "datasets" that a struct of bytes is an image.
        self._schema: pa.Schema = features(part).arrow_schema
        self._writer: Any = None
        self._rows: list[dict[str, Any]] = []
        self._bytes = self._shard_bytes = self._shards = 0
        self.count = 0
        """Number of rows written."""

    def add(self, row: ReleasedRow, images: list[bytes]) -> None:
        self._rows.append(parquet_row(row, images))
        self._bytes += sum(map(len, images))
        self.count += 1
        if self._bytes >= GROUP_BYTES or len(self._rows) >= GROUP_ROWS:
            self._flush()

    def close(self) -> None:
        """Write the buffered rows and close the file."""
        if self._rows:
            self._flush()
        self._end()

    def _flush(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self._writer is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / f"{self._split}-{self._shards:05d}.parquet"
            # Images are already compressed, which zstd detects quickly; text shrinks by half.
            self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")
            self._shards += 1
        self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._shard_bytes += self._bytes
        self._rows, self._bytes = [], 0
        if self._shard_bytes >= SHARD_BYTES:
            self._end()

    def _end(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer, self._shard_bytes = None, 0
