"""Intervals for means of items that are not independent: several questions about one image, or one question asked several times."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from chiron.evaluation.statistics.scipy_stats import scipy_stats

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
