"""Text of others on a terminal: what they wrote is shown, and never obeyed."""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

# C0, DEL and C1 steer a terminal (C1 has forms of ESC [ in one byte); the rest break lines, turn them around, or cannot be encoded.
_STEERING = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: object) -> str:
    r"""Return ``text`` on one line. What could steer a terminal is written out: an escape as ``\x1b``, a line break as ``\n``.

    Use it for case ids, names of images and models, and words of endpoints, wherever they are printed. Pages escape by their own rule, and
    files store texts unchanged.
    """
    return _STEERING.sub(lambda found: found.group().encode("unicode_escape").decode("ascii"), str(text))


def full_width(table: "Table") -> int:
    """Return the width, in columns, at which no line of a table wraps."""
    from rich.console import Console

    return Console(width=10_000).measure(table).maximum
