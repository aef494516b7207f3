"""Figures from published tables, shown next to measured ones but never mixed with them."""

from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from chiron.errors import InputError
from chiron.evaluation.tables.formats import EMPTY, Grid, cell
from chiron.io import read_yaml

Percent = Annotated[float, Field(ge=0, le=100)]
Words = Annotated[str, Field(min_length=1)]


class Published(BaseModel):
    """One row of a published table."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Words
    """The model actually measured; the table's own name for it may differ."""
    protocol: Words
    """How answers were counted."""
    source: Words
    values: Annotated[dict[str, Percent], Field(min_length=1)]
    """Percent by benchmark."""
    note: str = ""
    """What a reader must know, above all a wrong name in the table."""


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
        where = ".".join(map(str, first["loc"]))
        raise InputError(f"published figures {path}: {where}: {first['msg']}") from error


@cache
def published() -> tuple[Published, ...]:
    """Return the rows that ship with this package: those of the paper's tables whose model, benchmark and protocol are all known."""
    with resources.as_file(resources.files("chiron.evaluation").joinpath("published.yaml")) as path:
        return tuple(read_published(path))


def few(rows: Sequence[Published]) -> str:
    """Describe how many figures are known and how to add more."""
    figures = sum(len(row.values) for row in rows)
    return (
        f"published: {len(rows)} rows with {figures} figures whose model, benchmark, protocol and source are all known; the other cells of"
        " the papers' tables are left out. Further rows go into a YAML file of the same form: --published-from FILE"
        " (docs/comparing.md)"
    )


def published_grids(rows: Sequence[Published], benchmarks: Sequence[str] = ()) -> list[Grid]:
    """Build one table per protocol; ``benchmarks`` come first, in their order."""
    grids = []
    for protocol in dict.fromkeys(row.protocol for row in rows):
        of_it = [row for row in rows if row.protocol == protocol]
        named = dict.fromkeys(name for row in of_it for name in row.values)
        columns = [*(b for b in benchmarks if b in named), *(name for name in named if name not in benchmarks)]
        body = tuple(
            (row.model, tuple(cell(f"{row.values[name]:.1f}") if name in row.values else EMPTY for name in columns)) for row in of_it
        )
        notes = tuple(f"{row.model}: {row.source}.{f' {row.note}' if row.note else ''}" for row in of_it)
        title = f"Published, not measured here: accuracy in percent, protocol {protocol}"
        grids.append(
            Grid(
                title,
                ("model", *columns),
                body,
                ("No interval and no test: the items' answers were not published.", *notes),
                measured=False,
            )
        )
    return grids
