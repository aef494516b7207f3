"""Check that difficulty and depth, which rows are sorted by, are numbers in range."""

import math
from collections.abc import Iterator
from typing import Any

from chiron.mmrp.checks.check import Check, Finding
from chiron.mmrp.row import MmrpRow


def look(row: MmrpRow) -> Iterator[Finding]:
    """Yield difficulties that are not between 0 and 1, and depths that are not positive integers. Files may contain anything."""
    difficulty: Any = row.difficulty
    depth: Any = row.depth
    if difficulty is not None and not (_is_number(difficulty) and 0 <= difficulty <= 1):
        yield Finding("values", row.id, f"difficulty is {_shown(difficulty)}, not a number from 0 to 1")
    if depth is not None and (isinstance(depth, bool) or not isinstance(depth, int) or depth < 0):
        yield Finding("values", row.id, f"depth is {_shown(depth)}, not a number of levels")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _shown(value: Any) -> str:
    return repr(value)[:40]


CHECKS = (Check("values", "A difficulty that is not from 0 to 1, or a depth that is not a number", 0.0, look),)
