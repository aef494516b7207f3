"""What a check found."""

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning"]
"""A row with an error is left out of a release; a warning is for people to look at. Both count against the check's limit."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong with a row."""

    check: str
    """By its name in :data:`chiron.mmrp.checks.registry.CHECKS`."""
    row: str
    """The row's id."""
    detail: str
    """What was seen, in one line."""
    severity: Severity = "error"

    def to_record(self) -> dict[str, str]:
        """As JSON."""
        return {"check": self.check, "row": self.row, "detail": self.detail, "severity": self.severity}
