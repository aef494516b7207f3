"""Paired comparison of two models on the same items: tests and intervals of their difference."""

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from chiron.evaluation.statistics.intervals import Share, scipy_stats


@dataclass(frozen=True, slots=True)
class Pairs:
    """How often two models were right on the same items. Counts are whole numbers unless scaled or averaged over seeds."""

    both: float = 0
    only_first: float = 0
    only_second: float = 0
    neither: float = 0

    @classmethod
    def of(cls, outcomes: Iterable[tuple[bool, bool]]) -> "Pairs":
        """Count from one (first is right, second is right) pair per item."""
        counts = {(True, True): 0, (True, False): 0, (False, True): 0, (False, False): 0}
        for first, second in outcomes:
            counts[first, second] += 1
        return cls(*counts.values())

    @property
    def of_items(self) -> float:
        """Total number of items."""
        return self.both + self.only_first + self.only_second + self.neither

    @property
    def difference(self) -> float:
        """Share of the first minus share of the second, in [-1, 1]; 0 with no items."""
        return (self.only_first - self.only_second) / self.of_items if self.of_items else 0.0

    def scaled_to(self, number: int) -> "Pairs":
        """Return the same shares of ``number`` items, for example of the number of independent items."""
        scale = number / self.of_items if self.of_items else 0.0
        return Pairs(self.both * scale, self.only_first * scale, self.only_second * scale, self.neither * scale)


def mcnemar(pairs: Pairs) -> float:
    """Compute the two-sided p-value of McNemar's exact test.

    If two equally good models disagree on n items, which one is right is a fair coin for each item. The p-value is that of a binomial test
    (Q. McNemar, Psychometrika 12, 1947; exact conditional form as in A. Agresti, Categorical Data Analysis, 2013, section 11.1). Items are
    assumed independent. Where several share an image, use :func:`cluster_sign_flip`.

    Raises:
        ValueError: the counts are not whole numbers.
        InputError: scipy is not installed.
    """
    first, second = int(pairs.only_first), int(pairs.only_second)
    if (first, second) != (pairs.only_first, pairs.only_second):
        raise ValueError("an exact test is of whole numbers of items")
    return float(scipy_stats().binomtest(first, first + second).pvalue) if first + second else 1.0


def cluster_sign_flip(differences: Sequence[int], groups: Sequence[Hashable]) -> float:
    """Compute the two-sided, exact p-value of a paired permutation test that swaps the models' answers for whole groups.

    If the models are equally good, which of them gave a group's answers is a fair coin, however the items of a group depend on each other.
    The p-value is the share of all 2**G swaps after which the sum of differences is at least as far from 0 as observed (R. A. Fisher, The
    Design of Experiments, 1935, section 21; for clusters S. Datta and G. A. Satten, Biometrics 64, 2008, and A. M. Winkler et al.,
    NeuroImage 123, 2015). Sums are whole numbers, so all swaps are counted by convolving the groups one by one. Nothing is sampled, so no
    seed is needed. Where every item is its own group, the result equals :func:`mcnemar`.

    Args:
        differences: for each item, right answers of the first minus right answers of the second: -1, 0 or 1.
        groups: the group (image) of each item, in the same order.

    Raises:
        ValueError: the number of groups is not the number of differences.
    """
    sums: dict[Hashable, int] = {}
    for difference, group in zip(differences, groups, strict=True):
        sums[group] = sums.get(group, 0) + difference
    sizes = [abs(s) for s in sums.values() if s]
    total, observed = sum(sizes), abs(sum(sums.values()))
    # chance[k]: probability that the groups in favor of the first have sizes that sum to k.
    chance = np.zeros(total + 1)
    chance[0] = 1.0
    for size in sizes:
        moved = np.zeros_like(chance)
        moved[size:] = chance[:-size]
        chance = (chance + moved) / 2
    far = np.abs(2 * np.arange(total + 1) - total) >= observed
    return min(1.0, float(chance[far].sum()))


def newcombe(pairs: Pairs, confidence: float = 0.95) -> tuple[float, float]:
    """Compute the interval of the difference of two paired shares; (-1, 1) with no items.

    R. G. Newcombe, Statistics in Medicine 17 (1998), 2635-2650, method 10. Wilson's intervals of both shares are squared and added with the
    correlation of the pairs (continuity corrected where it is positive). The interval has a width even where no pair differs. Items are
    assumed independent; for grouped items use :func:`chiron.evaluation.statistics.intervals.clustered_difference`.
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
    """Adjust p-values for their number with Holm's method; the order is kept.

    S. Holm, Scandinavian Journal of Statistics 6 (1979). The smallest is multiplied by m, the next by m - 1, and so on. An adjusted value
    is never below the one before it and never above 1. Rejecting at or below 0.05 has at most a 5% chance of any false rejection in the
    whole family. The tests may depend on each other in any way.
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


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
