r"""Tables as LaTeX: plain ``tabular`` and ``\shortstack``, so that no package is needed."""

import re
from collections.abc import Sequence

from chiron.evaluation.tables.grid import Cell, Grid
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
    # A straight one would need an encoding, which is a package.
    '"': "{''}",
    "\N{MINUS SIGN}": "$-$",
    "\N{EN DASH}": "--",
    # Two in a row are one character in many fonts; a bracket after a line break is its argument.
    "-": "{-}",
    "`": "{`}",
    "'": "{'}",
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
}
_SPECIAL = re.compile("[" + re.escape("".join(_WRITTEN)) + "]")


def latex(grids: Sequence[Grid]) -> str:
    """Every table as a ``table`` with caption and notes; ends with a line break."""
    return "\n".join(_one(grid) for grid in grids)


def _one(grid: Grid) -> str:
    notes = "".join(f"\\par {escaped(note)}\n" for note in grid.notes)
    rows = "\n".join(" & ".join([escaped(name), *map(_cell, cells)]) + r" \\" for name, cells in grid.rows)
    head = " & ".join(escaped(title) for title in grid.head) + r" \\"
    return (
        "\\begin{table}\n\\centering\n"
        f"\\caption{{{escaped(grid.title)}}}\n"
        f"\\begin{{tabular}}{{l{'c' * (len(grid.head) - 1)}}}\n\\hline\n{head}\n\\hline\n{rows}\n\\hline\n\\end{{tabular}}\n"
        f"{{\\footnotesize\n{notes}}}\n\\end{{table}}\n"
    )


def _cell(cell: Cell) -> str:
    first = escaped(cell.figure)
    first = f"\\textbf{{{first}}}" if cell.strong else first
    small = [f"\\footnotesize {escaped(line)}" for line in cell.lines[1:]]
    if not small:
        return first
    lines = " \\\\ ".join([first, *small])
    return f"\\shortstack{{{lines}}}"


def escaped(text: str) -> str:
    """Text that LaTeX sets as it is: no command, and on one line."""
    return _SPECIAL.sub(lambda found: _WRITTEN[found.group()], printable(text))
