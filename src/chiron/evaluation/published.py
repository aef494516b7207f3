"""Figures from published tables, shown next to measured ones but never mixed with them."""

from collections.abc import Iterator, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from chiron.errors import InputError
from chiron.evaluation.suites.suite import Suite
from chiron.evaluation.tables.formats import EMPTY, Cell, Grid, cell
from chiron.yaml_file import YamlPositions, read_yaml

Percent = Annotated[float, Field(ge=0, le=100)]
Words = Annotated[str, Field(min_length=1)]


class Published(BaseModel):
    """One row of a published table."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Words
    """The model actually measured; the table's own name for it may differ."""
    printed: str = ""
    """The table's own name for the model, where it differs."""
    table: str = ""
    """Name of the suite that measures the same table; empty for a row of another source."""
    group: str = ""
    """Group of rows in that table."""
    text_only: bool = False
    """Whether the table marks the model as one that takes no images."""
    protocol: Words
    """How answers were counted; :data:`UNKNOWN` if the source does not say."""
    source: Words
    values: Annotated[dict[str, Percent], Field(min_length=1)]
    """Percent by benchmark, or by ``BENCHMARK:SCORE`` for a score other than accuracy."""
    average: Percent | None = None
    """AVG as printed. It may disagree with the row's own values."""
    note: str = ""
    """What a reader must know, above all a wrong name in the table."""

    @property
    def label(self) -> str:
        """The row's name in its own table."""
        return f"{self.printed or self.model}{'*' if self.text_only else ''}"


UNKNOWN = "unknown"
"""Protocol of figures whose source does not say how answers were counted."""
_ROUNDING = 0.05 + 1e-6
"""A mean that is printed with one decimal may differ from the exact one by this much."""
_NO_TEST = "No interval and no test: the items' answers were not published."
_ROWS = TypeAdapter(list[Published])


def read_published(path: Path) -> list[Published]:
    """Read the rows of a file such as ``published.yaml``.

    Raises:
        InputError: the file cannot be read, or a row is not valid.
    """
    try:
        return _ROWS.validate_python(read_yaml(path, "published figures"))
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:
            raise InputError(f"published figures {path}: the file is not a list: write one row per item ('- model: ...')") from error
        where = ".".join(map(str, first["loc"]))
        position = YamlPositions(path).find(where)
        raise InputError(f"published figures {path}{', ' if position else ''}{position}: {where}: {first['msg']}") from error


@cache
def published() -> tuple[Published, ...]:
    """Return the rows that ship with this package: the paper's two tables, and a row that one of them lacks."""
    with resources.as_file(resources.files("chiron.evaluation").joinpath("published.yaml")) as path:
        return tuple(read_published(path))


def comparable(rows: Sequence[Published]) -> list[Published]:
    """Return the rows whose protocol is known, so that figures under the same protocol can be compared with them."""
    return [row for row in rows if row.protocol != UNKNOWN]


def few(rows: Sequence[Published]) -> str:
    """Describe how many figures are comparable and how to add more."""
    figures = sum(len(row.values) for row in rows)
    return (
        f"published: {len(rows)} rows with {figures} figures whose model, benchmark, protocol and source are all known; rows of an unknown"
        " protocol are only in the papers' own tables (--published table1, table2). Further rows go into a YAML file of the same form:"
        " --published-from FILE (docs/comparing.md)"
    )


def published_table(suite: Suite, rows: Sequence[Published] | None = None) -> Grid:
    """Build the published table of a suite as it was printed, with the protocol of each row, and notes on what is wrong with it.

    Args:
        suite: names the table and its columns.
        rows: default: :func:`published`.

    Raises:
        InputError: no row is of this table.
    """
    of_it = [row for row in (published() if rows is None else rows) if row.table == suite.name]
    if not of_it:
        raise InputError(f"no published row belongs to the suite '{suite.name}': choose another one")
    average = bool(suite.averaged)
    head = ("model", *(column.title for column in suite.columns), *(("AVG",) if average else ()), "protocol")
    body = tuple(
        (
            row.label,
            (
                *(_figure(row, column.key) for column in suite.columns),
                *((_average(row, suite),) if average else ()),
                cell(row.protocol),
            ),
        )
        for row in of_it
    )
    groups = tuple(row.group for row in of_it)
    title = f"Published, not measured here: {suite.title}, in percent"
    return Grid(title, head, body, tuple(_notes(of_it, suite)), measured=False, groups=groups if any(groups) else ())


def _figure(row: Published, key: str) -> Cell:
    return cell(f"{row.values[key]:.1f}") if key in row.values else EMPTY


def _average(row: Published, suite: Suite) -> Cell:
    """Show AVG as printed, and below it what the row's own values give instead, or how many they are."""
    values = [row.values[column.key] for column in suite.averaged if column.key in row.values]
    if row.average is None or not values:
        return EMPTY
    mean = sum(values) / len(values)
    return cell(
        f"{row.average:.1f}",
        f"its figures give {mean:.2f}" if abs(mean - row.average) > _ROUNDING else "",
        f"over {len(values)} columns" if len(values) < len(suite.averaged) else "",
    )


def _notes(rows: Sequence[Published], suite: Suite) -> Iterator[str]:
    yield _NO_TEST
    if suite.averaged:
        yield (
            f"AVG as printed: the mean of {', '.join(column.title for column in suite.averaged)}; where a figure is"
            " missing, the mean of the others, which is not comparable."
        )
    if any(row.text_only for row in rows):
        yield "* A text-only model: it was not asked about images."
    if any(row.protocol == UNKNOWN for row in rows):
        yield "Protocol unknown: do not compare the row with figures under a named protocol."
    said: dict[str, list[str]] = {}
    for row in rows:
        name = f"{row.label} (measured: {row.model})" if row.printed else row.label
        said.setdefault(f"{row.source}.{f' {row.note}' if row.note else ''}", []).append(name)
    for words, names in said.items():
        yield f"{', '.join(names)}: {words}"


def published_grids(rows: Sequence[Published], benchmarks: Sequence[str] = ()) -> list[Grid]:
    """Build one table per protocol; ``benchmarks`` come first, in their order."""
    grids = []
    for protocol in dict.fromkeys(row.protocol for row in rows):
        of_it = [row for row in rows if row.protocol == protocol]
        named = dict.fromkeys(name for row in of_it for name in row.values)
        columns = [*(b for b in benchmarks if b in named), *(name for name in named if name not in benchmarks)]
        body = tuple((row.model, tuple(_figure(row, name) for name in columns)) for row in of_it)
        notes = tuple(f"{row.model}: {row.source}.{f' {row.note}' if row.note else ''}" for row in of_it)
        title = f"Published, not measured here: accuracy in percent, protocol {protocol}"
        grids.append(Grid(title, ("model", *columns), body, (_NO_TEST, *notes), measured=False))
    return grids
