"""How sure a share of so many items is."""

import math
from dataclasses import dataclass
from statistics import NormalDist


@dataclass(frozen=True, slots=True)
class Share:
    """Right of all, with Wilson's interval (E. B. Wilson, 1927), which stays within [0, 1] and is right for small counts too."""

    right: float
    """Whole, but where the observations are scaled to how many of them are independent."""
    of: float
    confidence: float = 0.95

    @property
    def value(self) -> float:
        """In [0, 1]; 0 of nothing is 0."""
        return self.right / self.of if self.of else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper end, both in [0, 1]; (0, 1) of nothing."""
        if not self.of:
            return 0.0, 1.0
        z = NormalDist().inv_cdf(0.5 + self.confidence / 2)
        n, p = self.of, self.value
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        # None right or all right: the end is there exactly, and rounding is not to move it.
        return 0.0 if self.right == 0 else max(0.0, middle - half), 1.0 if self.right == n else min(1.0, middle + half)
