"""A table before it is written in any format: plain words in cells, of which each format escapes what it must."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell: a figure, and below it what is needed to believe it."""

    lines: tuple[str, ...] = ("\N{EN DASH}",)
    """The first is the figure; the others are small print."""
    strong: bool = False
    """The column's reference."""

    @property
    def figure(self) -> str:
        """The first line."""
        return self.lines[0]


@dataclass(frozen=True, slots=True)
class Grid:
    """One table."""

    title: str
    head: tuple[str, ...]
    """Of every column; the first is the rows'."""
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    """Name and cells."""
    notes: tuple[str, ...] = ()
    """Below the table, a line each."""
    measured: bool = True
    """False of figures that others published: they are set apart."""


def cell(*lines: str, strong: bool = False) -> Cell:
    """A cell of these lines; empty ones are left out."""
    return Cell(tuple(line for line in lines if line), strong)


EMPTY = Cell()
"""Nothing was measured here."""
