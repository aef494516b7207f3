"""Convert dataset rows and JSON records, including conversations, to case fields, and import saved datasets and Parquet folders."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from chiron.cases.choices import parse_literal, read_options
from chiron.errors import InputError
from chiron.extras import need
from chiron.importing.columns import ColumnMap, map_columns
from chiron.importing.phi_filter import Pseudonyms, named
from chiron.importing.source import Draft, DraftImage, ImportOptions, LeaveOut, LeftOut, SourceReading, Why, files_under
from chiron.importing.tables import Entry, TableImages, draft_of
from chiron.importing.writer import suffix_of


def entry_of(
    columns: ColumnMap, row: Mapping[str, Any], place: str, labels: Mapping[str, Sequence[str]] | None = None
) -> tuple[Entry, list[Any]]:
    """Return a row's values by field, and its images in their original form.

    Args:
        columns: column positions by field.
        row: values by column.
        place: location of the row, for messages.
        labels: class names by column, for columns that hold class numbers.

    Raises:
        LeaveOut: a value has the wrong type for its field.
    """
    texts: dict[str, str] = {}
    images: list[Any] = []
    options: tuple[str, ...] = ()
    for field, at in columns.places.items():
        values = [_named_class(row.get(columns.header[i]), (labels or {}).get(columns.header[i])) for i in at]
        if field == "images":
            images = [image for value in values for image in _images_in(value)]
        elif field == "options":
            options = options_of(values)
        else:
            texts[field] = "\n\n".join(text for value in values if value is not None and (text := _text(value, field)))
    values = [row.get(columns.header[i]) for i in columns.identifiers]
    return Entry(place, texts, (), named(values), options), images


def _named_class(value: Any, names: Sequence[str] | None) -> Any:
    if names is None or isinstance(value, bool) or not isinstance(value, int):
        return value
    return names[value] if 0 <= value < len(names) else None  # -1 means that the class is unknown


def _images_in(value: Any) -> list[Any]:
    value = parse_literal(value) if isinstance(value, str) else value
    return [image for image in (value if isinstance(value, list) else [value]) if image not in (None, "")]


def options_of(values: Sequence[Any]) -> tuple[str, ...]:
    """Return options from one value that lists them, or from one value per option.

    Raises:
        LeaveOut: the values are not options.
    """
    given = [value for value in values if value is not None]
    try:
        return read_options(given[0] if len(values) == 1 and given else [str(value) for value in given])
    except ValueError as problem:
        raise LeaveOut(Why.RECORD, str(problem)) from problem


def _text(value: Any, field: str) -> str:
    if isinstance(value, list) and all(isinstance(v, str) for v in value):
        if field in {"question", "answer"} and len(value) > 1:
            raise LeaveOut(Why.RECORD, f"field '{field}' is a list of {len(value)} texts: give one {field}")
        return "\n\n".join(value)
    if isinstance(value, str | int | float):
        return str(value).strip()
    raise LeaveOut(Why.RECORD, f"field '{field}' is not text: name another column with --map {field}=...")


def row_pictures(images: list[Any], files: TableImages, case_id: str, under: str, group: str) -> tuple[DraftImage, ...]:
    """Return a row's images: embedded bytes if it has any, else files, found as for a table."""
    inside = [image["bytes"] for image in images if isinstance(image, dict) and isinstance(image.get("bytes"), bytes)]
    paths = [path for image in images if isinstance(path := image.get("path") if isinstance(image, dict) else image, str)]
    if not inside:
        return files.pictures(paths, case_id, under, group)
    if len(inside) != len(images):
        raise LeaveOut(Why.IMAGE, "only some of its images are stored in the row")
    pictures = []
    for number, data in enumerate(inside):
        name = f"{number}{suffix_of(data, f'image {number + 1} of the row')}"
        pictures.append(DraftImage("/".join(p for p in (under, group, name) if p), partial(bytes, data)))
    return tuple(pictures)


_LISTS = ("conversations", "conversation", "messages")
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "model": "assistant", "system": "system"}
_IMAGE_MARK = "<image>"
SEVERAL = "conversations of several exchanges, of which only the first was imported"


def is_conversation(record: Mapping[str, Any]) -> bool:
    """Return whether a record holds a list of turns."""
    return any(isinstance(record.get(name), list) for name in _LISTS)


def unrolled(record: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """Convert a conversation to ``question`` and ``answer``; return the record and whether it has further exchanges.

    Images within the turns become ``images``, unless the record has its own ``images``.

    Raises:
        LeaveOut: the role of a turn is not user, assistant or system.
    """
    name = next((name for name in _LISTS if isinstance(record.get(name), list)), None)
    if name is None:
        return _instruction(record), False
    rest = {key: value for key, value in record.items() if key != name}
    images: list[Any] = []
    turns = [_turn(turn, name, images) for turn in record[name]]
    question = next((at for at, (role, _) in enumerate(turns) if role == "user"), None)
    answer = next((at for at, (role, _) in enumerate(turns) if role == "assistant" and question is not None and at > question), None)
    if question is not None:
        rest["question"] = _without_marks(turns[question][1])
    if answer is not None:
        rest["answer"] = turns[answer][1]
    if images:
        rest.setdefault("images", images)
    return rest, sum(role == "user" for role, _ in turns) > 1


def _instruction(record: Mapping[str, Any]) -> dict[str, Any]:
    """Join the instruction and its input, if the record has both."""
    if not (isinstance(record.get("instruction"), str) and isinstance(given := record.get("input"), str)):
        return {key: _without_marks(value) if key in {"question", "query", "instruction"} else value for key, value in record.items()}
    rest = {key: value for key, value in record.items() if key not in {"instruction", "input"}}
    return {**rest, "question": _without_marks("\n".join(text for text in (record["instruction"], given) if text.strip()))}


def _turn(turn: Any, where: str, images: list[Any]) -> tuple[str, str]:
    if not isinstance(turn, Mapping):
        raise LeaveOut(Why.RECORD, f"field '{where}' must be a list of turns: objects with role and content, or from and value")
    role = _ROLES.get(str(turn.get("role", turn.get("from"))).casefold())
    if role is None:
        raise LeaveOut(Why.RECORD, f"field '{where}' has a turn that is not of a user, an assistant or a system")
    content = next((turn[key] for key in ("content", "value", "text") if key in turn), "")
    return role, content if isinstance(content, str) else "".join(_parts(content, where, images))


def _parts(content: Any, where: str, images: list[Any]) -> Iterator[str]:
    """Yield the text parts of a turn; append its image paths to ``images``."""
    if not isinstance(content, list) or not all(isinstance(part, Mapping) for part in content):
        raise LeaveOut(Why.RECORD, f"field '{where}' has a turn whose content is neither text nor a list of parts")
    for part in content:
        if isinstance(text := part.get("text"), str):
            yield text
        elif (image := part.get("image", part.get("image_url", part.get("path")))) is not None:
            images.append(image.get("url") if isinstance(image, Mapping) else image)


def _without_marks(text: Any) -> Any:
    """Remove image marks before and after a question. If there is a mark inside, keep all, because they show positions."""
    if not isinstance(text, str):
        return text
    bare = text.strip()
    while bare.startswith(_IMAGE_MARK) or bare.endswith(_IMAGE_MARK):
        bare = bare.removeprefix(_IMAGE_MARK).removesuffix(_IMAGE_MARK).strip()
    return text if _IMAGE_MARK in bare else bare


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
