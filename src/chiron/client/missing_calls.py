"""Calls that failed for good: their share by model, what a case lacks because of them, and how the calls of a unit failed."""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from chiron.client.call import Call, Reply
from chiron.client.failures import CallerFault, CallFailed

FEWEST = 3
"""Failed calls before a share is worth a word."""
SMALLEST = 0.05
"""The share of failed calls from which on it is said."""


@dataclass(slots=True)
class _Tally:
    answered: int = 0
    failed: int = 0
    last: str = ""


@dataclass
class FailureRates:
    """Answered and failed calls of this process, by model and temperature."""

    _tallies: defaultdict[tuple[str, float], _Tally] = field(default_factory=lambda: defaultdict(_Tally))

    def answered(self, model: str, temperature: float) -> None:
        """A call got its reply."""
        self._tallies[model, temperature].answered += 1

    def failed(self, model: str, temperature: float, public: str) -> None:
        """A call failed for good; ``public`` is what may be shown of it."""
        tally = self._tallies[model, temperature]
        tally.failed += 1
        tally.last = public

    def notes(self) -> dict[str, str]:
        """A line for each model and temperature whose share of failures is worth one."""
        found = {}
        for (model, temperature), tally in sorted(self._tallies.items()):
            share = tally.failed / (tally.answered + tally.failed)
            if tally.failed >= FEWEST and share >= SMALLEST:
                found[f"{model} at {temperature:g}"] = (
                    f"{model} at temperature {temperature:g}: {share:.0%} of {tally.answered + tally.failed} calls failed, and are missing"
                    f" from the scores (the last so: {tally.last})"
                )
        return found


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


class UnitAsk:
    """An ``ask`` for one unit (a case, a row, an item)."""

    def __init__(self, ask: Callable[[Call], Awaitable[Reply]]) -> None:
        """``ask``: answers a call, or raises."""
        self._ask = ask
        self._failed = self._refused = 0

    async def __call__(self, call: Call) -> Reply:
        """As :class:`~chiron.client.call.Ask`."""
        try:
            return await self._ask(call)
        except CallFailed as failure:
            self._failed += 1
            self._refused += isinstance(failure, CallerFault)
            raise

    @property
    def is_refused(self) -> bool:
        """Whether calls failed, and every one of them would fail again: running again does not help this unit."""
        return 0 < self._refused == self._failed
