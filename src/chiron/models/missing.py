"""What a case of a search ended without: candidates and evaluations whose calls failed for good."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

CALL_FAILED = "call failed"
"""Begins the problem of a candidate or an evaluation that is missing."""
_PENDING = "pending"
"""The outcome of a case that has not ended."""


@dataclass(frozen=True, slots=True)
class Missing:
    """What a case ended without, because calls failed for good or the judge gave no verdict. What is missing is not wrong."""

    candidates: int = 0
    """Mentors' next steps."""
    evaluations: int = 0
    """Of candidates, of whole paths and of the baseline."""

    def __bool__(self) -> bool:
        return self != Missing()

    def __add__(self, other: "Missing") -> "Missing":
        return Missing(self.candidates + other.candidates, self.evaluations + other.evaluations)

    def to_json(self) -> dict[str, int]:
        """As it stands in a result."""
        return {"candidates": self.candidates, "evaluations": self.evaluations}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Missing":
        """From a case's record; a pending case has not ended, so nothing of it is missing yet.

        Older records did not count: there it is read off the tree.
        """
        if record.get("outcome") == _PENDING:
            return cls()
        if (known := record.get("missing")) is not None:
            return cls(known["candidates"], known["evaluations"])
        levels = [level for levels in record.get("tree") or () for level in levels]
        candidates = [c for level in levels for c in level["candidates"]]
        scores = [*candidates, *(level.get("whole_path") or {} for level in levels), record.get("baseline_score") or {}]
        return cls(
            sum(str(c.get("problem") or "").startswith(CALL_FAILED) for c in candidates),
            sum(s.get("planned", 0) - s.get("answered", 0) for s in scores),
        )
