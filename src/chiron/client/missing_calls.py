"""Failed calls: their share per model, what a case lacks because of them, and how the calls of a unit failed."""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from chiron.client.call import Call, Reply
from chiron.client.failures import CallerFault, CallFailed

FEWEST = 3
"""Failed calls before a failure rate is reported."""
SMALLEST = 0.05
"""Minimum failure rate that is reported."""


@dataclass(slots=True)
class _Counts:
    answered: int = 0
    failed: int = 0
    last: str = ""


@dataclass
class FailureRates:
    """Answered and failed calls of this process, by model and temperature."""

    _counts: defaultdict[tuple[str, float], _Counts] = field(default_factory=lambda: defaultdict(_Counts))

    def answered(self, model: str, temperature: float) -> None:
        """Count a call that got its reply."""
        self._counts[model, temperature].answered += 1

    def failed(self, model: str, temperature: float, public: str) -> None:
        """Count a failed call; ``public`` is the part of the message that may be shown."""
        counts = self._counts[model, temperature]
        counts.failed += 1
        counts.last = public

    def notes(self) -> dict[str, str]:
        """One note for each model and temperature with a high failure rate."""
        found = {}
        for (model, temperature), counts in sorted(self._counts.items()):
            share = counts.failed / (counts.answered + counts.failed)
            if counts.failed >= FEWEST and share >= SMALLEST:
                found[f"{model} at {temperature:g}"] = (
                    f"{model} at temperature {temperature:g}: {share:.0%} of {counts.answered + counts.failed} calls failed and are"
                    f" missing from the scores (most recent reason: {counts.last})"
                )
        return found


CALL_FAILED = "call failed"
"""Prefix of the problem stored with a missing candidate or evaluation."""
_PENDING = "pending"
"""Outcome of an unfinished case."""


@dataclass(frozen=True, slots=True)
class Missing:
    """What a case lacks because calls failed or the judge gave no verdict. A missing evaluation is not a wrong one."""

    candidates: int = 0
    """Mentors' next steps."""
    evaluations: int = 0
    """Evaluations of candidates, whole paths and the baseline."""

    def __bool__(self) -> bool:
        return self != Missing()

    def __add__(self, other: "Missing") -> "Missing":
        return Missing(self.candidates + other.candidates, self.evaluations + other.evaluations)

    def to_json(self) -> dict[str, int]:
        """Return the counts as stored in a result."""
        return {"candidates": self.candidates, "evaluations": self.evaluations}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Missing":
        """Read the counts from a case's record. A pending case has not ended, so nothing is missing yet.

        Older records contain no counts; they are then derived from the tree.
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


class UnitAsk:
    """An ``ask`` for one unit (a case, a row, an item)."""

    def __init__(self, ask: Callable[[Call], Awaitable[Reply]]) -> None:
        """``ask``: answers a call, or raises."""
        self._ask = ask
        self._failed = self._refused = 0

    async def __call__(self, call: Call) -> Reply:
        """Return the reply. See :class:`~chiron.client.call.Ask`."""
        try:
            return await self._ask(call)
        except CallFailed as failure:
            self._failed += 1
            self._refused += isinstance(failure, CallerFault)
            raise

    @property
    def is_refused(self) -> bool:
        """Whether calls failed and all of them would fail again, so that rerunning this unit does not help."""
        return 0 < self._refused == self._failed
