"""Tables as GitHub's Markdown."""

import re
from collections.abc import Iterable, Sequence

from chiron.evaluation.tables.grid import Cell, Grid
from chiron.terminal import printable

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>()#+!|~&$])")


def markdown(grids: Sequence[Grid]) -> str:
    """Every table with its title and notes; ends with a line break."""
    return "\n".join(_one(grid) for grid in grids)


def _one(grid: Grid) -> str:
    lines = [
        f"### {escaped(grid.title)}",
        "",
        _line(escaped(title) for title in grid.head),
        "|" + "|".join(["---"] * len(grid.head)) + "|",
        *(_line([escaped(name), *map(_cell, cells)]) for name, cells in grid.rows),
        "",
        *(f"- {escaped(note)}" for note in grid.notes),
    ]
    return "\n".join(lines) + "\n"


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(cell: Cell) -> str:
    first = escaped(cell.figure)
    return "<br>".join([f"**{first}**" if cell.strong else first, *map(escaped, cell.lines[1:])])


def escaped(text: str) -> str:
    """Text that Markdown shows as it is: on one line, and none of it markup."""
    return _SPECIAL.sub(r"\\\1", printable(text))
