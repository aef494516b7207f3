"""Rows of a part or of a release: an index for filters and coverage, and single rows."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from sys import intern
from typing import Any, Protocol

from chiron.cases.body_systems import BODY_SYSTEMS
from chiron.cases.modalities import MODALITIES
from chiron.errors import InputError
from chiron.extras import install_command
from chiron.view.files import LineFile

UNKNOWN = "unknown"
_CHUNK = 100


@dataclass(frozen=True, slots=True)
class RowHead:
    """What is kept in memory of a row."""

    id: str
    part: str
    split: str
    """Empty for the rows of a part, which are not split yet."""
    modalities: tuple[str, ...]
    body_system: str
    place: Any
    """Where the row is stored."""


class RowSource(Protocol):
    """Rows on disk."""

    def heads(self) -> Iterator[RowHead]:
        """Yield every row, in order."""
        ...

    def read(self, head: RowHead, *, only_text: bool = False) -> dict[str, Any]:
        """Read one row; ``only_text``: its question and conversation are enough."""
        ...


class PartRows:
    """Rows of a part: the lines of a JSONL file."""

    def __init__(self, lines: LineFile) -> None:
        """Read from ``lines``, whose positions are found already."""
        self._lines = lines

    def heads(self) -> Iterator[RowHead]:
        """Yield every row, in order; lines that cannot be read are left out."""
        for number in range(len(self._lines)):
            try:
                yield _head(self._lines.record(number), "", number)
            except InputError:
                continue

    def read(self, head: RowHead, *, only_text: bool = False) -> dict[str, Any]:  # noqa: ARG002 - a line is read at once
        """Read one row.

        Raises:
            InputError: the file has changed.
        """
        return self._lines.record(head.place)


class ReleaseRows:
    """Rows of a release: Parquet files by part and split."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._texts: tuple[object, Any] = (None, None)
        """The last place that texts were read from, and its texts. The rows of a page are next to each other."""

    def heads(self) -> Iterator[RowHead]:
        """Yield every row, in order.

        Raises:
            InputError: pyarrow is missing, or a file is damaged.
        """
        for path in sorted((self._folder / "data").glob("*/*.parquet")):
            split = path.name.partition("-")[0]
            try:
                file = _parquet(path)
                for group in range(file.num_row_groups):
                    table = file.read_row_group(group, columns=["id", "part", "modalities", "body_system"])
                    for number, row in enumerate(table.to_pylist()):
                        yield _head(row, split, (path, group, number))
            except (OSError, ValueError, KeyError) as error:
                raise InputError(f"{path} cannot be read ({type(error).__name__}): make the release again") from error

    def read(self, head: RowHead, *, only_text: bool = False) -> dict[str, Any]:
        """Read one row, with its images unless ``only_text``.

        Raises:
            InputError: the file has changed.
        """
        path, group, number = head.place
        try:
            if only_text and self._texts[0] != (path, group):
                self._texts = (path, group), _parquet(path).read_row_group(group, columns=["question", "messages"])
            table = self._texts[1] if only_text else _parquet(path).read_row_group(group)
            row = table.slice(number, 1).to_pylist()[0]
        except (OSError, ValueError, IndexError) as error:
            raise InputError(f"{path} cannot be read ({type(error).__name__}): make the release again") from error
        return dict(row)


def _parquet(path: Path) -> Any:
    try:
        from pyarrow.parquet import ParquetFile
    except ModuleNotFoundError as error:
        raise InputError(f"the rows of a release are shown with the package 'pyarrow': {install_command('data')}") from error
    return ParquetFile(path)


def _head(row: dict[str, Any], split: str, place: Any) -> RowHead:
    modalities = row.get("modalities")
    names = tuple(intern(str(name)) for name in modalities) if isinstance(modalities, list) else ()
    system = row.get("body_system")
    return RowHead(str(row.get("id")), str(row.get("part", "")), split, names, intern(str(system)) if system else UNKNOWN, place)


@dataclass(frozen=True, slots=True)
class RowQuery:
    """Which rows to show."""

    find: str = ""
    """Part of the id."""
    part: str = ""
    split: str = ""
    modality: str = ""
    body_system: str = ""

    def fits(self, head: RowHead) -> bool:
        return (
            (not self.find or self.find.lower() in head.id.lower())
            and (not self.part or head.part == self.part)
            and (not self.split or head.split == self.split)
            and (not self.modality or self.modality in (head.modalities or (UNKNOWN,)))
            and (not self.body_system or head.body_system == self.body_system)
        )


class RowIndex:
    """Index of all rows of a directory, read in the background. Not safe for several threads at once."""

    def __init__(self) -> None:
        self.heads: list[RowHead] = []
        self.by_id: dict[str, int] = {}
        self.cells: Counter[tuple[str, str]] = Counter()
        """Rows by modality and body system; a row with two modalities counts twice."""
        self.parts: Counter[tuple[str, str]] = Counter()
        """Rows by part and split."""
        self.problem = ""
        self.done = False
        self.source: RowSource | None = None
        self._rest: Iterator[RowHead] = iter(())

    def restart(self, source: RowSource) -> None:
        """Read another version of the rows."""
        self.__init__()  # type: ignore[misc]
        self.source, self._rest = source, source.heads()

    def advance(self, until: float) -> None:
        """Read rows until all are read or the monotonic clock shows ``until``."""
        try:
            for head in self._rest:
                self._add(head)
                if len(self.heads) % _CHUNK == 0 and time.monotonic() >= until:
                    return
        except InputError as problem:
            self.problem = str(problem)
        self.done = True

    def _add(self, head: RowHead) -> None:
        self.by_id.setdefault(head.id, len(self.heads))
        self.heads.append(head)
        self.parts[head.part, head.split] += 1
        for modality in dict.fromkeys(head.modalities or (UNKNOWN,)):
            self.cells[modality, head.body_system] += 1

    def find(self, query: RowQuery) -> Sequence[int]:
        """Return the positions of the matching rows."""
        every = range(len(self.heads))
        return every if query == RowQuery() else [number for number in every if query.fits(self.heads[number])]

    def axes(self) -> tuple[list[str], list[str]]:
        """Return the modalities and body systems that occur, in the order of the taxonomy."""
        orders = ([m.name for m in MODALITIES], [s.name for s in BODY_SYSTEMS])
        found = [{cell[axis] for cell in self.cells} for axis in (0, 1)]
        known = [[name for name in order if name in there] for order, there in zip(orders, found, strict=True)]
        return (known[0] + sorted(found[0] - set(orders[0])), known[1] + sorted(found[1] - set(orders[1])))
