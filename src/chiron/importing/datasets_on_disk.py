"""Import a saved Hugging Face dataset or a folder of Parquet files, one case per row, with images in the rows or in files."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from chiron.errors import InputError
from chiron.extras import need
from chiron.importing.columns import map_columns
from chiron.importing.drafts import Draft, ImportOptions, LeaveOut, LeftOut, SourceReading
from chiron.importing.phi_filter import Pseudonyms
from chiron.importing.rows import entry_of, row_pictures
from chiron.importing.source import files_under
from chiron.importing.tables import TableImages, draft_of

_ROWS = 16
"""Rows per batch. Keep it small, because a row may hold many megabytes of images."""


def read_dataset(source: Path, options: ImportOptions, pseudonyms: Pseudonyms) -> SourceReading:
    """Read draft cases from a dataset.

    Raises:
        InputError: the dataset cannot be read, lacks a requested column or split, or has no known fields.
    """
    parts = _parquet(source) if source.is_file() or not _saved(source) else _arrow(source)
    if options.split is not None:
        names = ", ".join(name for name, *_ in parts)
        parts = [part for part in parts if part[0] == options.split]
        if not parts:
            raise InputError(f"{source} has no split '{options.split}' (there are {names})")
    maps = [map_columns(columns, options.columns, f"{source}, split '{name}'") for name, columns, *_ in parts]
    for found, (name, columns, *_) in zip(maps, parts, strict=True):
        if not {"images", "id"} & set(found.places):
            raise InputError(
                f"{source}, split '{name}': no column of images (there are {', '.join(columns)}): name one with --map images=..."
            )
    root = options.images or (source if source.is_dir() else source.parent)
    files = TableImages(root, fallback=options.images is None, hidden=options.keep_ids is False)

    def items() -> Iterator[Draft | LeftOut]:
        for found, (name, _, _, rows, labels) in zip(maps, parts, strict=True):
            for number, row in enumerate(rows, start=1):
                place = f"{source.name}, split '{name}', row {number}"
                try:
                    entry, images = entry_of(found, row, place, labels)
                    pictures = partial(row_pictures, images, files)
                    yield draft_of(entry, f"{name}-{number:06d}", pictures, options, pseudonyms)
                except LeaveOut as reason:
                    yield LeftOut(place, None, reason.why, str(reason))

    return SourceReading(items(), sum(count for _, _, count, *_ in parts), tuple(dict.fromkeys(found.words() for found in maps)))


Part = tuple[str, list[str], int, Iterator[dict[str, Any]], dict[str, list[str]]]
"""Split: name, columns, number of rows, iterator of rows with images undecoded, and class names by column."""


def _saved(source: Path) -> bool:
    return (source / "dataset_info.json").is_file() or (source / "dataset_dict.json").is_file()


def _arrow(source: Path) -> list[Part]:
    datasets = need("datasets", "a dataset on disk")
    try:
        loaded = datasets.load_from_disk(str(source))
    except Exception as error:
        # The libraries raise many exception types on damaged datasets.
        raise InputError(f"{source} is not a readable dataset ({type(error).__name__}): save it again with save_to_disk") from error
    splits = loaded if isinstance(loaded, datasets.DatasetDict) else {str(loaded.split or "train"): loaded}

    def rows(split: Any) -> Iterator[dict[str, Any]]:
        # The "arrow" format leaves images as bytes and paths.
        for table in split.with_format("arrow").iter(batch_size=_ROWS):
            yield from table.to_pylist()

    return [(str(name), list(split.column_names), len(split), rows(split), _class_names(split.features)) for name, split in splits.items()]


def _parquet(source: Path) -> list[Part]:
    parquet = need("pyarrow.parquet", "a Parquet file")
    paths = [source] if source.is_file() else [p for p in files_under(source) if p.suffix.lower() == ".parquet"]
    splits: dict[str, list[Path]] = {}
    for path in paths:
        splits.setdefault(re.split(r"[-.]", path.stem)[0], []).append(path)
    parts: list[Part] = []
    for name, files in splits.items():
        try:
            opened = [parquet.ParquetFile(path) for path in files]
            columns = list(opened[0].schema_arrow.names)
            count = sum(file.metadata.num_rows for file in opened)
        except Exception as error:
            raise InputError(f"{files[0]} is not a readable Parquet file ({type(error).__name__}): download it again") from error

        def rows(opened: Sequence[Any] = opened) -> Iterator[dict[str, Any]]:
            for file in opened:
                for batch in file.iter_batches(batch_size=_ROWS):
                    yield from batch.to_pylist()

        parts.append((name, columns, count, rows(), _stored_class_names(opened[0].schema_arrow.metadata)))
    return parts


def _class_names(features: Mapping[str, Any]) -> dict[str, list[str]]:
    return {str(column): list(feature.names) for column, feature in features.items() if type(feature).__name__ == "ClassLabel"}


def _stored_class_names(metadata: Mapping[bytes, bytes] | None) -> dict[str, list[str]]:
    """Return the class names that ``datasets`` stores in a Parquet file; empty if another program wrote the file."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        labels = {column: feature["names"] for column, feature in features.items() if feature.get("_type") == "ClassLabel"}
        return {column: [str(name) for name in names] for column, names in labels.items()}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}
