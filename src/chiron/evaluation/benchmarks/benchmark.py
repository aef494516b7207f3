"""What a loader is: where the data lie, which columns they have, and how one record becomes one question."""

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chiron.evaluation.benchmarks.image_source import ImageSource
from chiron.evaluation.items import Item

_SPACES = re.compile(r"[ \t]+")


class BadRecord(ValueError):
    """A record is no question that can be put; the message says what is wrong and how to mend it."""


@dataclass(frozen=True)
class BenchmarkRecord:
    """One record, with ways to take out of it what should be there."""

    raw: Mapping[str, Any]
    number: int
    """From 1."""
    benchmark: str
    material: ImageSource
    beside: Mapping[str, Mapping[str, Any]]
    """Further files of the benchmark, records by their ``id``: for example answers that are published apart."""

    @property
    def name(self) -> str:
        """An id for data that have none."""
        return f"{self.benchmark}-{self.number:05d}"

    def text(self, column: str) -> str:
        """A text that must be there.

        Raises:
            BadRecord: it is not, or is empty.
        """
        value = self.raw.get(column)
        if isinstance(value, bool) or not isinstance(value, str | int | float) or not str(value).strip():
            raise BadRecord(f"'{column}' is {_short(value)}, but must be words")
        return str(value).strip()

    def label(self, *columns: str) -> dict[str, str]:
        """Labels from those of the columns that have something; ``column=name`` gives one another name."""
        pairs = [column.partition("=")[::2] for column in columns]
        found = {name or column: self.raw.get(column) for column, name in pairs}
        return {name: _SPACES.sub(" ", str(value)).strip() for name, value in found.items() if value not in (None, "", [])}

    def images(self, *columns: str) -> tuple[str, ...]:
        """The images in these columns, in order: names, ``{"path": ...}``, bytes (kept under their hash), or lists of them.

        Raises:
            BadRecord: something in there is no image.
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
            return (self.material.keep(value),)
        if isinstance(value, str) and value.strip():
            return (self.material.locate(value.strip().removeprefix("./")),)
        raise BadRecord(f"'{column}' holds {_short(value)}, which is no image")


@dataclass(frozen=True)
class Benchmark:
    """One benchmark, as ``chiron eval --list`` shows it and ``chiron eval`` loads it."""

    name: str
    title: str
    size: str
    """What it holds, in words."""
    n: int | None
    """Questions in the published data, of every kind; other numbers are noted. ``None``: it depends."""
    licence: str
    files: Sequence[str]
    """Patterns of the files of records, the first that matches counts (``A|B``: both); from the data folder."""
    columns: Sequence[str]
    """What every record must have."""
    read: Callable[[BenchmarkRecord], Item]
    """One record that belongs to it as a question. May raise :class:`BadRecord`."""
    recognize: Callable[[Mapping[str, Any]], bool] | None = None
    """Where no pattern matches: whether a JSON or JSONL file of any name in the data folder is its, by the first record."""
    hub: str | None = None
    """The data set's id on the Hugging Face hub."""
    archives: Sequence[str] = ()
    """Patterns of zips of images."""
    beside: Sequence[str] = ()
    """Patterns of further files, one of which must be there; ``BenchmarkRecord.beside`` has their records by id."""
    protocol: str = "huatuo_closed"
    """The usual one."""
    how: str = ""
    """What else a person must know to get the data."""
    belongs: Callable[[Mapping[str, Any]], bool | None] | None = None
    """Whether a record of files that several benchmarks share is this one's; asked before anything else, so that another's bad record is
    not counted here. ``None`` from it: the record does not say. No such function: all records are."""
    closed: bool = False
    """Whether every question of it is closed, so that a bad record would have been, too."""
    pictured: bool = True
    """Whether every question of it is about an image: one without is a bad record, and not another question."""
    whole: bool = False
    """Whether every protocol counts all of its records, open or closed."""
    bare: bool = False
    """Whether the question is asked without any instruction, as the small models of the miniature are."""

    def missing_columns(self, found: Mapping[str, Any]) -> list[str]:
        """The columns that a record lacks, each with the nearest that it has."""
        return [
            f"'{column}'"
            + (f" (did you mean '{near[0]}'?)" if (near := difflib.get_close_matches(column, [*map(str, found)], n=1)) else "")
            for column in self.columns
            if column not in found
        ]


def having(column: str, *wanted: str, at_start: bool = False) -> Callable[[Mapping[str, Any]], bool | None]:
    """For :attr:`Benchmark.belongs`: the column says one of these, in whatever case; a record without it does not say whose it is.

    Args:
        column: of text.
        wanted: what it may say.
        at_start: whether only its beginning counts.
    """
    known = tuple(text.casefold() for text in wanted)

    def belongs(raw: Mapping[str, Any]) -> bool | None:
        value = raw.get(column)
        if not isinstance(value, str) or not value.strip():
            return None
        said = value.strip().casefold()
        return said.startswith(known) if at_start else said in known

    return belongs


def files_of(split: str) -> tuple[str, ...]:
    """Where the records of a split lie, as the hub has them and as people save them."""
    shapes = ("{}-*", "data/{}-*", "*/{}-*", "{}", "data/{}", "*_{}", "*-{}")
    return tuple(shape.format(split) + ending for ending in (".parquet", ".jsonl", ".json", ".csv", ".arrow") for shape in shapes)


def _short(value: Any) -> str:
    text = repr(value)
    return "missing" if value is None else text if len(text) <= 60 else text[:57] + "..."
