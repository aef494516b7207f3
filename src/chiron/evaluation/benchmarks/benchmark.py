"""Description of a benchmark: its files, its columns, and how one record becomes one question."""

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chiron.evaluation.benchmarks.image_source import ImageSource
from chiron.evaluation.items import Item

_SPACES = re.compile(r"[ \t]+")


class BadRecord(ValueError):
    """A record that cannot be asked; the message says what is wrong and how to fix it."""


@dataclass(frozen=True)
class BenchmarkRecord:
    """One record, with methods to read its fields."""

    raw: Mapping[str, Any]
    number: int
    """Row number, from 1."""
    benchmark: str
    image_source: ImageSource
    extra_records: Mapping[str, Mapping[str, Any]]
    """Records of the benchmark's extra files by ``id``, for example answers that are published separately."""

    @property
    def name(self) -> str:
        """An id for data without ids."""
        return f"{self.benchmark}-{self.number:05d}"

    def text(self, column: str) -> str:
        """Return a required text.

        Raises:
            BadRecord: the text is missing or empty.
        """
        value = self.raw.get(column)
        if isinstance(value, bool) or not isinstance(value, str | int | float) or not str(value).strip():
            raise BadRecord(f"'{column}' is {_short(value)}, but must be text")
        return str(value).strip()

    def label(self, *columns: str) -> dict[str, str]:
        """Collect labels from the columns that have a value; ``column=name`` renames a column."""
        pairs = [column.partition("=")[::2] for column in columns]
        found = {name or column: self.raw.get(column) for column, name in pairs}
        return {name: _SPACES.sub(" ", str(value)).strip() for name, value in found.items() if value not in (None, "", [])}

    def images(self, *columns: str) -> tuple[str, ...]:
        """Return the images in these columns, in order: names, ``{"path": ...}``, bytes (stored under their hash), or lists of these.

        Raises:
            BadRecord: a value is not an image.
        """
        return tuple(name for column in columns for name in self._images(self.raw.get(column), column))

    def _images(self, value: Any, column: str) -> tuple[str, ...]:
        if value is None:
            return ()
        if isinstance(value, list | tuple):
            return tuple(name for part in value for name in self._images(part, column))
        if isinstance(value, dict):
            data = value.get("bytes")
            return self._images(data or value.get("path") or value.get("image_path"), column)
        if isinstance(value, bytes) and value:
            return (self.image_source.keep(value),)
        if isinstance(value, str) and value.strip():
            return (self.image_source.locate(value.strip().removeprefix("./")),)
        raise BadRecord(f"'{column}' contains {_short(value)}, which is not an image")


@dataclass(frozen=True)
class WebFile:
    """A file that is published outside the hub."""

    url: str
    path: str
    """Where it is stored, relative to the data folder."""
    digest: str = ""
    """``sha256:HEX``, or ``git:HEX`` (the SHA-1 of git's blob); empty if the file may change."""


@dataclass(frozen=True)
class Benchmark:
    """One benchmark, as ``chiron eval --list`` shows it and ``chiron eval`` loads it."""

    name: str
    title: str
    size: str
    """Its content, in words."""
    n: int | None
    """Number of questions of every kind in the published data; a different number is noted. ``None`` if it varies."""
    license: str
    files: Sequence[str]
    """Patterns of the record files, relative to the data folder; the first match is used. ``A|B`` needs both."""
    columns: Sequence[str]
    """Columns that every record must have."""
    read: Callable[[BenchmarkRecord], Item]
    """Convert one record of this benchmark to an item. May raise :class:`BadRecord`."""
    recognize: Callable[[Mapping[str, Any]], bool] | None = None
    """Used if no pattern matches: decides by the first record whether a JSON or JSONL file in the data folder is this benchmark's."""
    hub: str | None = None
    """The data set's id on the Hugging Face hub."""
    archives: Sequence[str] = ()
    """Patterns of image zips."""
    extra_files: Sequence[str] = ()
    """Patterns of extra files, one of which must exist; ``BenchmarkRecord.extra_records`` has their records by id."""
    web_files: Sequence[WebFile] = ()
    """Files that ``chiron eval fetch`` downloads from elsewhere."""
    protocol: str = "huatuo_closed"
    """The usual protocol."""
    instructions: str = ""
    """Extra instructions for getting the data."""
    belongs: Callable[[Mapping[str, Any]], bool | None] | None = None
    """Whether a record is this benchmark's, for files that several benchmarks share. It is called first, so that bad records of other
    benchmarks do not count here. It returns ``None`` if the record does not say. Without this function, all records belong.
    """
    closed: bool = False
    """Whether every question is closed; bad records then count as closed too."""
    needs_image: bool = True
    """Whether every question needs an image; a record without one is then bad."""
    counts_all: bool = False
    """Whether every protocol counts all records, open or closed."""
    bare: bool = False
    """Whether questions are asked without any instruction, as the small models of the miniature need."""

    @property
    def folder(self) -> str:
        """Name of the folder of its data set, which all benchmarks in the same data set share."""
        return self.hub.replace("/", "--") if self.hub is not None else self.name

    def missing_columns(self, found: Mapping[str, Any]) -> list[str]:
        """List the columns that a record lacks, each with the most similar existing column."""
        return [
            f"'{column}'"
            + (f" (did you mean '{near[0]}'?)" if (near := difflib.get_close_matches(column, [*map(str, found)], n=1)) else "")
            for column in self.columns
            if column not in found
        ]


def having(column: str, *wanted: str, at_start: bool = False) -> Callable[[Mapping[str, Any]], bool | None]:
    """Build a :attr:`Benchmark.belongs` that compares a column, ignoring case. It returns ``None`` for a record without the column.

    Args:
        column: a text column.
        wanted: accepted values.
        at_start: compare only the start of the value.
    """
    known = tuple(text.casefold() for text in wanted)

    def belongs(raw: Mapping[str, Any]) -> bool | None:
        value = raw.get(column)
        if not isinstance(value, str) or not value.strip():
            return None
        text = value.strip().casefold()
        return text.startswith(known) if at_start else text in known

    return belongs


def files_of(split: str) -> tuple[str, ...]:
    """Patterns of a split's record files, as the hub names them and as users save them."""
    shapes = ("{}-*", "data/{}-*", "*/{}-*", "{}", "data/{}", "*_{}", "*-{}")
    return tuple(shape.format(split) + ending for ending in (".parquet", ".jsonl", ".json", ".csv", ".arrow") for shape in shapes)


def _short(value: Any) -> str:
    text = repr(value)
    return "missing" if value is None else text if len(text) <= 60 else text[:57] + "..."
