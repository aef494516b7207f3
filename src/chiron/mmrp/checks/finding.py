"""Finding of a check."""

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning"]
"""A release leaves out rows with an error. Warnings need a human decision. Both count toward the check's limit."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem in a row."""

    check: str
    """Name of the check in :data:`chiron.mmrp.checks.registry.CHECKS`."""
    row: str
    """Id of the row."""
    detail: str
    """Details, in one line."""
    severity: Severity = "error"

    def to_record(self) -> dict[str, str]:
        """Convert to a JSON object."""
        return {"check": self.check, "row": self.row, "detail": self.detail, "severity": self.severity}
