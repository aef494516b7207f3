"""How sure a share of so many items is."""

import math
from dataclasses import dataclass

from chiron.evaluation.statistics.scipy_stats import scipy_stats

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Share:
    """Right answers of all, with Wilson's interval (E. B. Wilson, 1927), which stays within [0, 1] and holds for small counts too."""

    right: float
    """A whole number, except where observations are scaled to how many of them are independent."""
    of: float
    """A whole number."""
    confidence: float = 0.95

    @property
    def value(self) -> float:
        """In [0, 1]; 0 of nothing is 0."""
        return self.right / self.of if self.of else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper end, both in [0, 1]; (0, 1) of nothing.

        Counts that are not whole are rounded outward: the interval reaches from the lower end of the count below to the upper end of the
        count above.

        Raises:
            InputError: scipy is not installed.
        """
        of = round(self.of)
        if not of:
            return 0.0, 1.0
        below, above = math.floor(self.right + _ROUNDING), math.ceil(self.right - _ROUNDING)
        return _wilson(below, of, self.confidence)[0], _wilson(above, of, self.confidence)[1]


def _wilson(right: int, of: int, confidence: float) -> tuple[float, float]:
    found = scipy_stats().binomtest(right, of).proportion_ci(confidence, method="wilson")
    # If none or all are right that end is exact, and rounding must not move it.
    return 0.0 if right == 0 else float(found.low), 1.0 if right == of else float(found.high)
