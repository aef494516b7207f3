"""Intervals of means and shares: Wilson, cluster-robust t, and figures over seeds."""

import math
import statistics
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from chiron.errors import InputError


def scipy_stats() -> Any:
    """The module ``scipy.stats``.

    Raises:
        InputError: scipy is not installed.
    """
    try:
        import scipy.stats
    except ModuleNotFoundError as error:
        raise InputError(f"intervals and tests need scipy ({error}): pip install 'chiron-med[eval]'") from error
    return scipy.stats


_NO_WIDTH = 1e-9
"""A standard error below this is a rounding error."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean, its standard error, and the Student's t quantile that makes an interval of them."""

    value: float
    standard_error: float
    """Robust to any dependence within groups; 0 where all groups have the same mean."""
    quantile: float
    of: int
    """Observations."""
    groups: int
    """Independent groups of observations: images, or whatever the observations are grouped by."""

    @property
    def has_width(self) -> bool:
        """Whether an interval can be computed: there are two groups or more, and their means differ."""
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
        """The interval of a mean of values in [0, 1], computed on the logit scale, so that it stays within [0, 1].

        Near 0 and 1 the plain interval covers far less than it should (``python -m bench shared_images``); this one does not. ``None``
        without :attr:`has_width`.
        """
        if not self.has_width:
            return None
        spread = self.value * (1 - self.value)
        middle, half = math.log(self.value / (1 - self.value)), self.quantile * self.standard_error / spread
        return _logistic(middle - half), _logistic(middle + half)


def clustered_mean(values: Sequence[float], groups: Sequence[Hashable], *, confidence: float = 0.95) -> Estimate:
    """Mean over observations, with a standard error that takes whole groups as independent.

    The variance is ``G / (G - 1) * sum_g (sum_{i in g} (x_i - mean))**2 / N**2``: the cluster-robust (sandwich) variance of an intercept
    (K.-Y. Liang and S. L. Zeger, Biometrika 73, 1986; A. C. Cameron and D. L. Miller, Journal of Human Resources 50, 2015, section II),
    used with Student's t of G - 1 degrees of freedom.

    Args:
        values: one per observation, in any finite unit.
        groups: the group of each observation, in the same order.
        confidence: of the interval.

    Raises:
        ValueError: nothing is given, or not one group per value.
        InputError: scipy is not installed.
    """
    if len(values) != len(groups) or not values:
        raise ValueError(f"{len(values)} values of {len(groups)} groups: give at least one, and a group for each")
    numbers: dict[Hashable, int] = {}
    index = np.fromiter((numbers.setdefault(g, len(numbers)) for g in groups), dtype=np.intp, count=len(groups))
    observed = np.asarray(values, dtype=np.float64)
    mean, total = float(observed.mean()), len(numbers)
    if total < 2:
        return Estimate(mean, 0.0, math.inf, len(values), total)
    residuals = np.bincount(index, weights=observed - mean)
    error = math.sqrt(total / (total - 1) * float(residuals @ residuals)) / len(values)
    quantile = float(scipy_stats().t.ppf(0.5 + confidence / 2, total - 1))
    return Estimate(mean, error, quantile, len(values), total)


def clustered_difference(
    first: Sequence[float], second: Sequence[float], groups: Sequence[Hashable], *, confidence: float = 0.95
) -> Estimate:
    """Mean of ``first - second`` over the same observations, as :func:`clustered_mean` estimates it.

    The pairing is kept, so what both find hard does not widen the interval.

    Raises:
        ValueError: as :func:`clustered_mean`, or the two have different lengths.
    """
    differences = [a - b for a, b in zip(first, second, strict=True)]
    return clustered_mean(differences, groups, confidence=confidence)


def _logistic(x: float) -> float:
    # Never the exponential of a large positive number, which overflows.
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over seeds."""

    mean: float
    sd: float | None
    """Sample standard deviation (divided by n - 1); ``None`` of one seed."""
    low: float
    high: float
    """Smallest and largest."""
    seeds: int

    @classmethod
    def of(cls, figures: Sequence[float]) -> "Spread":
        """Of one figure a seed.

        Raises:
            ValueError: there is none.
        """
        if not figures:
            raise ValueError("no figure to spread")
        sd = statistics.stdev(figures) if len(figures) > 1 else None
        return cls(statistics.fmean(figures), sd, min(figures), max(figures), len(figures))


@dataclass(frozen=True, slots=True)
class Consistency:
    """Whether answers stay the same when the options stand in another order."""

    items: int
    """Asked in at least two orders."""
    always_same: int
    """Items with one and the same answer in every order."""
    always_right: int
    """Items that are right in every order."""
    agreement: float
    """Mean over items of the share of pairs of orders with the same answer; 0 of no items."""

    @classmethod
    def of(cls, items: Iterable[Sequence[tuple[str | None, bool]]]) -> "Consistency":
        """From each item's (answer in words, whether it is right) in every order; items of one order are left out.

        An answer that could not be read (``None``) is the same as no other.
        """
        number = same = right = 0
        agreement = 0.0
        for answers in items:
            if len(answers) < 2:
                continue
            pairs = [a is not None and a == b for (a, _), (b, _) in combinations(answers, 2)]
            number += 1
            same += all(pairs)
            right += all(is_right for _, is_right in answers)
            agreement += sum(pairs) / len(pairs)
        return cls(number, same, right, agreement / number if number else 0.0)


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
