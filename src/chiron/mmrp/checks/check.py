"""A check of the dataset, its findings, and the registry of all checks: the modules of this package, and plug-ins."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal

from chiron.plugins import submodules, with_plugins

if TYPE_CHECKING:
    from chiron.mmrp.dataset_index import DatasetIndex
    from chiron.mmrp.row import MmrpRow

GROUP: Final = "chiron.checks"
"""Entry-point group of checks in other packages."""
_ORDER: Final = (
    "unreadable_images", "image_marks", "conversation", "values", "duplicates", "near_duplicates", "shared_images", "overlap", "given_away",
    "contradiction", "steps", "final_answer",
)  # fmt: skip
"""Display order; other checks follow."""

Severity = Literal["error", "warning"]
"""A release leaves out rows with an error. Warnings need a human decision. Both count toward the check's limit."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem in a row: a line of ``findings.jsonl``."""

    check: str
    """Name of the check."""
    row: str
    """Id of the row."""
    detail: str
    """Details, in one line."""
    severity: Severity = "error"


@dataclass(frozen=True, slots=True)
class Check:
    """A check of the dataset. A module of this package lists its checks as ``CHECKS``; another package registers an entry point."""

    name: str
    title: str
    """Title for display."""
    limit: float
    """Tolerated share of rows with an error or warning of this check; above it, the dataset is refused."""
    look: "Callable[[MmrpRow], Iterator[Finding]] | None" = None
    """Yields the findings of a single row."""
    look_at_all: "Callable[[DatasetIndex], Iterator[tuple[int, Finding]]] | None" = None
    """Yields findings that need the whole dataset, each with the position of its row in the index."""


@cache
def checks() -> Mapping[str, Check]:
    """Return all checks by name, in display order.

    Raises:
        InputError: a name is used twice. A lookup raises it if the plug-in cannot be loaded.
    """
    found: list[Check] = [check for module in submodules("chiron.mmrp.checks") for check in getattr(module, "CHECKS", ())]
    found.sort(key=lambda check: _ORDER.index(check.name) if check.name in _ORDER else len(_ORDER))
    return MappingProxyType(with_plugins(GROUP, {check.name: check for check in found}, Check))


def look_at(row: "MmrpRow") -> Iterator[Finding]:
    """Yield the findings of all checks of a single row."""
    for check in checks().values():
        if check.look is not None:
            yield from check.look(row)
