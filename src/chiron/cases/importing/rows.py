"""Rows of datasets and JSON records: values of any kind to the fields of a case, and their images."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from chiron.cases.choices import parse_literal, read_options
from chiron.cases.importing.columns import ColumnMap
from chiron.cases.importing.identifying import named
from chiron.cases.importing.pictures import suffix_of
from chiron.cases.importing.records import LeaveOut, Picture, Why
from chiron.cases.importing.tables import Entry, TableImages


def entry_of(
    columns: ColumnMap, row: Mapping[str, Any], place: str, labels: Mapping[str, Sequence[str]] | None = None
) -> tuple[Entry, list[Any]]:
    """A row by field, and its images as it has them.

    Args:
        columns: which of its values is which field.
        row: values by column.
        place: where the row is.
        labels: of columns of class numbers the names of the classes.

    Raises:
        LeaveOut: a value is not what its field takes.
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
    return names[value] if 0 <= value < len(names) else None  # -1 says that the class is unknown


def _images_in(value: Any) -> list[Any]:
    value = parse_literal(value) if isinstance(value, str) else value
    return [image for image in (value if isinstance(value, list) else [value]) if image not in (None, "")]


def options_of(values: Sequence[Any]) -> tuple[str, ...]:
    """Options from the one value that lists them, or from a value for each.

    Raises:
        LeaveOut: they are not options.
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


def row_pictures(images: list[Any], files: TableImages, names: Sequence[str], case_id: str, under: str, group: str) -> tuple[Picture, ...]:
    """Images in the row first; paths, in the row or beside the bytes, as a table's."""
    del names  # an entry of a dataset names none itself
    inside = [image["bytes"] for image in images if isinstance(image, dict) and isinstance(image.get("bytes"), bytes)]
    paths = [path for image in images if isinstance(path := image.get("path") if isinstance(image, dict) else image, str)]
    if not inside:
        return files.pictures(paths, case_id, under, group)
    if len(inside) != len(images):
        raise LeaveOut(Why.IMAGE, "some of its images are in the row and some are not")
    pictures = []
    for number, data in enumerate(inside):
        name = f"{number}{suffix_of(data, f'image {number + 1} of the row')}"
        pictures.append(Picture("/".join(p for p in (under, group, name) if p), partial(bytes, data)))
    return tuple(pictures)
