"""Tables for a terminal."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from chiron.evaluation.tables.grid import Cell, Grid
from chiron.terminal import printable


def show(grids: Sequence[Grid], console: Console) -> None:
    """Print every table with its title and notes."""
    for number, grid in enumerate(grids):
        if number:
            console.print()
        console.print(Text(printable(grid.title), style="bold"))
        console.print(_table(grid))
        for note in grid.notes:
            console.print(Text(printable(note), style="dim"))


def _table(grid: Grid) -> Table:
    table = Table(box=None, padding=(0, 2), pad_edge=False, header_style="dim")
    for title in grid.head:
        table.add_column(Text(printable(title)), overflow="fold")
    for name, cells in grid.rows:
        table.add_row(Text(printable(name)), *map(_cell, cells))
    return table


def _cell(cell: Cell) -> Text:
    text = Text(printable(cell.figure), style="bold" if cell.strong else "")
    for line in cell.lines[1:]:
        text.append("\n")
        text.append(printable(line), style="not bold dim")
    return text
