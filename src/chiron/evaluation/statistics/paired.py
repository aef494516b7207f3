"""Two models on the same items: whether they differ, and by how much."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from chiron.evaluation.intervals import Share


@dataclass(frozen=True, slots=True)
class Pairs:
    """How often two answerers were right on the same items: whole numbers, but of scaled counts or of means over seeds."""

    both: float = 0
    only_first: float = 0
    only_second: float = 0
    neither: float = 0

    @classmethod
    def of(cls, outcomes: Iterable[tuple[bool, bool]]) -> "Pairs":
        """Counted from (first is right, second is right), an item each."""
        counts = {(True, True): 0, (True, False): 0, (False, True): 0, (False, False): 0}
        for first, second in outcomes:
            counts[first, second] += 1
        return cls(*counts.values())

    @property
    def of_items(self) -> float:
        """All of them."""
        return self.both + self.only_first + self.only_second + self.neither

    @property
    def difference(self) -> float:
        """Share of the first less share of the second, in [-1, 1]; 0 of nothing."""
        return (self.only_first - self.only_second) / self.of_items if self.of_items else 0.0

    def scaled_to(self, number: int) -> "Pairs":
        """The same shares of ``number`` items: of no more than are independent of each other, say."""
        scale = number / self.of_items if self.of_items else 0.0
        return Pairs(self.both * scale, self.only_first * scale, self.only_second * scale, self.neither * scale)


def mcnemar(pairs: Pairs) -> float:
    """Two-sided p-value of McNemar's test, exact.

    Given that two answerers disagree on n items, which of them is right would be a fair coin if they were equally good; the p-value is
    twice the smaller tail of the binomial distribution, at most 1 (Q. McNemar, Psychometrika 12, 1947; the exact conditional form as in
    A. Agresti, Categorical Data Analysis, 2013, section 11.1). Items are taken as independent: where many share an image, look at the
    difference's interval too.

    Raises:
        ValueError: the counts are no whole numbers.
    """
    first, second = int(pairs.only_first), int(pairs.only_second)
    if (first, second) != (pairs.only_first, pairs.only_second):
        raise ValueError("an exact test is of whole numbers of items")
    n, fewer = first + second, min(first, second)
    # Whole numbers, so that no tail is too small to be added up: C(n, k) from C(n, k - 1).
    tail, ways = 0, 1
    for k in range(fewer + 1):
        tail += ways
        ways = ways * (n - k) // (k + 1)
    return min(1.0, _share(2 * tail, n))


def newcombe(pairs: Pairs, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of the difference of two paired shares; (-1, 1) of nothing.

    R. G. Newcombe, Statistics in Medicine 17 (1998), 2635-2650, method 10: Wilson's intervals of both shares, squared and added with the
    correlation of the pairs (continuity corrected where it is positive). It has a width also where no pair differs. Items are taken as
    independent; for grouped ones see :func:`chiron.evaluation.statistics.bootstrap.clustered_difference`.
    """
    n = pairs.of_items
    if not n:
        return -1.0, 1.0
    first = Share(pairs.both + pairs.only_first, n, confidence)
    second = Share(pairs.both + pairs.only_second, n, confidence)
    below_1, above_1 = first.value - first.interval[0], first.interval[1] - first.value
    below_2, above_2 = second.value - second.interval[0], second.interval[1] - second.value
    correlation = _correlation(pairs)
    low = math.sqrt(max(0.0, below_1**2 - 2 * correlation * below_1 * above_2 + above_2**2))
    high = math.sqrt(max(0.0, above_1**2 - 2 * correlation * above_1 * below_2 + below_2**2))
    return max(-1.0, pairs.difference - low), min(1.0, pairs.difference + high)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for how many there are, in the order given.

    S. Holm, Scandinavian Journal of Statistics 6 (1979): the smallest times m, the next times m - 1, ..., never below one before it, never
    above 1. Calling those at or below 0.05 different errs, in the whole family, at most once in twenty; the tests may depend on
    each other in any way.
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def _share(tail: int, n: int) -> float:
    """``tail / 2**n``, also where both are too large for floats: the leading 64 bits of the tail, and then the power."""
    shift = max(0, tail.bit_length() - 64)
    return math.ldexp(float(tail >> shift), shift - n)


def _correlation(pairs: Pairs) -> float:
    a, b, c, d = pairs.both, pairs.only_first, pairs.only_second, pairs.neither
    margins = (a + b) * (c + d) * (a + c) * (b + d)
    if not margins:
        return 0.0
    cross = a * d - b * c
    if cross > 0:
        cross_corrected = max(cross - pairs.of_items / 2, 0.0)
        return cross_corrected / math.sqrt(margins)
    return cross / math.sqrt(margins)
