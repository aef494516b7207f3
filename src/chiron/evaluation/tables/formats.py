"""Table cells, and tables for a terminal, Markdown, LaTeX and HTML."""

import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from rich.console import Console
from rich.table import Table
from rich.text import Text

from chiron.evaluation.figures import Accuracy, Figure
from chiron.reports.shell import render_page
from chiron.terminal import full_width, printable


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell: a figure, and below it the details needed to judge it."""

    lines: tuple[str, ...] = ("\N{EN DASH}",)
    """The first line is the figure; the others are small print."""
    strong: bool = False
    """Whether this is the column's reference."""

    @property
    def figure(self) -> str:
        """The first line."""
        return self.lines[0]


@dataclass(frozen=True, slots=True)
class Grid:
    """One table."""

    title: str
    head: tuple[str, ...]
    """Column headings; the first is that of the row names."""
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    """Name and cells of each row."""
    notes: tuple[str, ...] = ()
    """Notes below the table, one line each."""
    measured: bool = True
    """``False`` for published figures, which are shown separately."""
    groups: tuple[str, ...] = ()
    """Group of each row, if the rows have groups. The name of a group is shown above its first row."""

    def grouped(self) -> Iterator[tuple[str, str, tuple[Cell, ...]]]:
        """Yield the heading above each row (empty if there is none), its name, and its cells."""
        last = ""
        for group, (name, cells) in zip(self.groups or ("",) * len(self.rows), self.rows, strict=True):
            yield group if group != last else "", name, cells
            last = group


def cell(*lines: str, strong: bool = False) -> Cell:
    """Build a cell from lines; empty lines are left out."""
    return Cell(tuple(line for line in lines if line), strong)


EMPTY = Cell()
"""Nothing was measured here."""


_Row = TypeVar("_Row", bound=str | tuple[str, ...])


def grid_of(title: str, corner: str, cells: Mapping[tuple[_Row, str], Cell], notes: Iterable[str], order: Sequence[str] = ()) -> Grid:
    """Build a table from its cells by (row, column), in order of appearance. Columns in ``order`` come first, in that order.

    A row that is a tuple is shown as its parts with commas. Two rows may look alike: ``("A", "b, c")`` and ``("A, b", "c")``.
    """
    rows, found = list(dict.fromkeys(row for row, _ in cells)), list(dict.fromkeys(column for _, column in cells))
    columns = [*(name for name in order if name in found), *(name for name in found if name not in order)]
    body = tuple(
        (row if isinstance(row, str) else ", ".join(row), tuple(cells.get((row, column), EMPTY) for column in columns)) for row in rows
    )
    return Grid(title, (corner, *columns), body, tuple(notes))


_WIDE = 200
"""Width of tables in text files."""
_MARKS = ((0.001, "***"), (0.01, "**"), (0.05, "*"))


def percent(share: float) -> str:
    """Format a share in percent: ``62.5``."""
    return f"{100 * share:.1f}"


def points(difference: float) -> str:
    """Format a difference of shares in percentage points: ``+3.1``, with a true minus sign."""
    return f"{100 * difference:+.1f}".replace("-", "\N{MINUS SIGN}")


def with_interval(figure: Figure) -> str:
    """Format a share with its interval: ``62.5 [55.1, 69.2]``."""
    if figure.interval is None:
        return f"{percent(figure.value)} [no interval]"
    low, high = figure.interval
    return f"{percent(figure.value)} [{percent(low)}, {percent(high)}]"


def difference_with_interval(figure: Figure) -> str:
    """Format a difference with its interval: ``-22.4 [-27.0, -17.8]``."""
    if figure.interval is None:
        return f"{points(figure.value)} [no interval]"
    low, high = figure.interval
    return f"{points(figure.value)} [{points(low)}, {points(high)}]"


def score_with_interval(figure: Figure) -> str:
    """Format a score with its interval: ``0.612 [0.580, 0.641]``. Scores are not shares of answers, so they are not in percent."""
    if figure.interval is None:
        return _minus(f"{figure.value:.3f} [no interval]")
    return _minus(f"{figure.value:.3f} [{figure.interval[0]:.3f}, {figure.interval[1]:.3f}]")


def mark(p: float | None) -> str:
    """Return the stars of an adjusted p-value."""
    return next((stars for level, stars in _MARKS if p is not None and p < level), "")


def p_value(p: float) -> str:
    """Format a p-value: ``p 0.034``, or ``p < 0.001``."""
    return "p < 0.001" if p < 0.001 else f"p {p:.3f}"


def doubts(accuracy: Accuracy) -> tuple[str, ...]:
    """List what weakens a figure: always the unparsed share; unjudged, unusable and pending items and few images where they occur."""
    return tuple(
        line
        for line in (
            f"unparsed {percent(accuracy.unparsed / accuracy.asked)} %",
            f"{accuracy.unjudged} unjudged" if accuracy.unjudged else "",
            f"{accuracy.unusable} unusable" if accuracy.unusable else "",
            f"{accuracy.pending} pending" if accuracy.pending else "",
            few_images(accuracy),
        )
        if line
    )


def few_images(accuracy: Accuracy) -> str:
    """Return ``only 12 images``; empty if there are enough."""
    if not accuracy.has_few_images:
        return ""
    return "only 1 image" if accuracy.groups == 1 else f"only {accuracy.groups} images"


def _minus(text: str) -> str:
    return text.replace("-", "\N{MINUS SIGN}")


_WRITTEN = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    # A straight quote would need an encoding package.
    '"': "{''}",
    "\N{MINUS SIGN}": "$-$",
    "\N{EN DASH}": "--",
    # Many fonts turn two hyphens into one character, and LaTeX reads a bracket after a line break as its argument.
    "-": "{-}",
    "`": "{`}",
    "'": "{'}",
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
}
_LATEX_SPECIAL = re.compile("[" + re.escape("".join(_WRITTEN)) + "]")


def latex(grids: Sequence[Grid]) -> str:
    """Write every table as a ``table`` environment with caption and notes; ends with a newline. It needs booktabs and graphicx."""
    return "\n".join(_latex_one(grid) for grid in grids)


_LONG_NOTES = 1500
"""Longer notes, in characters, follow the table as text. A float that is higher than the page loses its end."""


def _latex_one(grid: Grid) -> str:
    notes = "".join(f"\\par {escape_latex(note)}\n" for note in grid.notes)
    rows = "\n".join(line for row in grid.grouped() for line in _latex_rows(*row, width=len(grid.head)))
    head = " & ".join(escape_latex(title) for title in grid.head) + r" \\"
    small, end = f"{{\\footnotesize\\sloppy\n{notes}\\par}}\n", "\\end{table}\n"
    return (
        "\\begin{table}\n\\centering\n"
        f"\\caption{{{escape_latex(grid.title)}}}\n"
        # A table that is wider than the text is shrunk.
        "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{"
        f"\\begin{{tabular}}{{l{'c' * (len(grid.head) - 1)}}}\n\\toprule\n{head}\n\\midrule\n{rows}\n\\bottomrule\n\\end{{tabular}}}}\n"
    ) + (small + end if len(notes) <= _LONG_NOTES else end + small)


def _latex_rows(heading: str, name: str, cells: Sequence[Cell], *, width: int) -> Iterator[str]:
    if heading:
        yield f"\\multicolumn{{{width}}}{{l}}{{\\textit{{{escape_latex(heading)}}}}} \\\\"
    yield " & ".join([escape_latex(name), *map(_latex_cell, cells)]) + r" \\"


def _latex_cell(cell: Cell) -> str:
    first = escape_latex(cell.figure)
    first = f"\\textbf{{{first}}}" if cell.strong else first
    small = [f"\\footnotesize {escape_latex(line)}" for line in cell.lines[1:]]
    if not small:
        return first
    lines = " \\\\ ".join([first, *small])
    return f"\\shortstack{{{lines}}}"


def escape_latex(text: str) -> str:
    """Escape text so that LaTeX prints it unchanged, without commands and on one line."""
    return _LATEX_SPECIAL.sub(lambda found: _WRITTEN[found.group()], printable(text))


_MARKDOWN_SPECIAL = re.compile(r"([\\`*_{}\[\]<>()#+!|~&$])")


def markdown(grids: Sequence[Grid]) -> str:
    """Write every table with its title and notes; ends with a newline."""
    return "\n".join(_markdown_one(grid) for grid in grids)


def _markdown_one(grid: Grid) -> str:
    lines = [
        f"### {escape_markdown(grid.title)}",
        "",
        _line(escape_markdown(title) for title in grid.head),
        "|" + "|".join(["---"] * len(grid.head)) + "|",
        *(line for row in grid.grouped() for line in _markdown_rows(*row)),
        "",
        *(f"- {escape_markdown(note)}" for note in grid.notes),
    ]
    return "\n".join(lines) + "\n"


def _markdown_rows(heading: str, name: str, cells: Sequence[Cell]) -> Iterator[str]:
    if heading:
        yield _line([f"*{escape_markdown(heading)}*", *("" for _ in cells)])
    yield _line([escape_markdown(name), *map(_markdown_cell, cells)])


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _markdown_cell(cell: Cell) -> str:
    first = escape_markdown(cell.figure)
    return "<br>".join([f"**{first}**" if cell.strong else first, *map(escape_markdown, cell.lines[1:])])


def escape_markdown(text: str) -> str:
    """Escape text so that Markdown shows it unchanged, without markup and on one line."""
    return _MARKDOWN_SPECIAL.sub(r"\\\1", printable(text))


def html(grids: Sequence[Grid]) -> str:
    """Write one page with every table. All content is escaped, and nothing on the page can run or be fetched."""
    return "".join(render_page("chiron.evaluation.tables", "tables.html", styles=["tables.css"], grids=grids))


def plain(grids: Sequence[Grid]) -> str:
    """Write every table as on a wide terminal without color; ends with a newline."""
    console = Console(file=io.StringIO(), width=_WIDE, no_color=True, force_terminal=False, highlight=False)
    with console.capture() as caught:
        show(grids, console)
    return "".join(line.rstrip() + "\n" for line in caught.get().splitlines())


def show(grids: Sequence[Grid], console: Console) -> None:
    """Print every table with its title and notes."""
    for number, grid in enumerate(grids):
        if number:
            console.print()
        console.print(Text(printable(grid.title), style="bold"))
        for part in _fitting(grid, console.width):
            console.print(_table(part))
        for note in grid.notes:
            console.print(Text(printable(note), style="dim"))


def _fitting(grid: Grid, width: int) -> Iterator[Grid]:
    """Split a table into tables of as many columns as ``width`` has room for, each at least one, so that no figure is broken."""
    start = 1
    while start < len(grid.head):
        end = len(grid.head)
        while end > start + 1 and full_width(_table(_columns(grid, start, end))) > width:
            end -= 1
        yield _columns(grid, start, end)
        start = end


def _columns(grid: Grid, start: int, end: int) -> Grid:
    rows = tuple((name, cells[start - 1 : end - 1]) for name, cells in grid.rows)
    return replace(grid, head=(grid.head[0], *grid.head[start:end]), rows=rows)


def _table(grid: Grid) -> Table:
    table = Table(box=None, padding=(0, 2), pad_edge=False, header_style="dim")
    for title in grid.head:
        table.add_column(Text(printable(title)), overflow="fold")
    for heading, name, cells in grid.grouped():
        if heading:
            table.add_row(Text(printable(heading), style="italic"))
        table.add_row(Text(printable(name)), *map(_terminal_cell, cells))
    return table


def _terminal_cell(cell: Cell) -> Text:
    text = Text(printable(cell.figure), style="bold" if cell.strong else "")
    for line in cell.lines[1:]:
        text.append("\n")
        text.append(printable(line), style="not bold dim")
    return text
