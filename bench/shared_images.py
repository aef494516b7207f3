"""Intervals and paired tests where questions share images: coverage, size and power on simulated answers."""

import warnings
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap

from bench.table import heading, table
from chiron.evaluation.statistics import Pairs, cluster_sign_flip, clustered_difference, clustered_mean, mcnemar
from tests.support.shared_images import SLAKE, Simulated, simulate

TABLES = 500
"""Simulated data sets a row of the intervals: the standard error of a coverage of 0.95 is 0.010."""
TESTS = 2000
"""Simulated tables a row of the tests: the standard error of a size of 0.05 is 0.005."""
_RESAMPLES = 1000
_SIZES = (5, 10, 20, 50, 200)

Interval = tuple[float, float]


def main() -> None:
    warnings.filterwarnings("ignore", category=RuntimeWarning)  # scipy's bootstrap of groups that are all alike
    warnings.filterwarnings("ignore", message="The BCa confidence interval cannot be calculated")
    heading("Figures where questions share images: `python -m bench shared_images`")
    print(f"Coverage of 95 % intervals of one accuracy; {TABLES} data sets a row (in brackets: mean width in points).\n")
    shares = [(a, rho, n) for a in (0.5, 0.8, 0.95) for rho in (0.25, 0.5) for n in _SIZES]
    table(("accuracy", "correlation", "images", *_SHARE), [(a, rho, n, *_coverage(_SHARE, n, a, a, rho, a)) for a, rho, n in shares])
    print(f"\nCoverage of 95 % intervals of the difference of two models; {TABLES} data sets a row.\n")
    rows = [(a, b, rho, n) for a, b in ((0.8, 0.8), (0.95, 0.85)) for rho in (0.25, 0.5) for n in _SIZES]
    columns = ("accuracies", "correlation", "images", *_DIFFERENCE)
    table(columns, [(f"{a}, {b}", rho, n, *_coverage(_DIFFERENCE, n, a, b, rho, a - b)) for a, b, rho, n in rows])
    print(f"\nSize and power of paired tests at a nominal 0.05; {TESTS} simulated tables a row.\n")
    table(("accuracies", "correlation", "images", *_TESTS, "interval excludes 0"), list(_rejections()))


def _coverage(
    methods: dict[str, Callable[[Simulated], Interval]], images: int, first: float, second: float, rho: float, truth: float
) -> Iterator[str]:
    random = np.random.default_rng(1)
    inside: Counter[str] = Counter()
    width = dict.fromkeys(methods, 0.0)
    for _ in range(TABLES):
        found = simulate(random, images, first=first, second=second, correlation=rho)
        for name, method in methods.items():
            low, high = method(found)
            inside[name] += low - 1e-9 <= truth <= high + 1e-9
            width[name] += 0 if np.isnan(high - low) else high - low
    for name in methods:
        yield f"{inside[name] / TABLES:.3f} ({100 * width[name] / TABLES:.0f})"


def _rejections() -> Iterator[tuple[object, ...]]:
    random = np.random.default_rng(2)
    settings = [
        *((0.8, 0.8, rho, rho, n) for rho in (0.25, 0.5) for n in (10, 20, SLAKE, 200)),
        (0.8, 0.8, 0.05, 0.9, 20),
        (0.8, 0.8, 0.05, 0.9, SLAKE),
        *((0.8, b, rho, rho, SLAKE) for rho in (0.25, 0.5) for b in (0.75, 0.7, 0.65)),
    ]
    for first, second, rho, rho_second, images in settings:
        rejected: Counter[str] = Counter()
        for _ in range(TESTS):
            found = simulate(random, images, first=first, second=second, correlation=rho, correlation_of_second=rho_second)
            for name, test in _TESTS.items():
                rejected[name] += test(found) < 0.05
            low, high = _t_difference(found)
            rejected["interval"] += not low <= 0 <= high
        told = f"{rho}" if rho == rho_second else f"{rho} and {rho_second}"
        yield f"{first}, {second}", told, images, *(f"{rejected[name] / TESTS:.3f}" for name in (*_TESTS, "interval"))


def _mcnemar(found: Simulated) -> float:
    return mcnemar(Pairs.of((bool(a), bool(b)) for a, b in zip(found.first, found.second, strict=True)))


def _swaps(found: Simulated) -> float:
    return cluster_sign_flip((found.first - found.second).tolist(), found.image.tolist())


def _t(found: Simulated) -> Interval:
    mean = clustered_mean(found.first.tolist(), found.image.tolist())
    return mean.interval or (mean.value, mean.value)


def _logit_t(found: Simulated) -> Interval:
    """As tables have it: Wilson's interval where all images are alike."""
    from chiron.evaluation.figures import scores
    from tests.support.evaluations import an_item

    mean = clustered_mean(found.first.tolist(), found.image.tolist())
    if (interval := mean.share_interval) is not None:
        return interval
    items = [an_item(n, group=f"{i}", scores={"right": float(r)}) for n, (i, r) in enumerate(zip(found.image, found.first, strict=True))]
    return scores(items)["right"].interval or (0.0, 1.0)


def _t_difference(found: Simulated) -> Interval:
    mean = clustered_difference(found.first.tolist(), found.second.tolist(), found.image.tolist())
    return mean.interval or (mean.value, mean.value)


def _resampled(values: NDArray[np.int_], image: NDArray[np.int_], method: str) -> Interval:
    sums, sizes = np.bincount(image, weights=values), np.bincount(image).astype(float)
    found = bootstrap((sums, sizes), _ratio, paired=True, n_resamples=_RESAMPLES, method=method, rng=np.random.default_rng(3))
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def _ratio(sums: NDArray[np.float64], sizes: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
    return np.asarray(sums.sum(axis) / sizes.sum(axis))


_SHARE: dict[str, Callable[[Simulated], Interval]] = {
    "percentile bootstrap": lambda x: _resampled(x.first, x.image, "percentile"),
    "BCa bootstrap": lambda x: _resampled(x.first, x.image, "BCa"),
    "cluster t": _t,
    "cluster t, logit scale (used)": _logit_t,
}
_DIFFERENCE: dict[str, Callable[[Simulated], Interval]] = {
    "percentile bootstrap": lambda x: _resampled(x.first - x.second, x.image, "percentile"),
    "BCa bootstrap": lambda x: _resampled(x.first - x.second, x.image, "BCa"),
    "cluster t (used)": _t_difference,
}
_TESTS: dict[str, Callable[[Simulated], float]] = {"McNemar's": _mcnemar, "swaps of images (used)": _swaps}
