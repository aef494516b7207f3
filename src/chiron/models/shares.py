"""How large a share of a model's calls fails for good, by temperature: a failed evaluation is missing, so a model that keeps failing at
one temperature tilts every score, and nobody would know.
"""

from collections import defaultdict
from dataclasses import dataclass, field

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
class Shares:
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
