"""Intervals (Wilson, Newcombe, cluster-robust t), exact paired tests, Holm's correction, and figures over seeds."""

import math
import statistics
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from chiron.errors import InputError
from chiron.extras import install_command


def need_scipy() -> None:
    """Check that scipy is installed, without the 0.2 s of CPU that importing ``scipy.special`` takes.

    Raises:
        InputError: scipy is not installed.
    """
    if find_spec("scipy") is None:
        raise InputError(f"intervals and tests need scipy (it is not installed): {install_command('eval')}")


def scipy_special() -> Any:
    """Import and return the module ``scipy.special``. ``scipy.stats`` has the same methods, but takes a second to import.

    Raises:
        InputError: scipy is not installed.
    """
    try:
        import scipy.special
    except ModuleNotFoundError as error:
        raise InputError(f"intervals and tests need scipy ({error}): {install_command('eval')}") from error
    return scipy.special


_NO_WIDTH = 1e-9
"""A standard error below this is a rounding error."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean, its standard error, and the Student's t quantile of its 95 % interval."""

    value: float
    standard_error: float
    """Robust to any dependence within groups; 0 where all groups have the same mean."""
    quantile: float
    of: int
    """Number of observations."""
    groups: int
    """Number of independent groups of observations, for example images."""

    @property
    def has_width(self) -> bool:
        """Whether an interval can be computed: there are at least two groups and their means differ."""
        return self.groups >= 2 and self.standard_error > _NO_WIDTH

    @property
    def interval(self) -> tuple[float, float] | None:
        """Value plus or minus quantile times standard error; ``None`` without :attr:`has_width`."""
        if not self.has_width:
            return None
        half = self.quantile * self.standard_error
        return self.value - half, self.value + half

    @property
    def share_interval(self) -> tuple[float, float] | None:
        """Interval of a mean of values in [0, 1]. It is computed on the logit scale, so it stays within [0, 1].

        Near 0 and 1 the plain interval covers far less than it should (``python -m bench shared_images``); this one does not. ``None``
        without :attr:`has_width`.
        """
        if not self.has_width:
            return None
        spread = self.value * (1 - self.value)
        middle, half = math.log(self.value / (1 - self.value)), self.quantile * self.standard_error / spread
        return _logistic(middle - half), _logistic(middle + half)


def clustered_mean(values: Sequence[float], groups: Sequence[Hashable]) -> Estimate:
    """Compute the mean over observations, with a standard error that treats whole groups as independent.

    The variance is ``G / (G - 1) * sum_g (sum_{i in g} (x_i - mean))**2 / N**2``: the cluster-robust (sandwich) variance of an intercept
    (K.-Y. Liang and S. L. Zeger, Biometrika 73, 1986; A. C. Cameron and D. L. Miller, Journal of Human Resources 50, 2015, section II),
    used with Student's t of G - 1 degrees of freedom.

    Args:
        values: one per observation, in any finite unit.
        groups: the group of each observation, in the same order.

    Raises:
        ValueError: nothing is given, or the number of groups is not the number of values.
        InputError: scipy is not installed.
    """
    import numpy as np

    if len(values) != len(groups) or not values:
        raise ValueError(f"{len(values)} values of {len(groups)} groups: give at least one value, and one group per value")
    numbers: dict[Hashable, int] = {}
    index = np.fromiter((numbers.setdefault(g, len(numbers)) for g in groups), dtype=np.intp, count=len(groups))
    observed = np.asarray(values, dtype=np.float64)
    mean, total = float(observed.mean()), len(numbers)
    if total < 2:
        return Estimate(mean, 0.0, math.inf, len(values), total)
    residuals = np.bincount(index, weights=observed - mean)
    error = math.sqrt(total / (total - 1) * float(residuals @ residuals)) / len(values)
    quantile = float(scipy_special().stdtrit(total - 1, 0.975))
    return Estimate(mean, error, quantile, len(values), total)


def clustered_difference(first: Sequence[float], second: Sequence[float], groups: Sequence[Hashable]) -> Estimate:
    """Compute the mean of ``first - second`` over the same observations, as :func:`clustered_mean` does.

    The pairing is kept, so items that are hard for both do not widen the interval.

    Raises:
        ValueError: as :func:`clustered_mean`, or the two have different lengths.
    """
    return clustered_mean([a - b for a, b in zip(first, second, strict=True)], groups)


def _logistic(x: float) -> float:
    # exp() of a large positive number overflows, so use the form with the negative exponent.
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over seeds."""

    sd: float
    """Sample standard deviation (divided by n - 1)."""
    low: float
    high: float
    """Smallest (``low``) and largest (``high``) value."""
    seeds: int

    @classmethod
    def of(cls, figures: Sequence[float]) -> "Spread | None":
        """Summarize one figure per seed; ``None`` with fewer than two."""
        return cls(statistics.stdev(figures), min(figures), max(figures), len(figures)) if len(figures) > 1 else None


@dataclass(frozen=True, slots=True)
class Consistency:
    """How often answers stay the same when the options are in another order."""

    items: int
    """Number of items asked in at least two orders."""
    always_same: int
    """Items with the same answer in every order."""
    always_right: int
    """Items that are right in every order."""

    @classmethod
    def of(cls, items: Iterable[Sequence[tuple[str | None, bool]]]) -> "Consistency":
        """Count from each item's (answer in words, whether it is right) in every order. Items with one order are left out.

        An answer that could not be read (``None``) equals no other answer.
        """
        several = [answers for answers in items if len(answers) > 1]
        same = sum(answers[0][0] is not None and len({answer for answer, _ in answers}) == 1 for answers in several)
        return cls(len(several), same, sum(all(right for _, right in answers) for answers in several))


_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Share:
    """Right answers out of all, with Wilson's 95 % interval (E. B. Wilson, 1927). Stays within [0, 1]; also holds for small counts."""

    right: float
    """A whole number, except where observations are scaled to the number of independent ones."""
    of: float
    """A whole number."""

    @property
    def value(self) -> float:
        """The share, in [0, 1]; 0 if ``of`` is 0."""
        return self.right / self.of if self.of else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper end, both in [0, 1]; (0, 1) if ``of`` is 0.

        Counts that are not whole are rounded outward. The lower end is that of the next lower count, the upper end that of the next higher.
        """
        of = round(self.of)
        if not of:
            return 0.0, 1.0
        below, above = math.floor(self.right + _ROUNDING), math.ceil(self.right - _ROUNDING)
        return _wilson(below, of)[0], _wilson(above, of)[1]


def _wilson(right: int, of: int) -> tuple[float, float]:
    z = 1.959963984540054  # scipy.special.ndtri(0.975); importing scipy takes 0.2 s of CPU of every command that evaluates
    middle = (right + z * z / 2) / (of + z * z)
    half = z / (of + z * z) * math.sqrt(right * (of - right) / of + z * z / 4)
    # If none or all are right, that end is exact. Set it so that rounding cannot move it.
    return 0.0 if right == 0 else middle - half, 1.0 if right == of else middle + half


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
        counts = Counter(outcomes)
        return cls(counts[True, True], counts[True, False], counts[False, True], counts[False, False])

    @property
    def of_items(self) -> float:
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
        raise ValueError("an exact test needs whole numbers of items")
    # A fair coin is symmetric: both tails are equal, and they meet if the counts are equal.
    return 1.0 if first == second else min(1.0, 2 * float(scipy_special().bdtr(min(first, second), first + second, 0.5)))


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
    import numpy as np

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


def newcombe(pairs: Pairs) -> tuple[float, float]:
    """Compute the 95 % interval of the difference of two paired shares; (-1, 1) with no items.

    R. G. Newcombe, Statistics in Medicine 17 (1998), 2635-2650, method 10. Wilson's intervals of both shares are squared and added with the
    correlation of the pairs (continuity corrected where it is positive). The interval has a width even where no pair differs. Items are
    assumed independent; for grouped items use :func:`clustered_difference`.
    """
    n = pairs.of_items
    if not n:
        return -1.0, 1.0
    first = Share(pairs.both + pairs.only_first, n)
    second = Share(pairs.both + pairs.only_second, n)
    below_1, above_1 = first.value - first.interval[0], first.interval[1] - first.value
    below_2, above_2 = second.value - second.interval[0], second.interval[1] - second.value
    correlation = _correlation(pairs)
    low = math.sqrt(max(0.0, below_1**2 - 2 * correlation * below_1 * above_2 + above_2**2))
    high = math.sqrt(max(0.0, above_1**2 - 2 * correlation * above_1 * below_2 + below_2**2))
    return max(-1.0, pairs.difference - low), min(1.0, pairs.difference + high)


def mean_interval(figures: Sequence[tuple[float, tuple[float, float]]]) -> tuple[float, float]:
    """Compute the interval of the mean of independent figures, each given as (value, its interval).

    The distances from the values to their lower ends are squared and added, and so are those to the upper ends (MOVER: G. Y. Zou, W. Huang
    and X. Zhang, Computational Statistics & Data Analysis 53, 2009, for linear functions of shares).

    Raises:
        ValueError: ``figures`` is empty.
    """
    mean = statistics.fmean(value for value, _ in figures)
    below = math.hypot(*(value - low for value, (low, _) in figures)) / len(figures)
    above = math.hypot(*(high - value for value, (_, high) in figures)) / len(figures)
    return mean - below, mean + above


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
        cross = max(cross - pairs.of_items / 2, 0.0)
    return cross / math.sqrt(margins)
