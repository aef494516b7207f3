"""Intervals for means of items that are not independent: several questions about one image, or one question asked several times."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DRAWS = 10_000
"""Resamples: the ends of a 95 % interval then move by less than a twentieth of its width from seed to seed."""
_CELLS = 4_000_000
"""Counts held at a time (32 MB)."""
_FEW = 256
"""Kinds of groups up to which counting kinds is faster than drawing groups."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean and its interval."""

    value: float
    low: float
    high: float
    of: int
    """Observations."""
    groups: int
    """What was drawn: images, or whatever the observations are grouped by."""

    @property
    def interval(self) -> tuple[float, float] | None:
        """Both ends; ``None`` of fewer than two groups, from which nothing about others follows."""
        return (self.low, self.high) if self.groups >= 2 else None


def clustered_mean(
    values: Sequence[float], groups: Sequence[Hashable], *, confidence: float = 0.95, draws: int = DRAWS, seed: int = 0
) -> Estimate:
    """Mean over observations with the percentile interval of a bootstrap that draws whole groups.

    Groups are drawn with replacement, as many as there are, and each brings all of its observations (A. C. Davison and D. V. Hinkley,
    Bootstrap Methods and their Application, 1997, section 3.8; C. A. Field and A. H. Welsh, Journal of the Royal Statistical Society B
    69, 2007). With every observation in a group of its own it is Efron's bootstrap (1979). It has no width where all groups have the
    same mean, and is too narrow below some twenty groups.

    Args:
        values: one an observation, any finite unit.
        groups: of each observation, in the same order.
        confidence: of the interval.
        draws: how many resamples.
        seed: the same seed gives the same interval.

    Raises:
        ValueError: nothing is given, or not a group for each value.
    """
    if len(values) != len(groups) or not values:
        raise ValueError(f"{len(values)} values of {len(groups)} groups: give at least one, and a group for each")
    numbers: dict[Hashable, int] = {}
    place = np.fromiter((numbers.setdefault(g, len(numbers)) for g in groups), dtype=np.intp, count=len(groups))
    observed = np.asarray(values, dtype=np.float64)
    sums = np.bincount(place, weights=observed).astype(np.float64)
    sizes = np.bincount(place).astype(np.float64)
    means = _resampled_means(sums, sizes, draws, np.random.default_rng(seed))
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(float(observed.mean()), float(low), float(high), len(values), len(numbers))


def clustered_difference(
    first: Sequence[float],
    second: Sequence[float],
    groups: Sequence[Hashable],
    *,
    confidence: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> Estimate:
    """Mean of ``first - second`` over the same observations, with :func:`clustered_mean`'s interval.

    The pairing is kept: a resample takes both values of an observation, so what both find hard does not widen the interval.

    Raises:
        ValueError: as :func:`clustered_mean`, or not as many of the one as of the other.
    """
    differences = [a - b for a, b in zip(first, second, strict=True)]
    return clustered_mean(differences, groups, confidence=confidence, draws=draws, seed=seed)


def _resampled_means(sums: NDArray[np.float64], sizes: NDArray[np.float64], draws: int, random: np.random.Generator) -> NDArray[np.float64]:
    """Means of ``draws`` resamples of groups with these sums and sizes; ``(draws,)``.

    Groups of the same sum and size cannot be told apart, so how often each such kind is drawn is one multinomial number. For right and
    wrong answers that leaves a handful of kinds, however many groups there are. Where there are many kinds, groups are drawn one by one.
    """
    kinds, counts = np.unique(np.stack([sums, sizes], axis=1), axis=0, return_counts=True)
    total, few = len(sums), len(kinds) <= _FEW
    step = max(1, _CELLS // (len(kinds) if few else total))
    means = []
    for start in range(0, draws, step):
        size = min(step, draws - start)
        if few:
            drawn = random.multinomial(total, counts / total, size=size).astype(np.float64)
            means.append((drawn @ kinds[:, 0]) / (drawn @ kinds[:, 1]))
        else:
            places = random.integers(0, total, (size, total), dtype=np.int32)
            means.append(sums[places].sum(axis=1) / sizes[places].sum(axis=1))
    return np.concatenate(means)
