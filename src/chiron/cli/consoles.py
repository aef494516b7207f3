"""Where the command line speaks: results on standard output, everything else on standard error."""

from rich.console import Console
from rich.table import Table

_WIDE = 150
"""Columns where nobody's terminal sets a width: a table in a log file is not cut."""


def messages() -> Console:
    """Standard error."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    return console if console.is_terminal else Console(stderr=True, highlight=False, soft_wrap=True, width=_WIDE)


def results() -> Console:
    """Standard output."""
    console = Console(highlight=False, soft_wrap=True)
    return console if console.is_terminal else Console(highlight=False, soft_wrap=True, width=_WIDE)


def whole(table: Table) -> Table:
    """The table at its own width: on a narrower terminal its lines go on in the next one, and no figure is cut off."""
    table.width = Console(width=10_000).measure(table).maximum
    return table
