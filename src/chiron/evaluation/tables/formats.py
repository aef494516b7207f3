"""Write tables for a terminal, Markdown, LaTeX and HTML."""

import re
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from chiron.evaluation.tables.cells import Cell, Grid
from chiron.reports.shell import render_page
from chiron.terminal import printable

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
    """Write every table as a ``table`` environment with caption and notes; ends with a newline."""
    return "\n".join(_latex_one(grid) for grid in grids)


def _latex_one(grid: Grid) -> str:
    notes = "".join(f"\\par {escape_latex(note)}\n" for note in grid.notes)
    rows = "\n".join(" & ".join([escape_latex(name), *map(_latex_cell, cells)]) + r" \\" for name, cells in grid.rows)
    head = " & ".join(escape_latex(title) for title in grid.head) + r" \\"
    return (
        "\\begin{table}\n\\centering\n"
        f"\\caption{{{escape_latex(grid.title)}}}\n"
        f"\\begin{{tabular}}{{l{'c' * (len(grid.head) - 1)}}}\n\\hline\n{head}\n\\hline\n{rows}\n\\hline\n\\end{{tabular}}\n"
        f"{{\\footnotesize\n{notes}}}\n\\end{{table}}\n"
    )


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
        *(_line([escape_markdown(name), *map(_markdown_cell, cells)]) for name, cells in grid.rows),
        "",
        *(f"- {escape_markdown(note)}" for note in grid.notes),
    ]
    return "\n".join(lines) + "\n"


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
        table.add_row(Text(printable(name)), *map(_terminal_cell, cells))
    return table


def _terminal_cell(cell: Cell) -> Text:
    text = Text(printable(cell.figure), style="bold" if cell.strong else "")
    for line in cell.lines[1:]:
        text.append("\n")
        text.append(printable(line), style="not bold dim")
    return text
