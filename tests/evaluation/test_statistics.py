"""Each method against published values or scipy, and by what must hold of it."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chiron.evaluation.figures import accuracy, difference
from chiron.evaluation.items import Verdict
from chiron.evaluation.read_runs import Arm
from chiron.evaluation.statistics import (
    Consistency,
    Pairs,
    Share,
    Spread,
    cluster_sign_flip,
    clustered_difference,
    clustered_mean,
    holm,
    mcnemar,
    newcombe,
)
from tests.support.evaluations import an_item, with_verdict
from tests.support.shared_images import Simulated, simulate

counts = st.integers(0, 60)
tables = st.builds(Pairs, counts, counts, counts, counts)


def test_a_published_pair_of_shares() -> None:
    # Airway hyper-responsiveness before and after stem cell transplantation: M. W. Fagerland, S. Lydersen and P. Laake, Statistics in
    # Medicine 33 (2014), tables I and VI.
    pairs = Pairs(both=1, only_first=1, only_second=7, neither=12)
    assert mcnemar(pairs) == pytest.approx(0.0703, abs=5e-5)
    assert newcombe(pairs) == pytest.approx((-0.507, -0.026), abs=5e-4)
    assert pairs.difference == pytest.approx(-0.286, abs=5e-4)


@pytest.mark.slow
@given(st.integers(0, 700), st.integers(0, 700))
def test_mcnemar_is_the_binomial_test(b: int, c: int) -> None:
    from scipy.stats import binomtest

    expected = binomtest(b, b + c).pvalue if b + c else 1.0
    assert mcnemar(Pairs(5, b, c, 7)) == pytest.approx(expected, rel=1e-9, abs=1e-300)


@pytest.mark.parametrize(("right", "of"), [(0, 7), (3, 8), (451, 451)])
def test_the_interval_of_a_share_is_scipys(right: int, of: int) -> None:
    from scipy.stats import binomtest

    theirs = binomtest(right, of).proportion_ci(0.95, "wilson")
    assert Share(right, of).interval == pytest.approx((theirs.low, theirs.high), abs=1e-15)


@pytest.mark.parametrize(
    ("right", "of", "low", "high"),
    # R. G. Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_published_intervals_of_a_share(right: int, of: int, low: float, high: float) -> None:
    assert Share(right, of).interval == pytest.approx((low, high), abs=5e-5)


@pytest.mark.slow
@given(st.integers(0, 500), st.integers(0, 500))
def test_the_interval_holds_the_share_and_stays_a_share(right: int, wrong: int) -> None:
    share = Share(right, right + wrong)
    low, high = share.interval
    assert 0.0 <= low <= share.value <= high <= 1.0 or share.of == 0
    mirrored = Share(wrong, right + wrong).interval
    assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((low, high))


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(tables)
def test_pairs_may_be_swapped(pairs: Pairs) -> None:
    swapped = Pairs(pairs.both, pairs.only_second, pairs.only_first, pairs.neither)
    assert mcnemar(swapped) == mcnemar(pairs)
    low, high = newcombe(pairs)
    assert newcombe(swapped) == pytest.approx((-high, -low))
    assert -1 <= low <= pairs.difference + 1e-12
    assert pairs.difference - 1e-12 <= high <= 1


def test_pairs_are_counted() -> None:
    outcomes = [(True, True), (True, False), (True, False), (False, True), (False, False), (False, False), (False, False)]
    assert Pairs.of(outcomes) == Pairs(1, 2, 1, 3)


@pytest.mark.slow
def test_newcombe_covers_what_it_should() -> None:
    random_ = random.Random(1)
    inside = 0
    for _ in range(200):
        outcomes = [(hard < 0.7, hard < 0.6 if random_.random() < 0.6 else random_.random() < 0.6) for hard in _uniform(random_, 120)]
        low, high = newcombe(Pairs.of(outcomes))
        inside += low <= 0.1 <= high
    assert 0.91 <= inside / 200 <= 0.985


def _uniform(random_: random.Random, count: int) -> list[float]:
    return [random_.random() for _ in range(count)]


def test_holm_on_a_worked_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_keeps_order_and_lies_between_nothing_and_bonferroni(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    for p, a in zip(p_values, adjusted, strict=True):
        assert p <= a <= min(1.0, len(p_values) * p) + 1e-12
    ranked = [a for _, a in sorted(zip(p_values, adjusted, strict=True))]
    assert ranked == sorted(ranked)


def test_a_mean_of_single_items_has_students_interval() -> None:
    from scipy.stats import ttest_1samp

    random_ = random.Random(3)
    values = [random_.gauss(0.5, 0.2) for _ in range(30)]
    found = clustered_mean(values, range(30))
    theirs = ttest_1samp(values, 0).confidence_interval()
    assert found.interval == pytest.approx((theirs.low, theirs.high))
    assert (found.of, found.groups) == (30, 30)


def test_a_mean_of_groups_is_as_statsmodels_has_it() -> None:
    """statsmodels 0.15.0: ``OLS(y, ones).fit(cov_type="cluster", use_t=True)``, and ``GEE(y, ones, family=Binomial())`` with an
    independence structure, its standard error times ``sqrt(G / (G - 1))``, on the logit scale.
    """
    values = [1.0, 1, 1, 0, 1, 1, 0, 0, 0, 1, 1, 1, 1, 1, 0, 1, 1, 1, 0, 1]
    groups = [0, 0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3, 4, 5, 5, 6, 6, 6]
    found = clustered_mean(values, groups)
    assert found.value == pytest.approx(0.7)
    assert found.standard_error == pytest.approx(0.15198684, abs=1e-8)
    assert found.interval == pytest.approx((0.32810160, 1.07189840), abs=1e-8)
    assert found.share_interval == pytest.approx((0.28421539, 0.93202646), abs=1e-8)


def test_copies_of_an_item_add_no_certainty() -> None:
    values = [float(i % 2) for i in range(60)]
    once = clustered_mean(values, range(60))
    thrice = clustered_mean([v for v in values for _ in range(3)], [g for g in range(60) for _ in range(3)])
    alone = clustered_mean([v for v in values for _ in range(3)], range(180))
    assert thrice.standard_error == pytest.approx(once.standard_error)
    assert alone.standard_error < 0.7 * thrice.standard_error


@pytest.mark.parametrize(("images", "accuracy"), [(5, 0.8), (20, 0.8), (20, 0.95), (96, 0.8)])
def test_intervals_cover_what_they_should_with_few_images_too(images: int, accuracy: float) -> None:
    """A percentile bootstrap covers 0.81 of five images; more in bench/README.md."""
    rng = np.random.default_rng(5)
    share = both = 0
    for _ in range(300):
        x = simulate(rng, images, first=accuracy, second=accuracy)
        first, second, image = x.first.tolist(), x.second.tolist(), x.image.tolist()
        # Where all images are alike a table has Wilson's interval, which is wide.
        low, high = clustered_mean(first, image).share_interval or (0, 1)
        share += low <= accuracy <= high
        low, high = clustered_difference(first, second, image).interval or (-1, 1)
        both += low <= 0 <= high
    assert share / 300 >= 0.92
    assert both / 300 >= 0.92


@settings(max_examples=40)
@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 8)), min_size=1, max_size=60))
def test_a_difference_turns_around(outcomes: list[tuple[bool, bool, int]]) -> None:
    first, second, groups = ([row[i] for row in outcomes] for i in range(3))
    there, back = clustered_difference(first, second, groups), clustered_difference(second, first, groups)
    assert back.value == pytest.approx(-there.value)
    assert back.standard_error == pytest.approx(there.standard_error)
    if len(set(groups)) == 1:
        assert there.interval is None


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 8)), min_size=1, max_size=60))
def test_the_interval_of_a_share_stays_a_share(rows: list[tuple[float, int]]) -> None:
    found = clustered_mean([value for value, _ in rows], [group for _, group in rows])
    assert (found.share_interval is None) == (found.interval is None)
    low, high = found.share_interval or (0.0, 1.0)
    assert 0 <= low <= found.value + 1e-12
    assert found.value - 1e-12 <= high <= 1


differences = st.lists(st.tuples(st.integers(-1, 1), st.integers(0, 7)), min_size=1, max_size=40)


@settings(max_examples=40, deadline=None)
@given(differences)
def test_swapping_images_is_scipys_permutation_test(rows: list[tuple[int, int]]) -> None:
    from scipy.stats import permutation_test

    sums = np.zeros(8)
    for difference_, image in rows:
        sums[image] += difference_
    theirs = permutation_test(
        (sums, np.zeros(8)), lambda a, b, axis: (a - b).sum(axis), permutation_type="samples", vectorized=True, n_resamples=np.inf
    )
    ours = cluster_sign_flip([d for d, _ in rows], [i for _, i in rows])
    assert ours == pytest.approx(theirs.pvalue)
    assert cluster_sign_flip([-d for d, _ in rows], [i for _, i in rows]) == pytest.approx(ours)


@pytest.mark.slow
@given(st.lists(st.integers(-1, 1), max_size=200))
def test_with_an_image_for_every_item_swapping_is_mcnemars_test(rows: list[int]) -> None:
    pairs = Pairs(0, rows.count(1), rows.count(-1), rows.count(0))
    assert cluster_sign_flip(rows, range(len(rows))) == pytest.approx(mcnemar(pairs))


@pytest.mark.slow
def test_where_questions_share_images_the_test_keeps_its_size() -> None:
    """Two equally good models on SLAKE's shape; power is 80 against 65 %. More in bench/README.md."""
    rng = np.random.default_rng(7)
    alike = [simulate(rng, correlation=0.5) for _ in range(200)]
    assert sum(swaps(x) < 0.05 for x in alike) <= 0.07 * 200
    # McNemar's test takes questions as independent: it gives a star to far more than one in twenty.
    assert sum(mcnemar(pairs_of(x)) < 0.05 for x in alike[:100]) >= 0.15 * 100
    assert sum(swaps(simulate(rng, second=0.65)) < 0.05 for _ in range(100)) >= 80


def swaps(x: Simulated) -> float:
    return cluster_sign_flip((x.first - x.second).tolist(), x.image.tolist())


def pairs_of(x: Simulated) -> Pairs:
    return Pairs.of((bool(a), bool(b)) for a, b in zip(x.first, x.second, strict=True))


def test_a_mean_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        clustered_mean([], [])
    with pytest.raises(ValueError, match="one group per value"):
        clustered_mean([1.0], [1, 2])


def test_spread() -> None:
    spread = Spread.of([0.6, 0.7, 0.8])
    assert spread
    assert (spread.sd, spread.low, spread.high, spread.seeds) == pytest.approx((0.1, 0.6, 0.8, 3))
    assert Spread.of([0.5]) is None


def test_consistency() -> None:
    found = Consistency.of(
        [
            [("a", True), ("a", True), ("a", True)],
            [("a", True), ("b", False), ("a", True)],
            [(None, False), (None, False)],
            [("a", True)],
        ]
    )
    assert (found.items, found.always_same, found.always_right) == (3, 1, 1)
    assert Consistency.of([]).items == 0


def arm(right: int, wrong: int, images: tuple[str, ...], *, control: str = "none") -> Arm:
    """``right`` and ``wrong`` questions about each of the images."""
    rights = ([True] * right + [False] * wrong) * len(images)
    results = (
        with_verdict(an_item(n, group=images[n // (right + wrong)]), Verdict.RIGHT if good else Verdict.WRONG)
        for n, good in enumerate(rights)
    )
    return Arm("vqa_rad", "huatuo_closed", control, tuple(results))


def test_of_one_image_nothing_follows() -> None:
    better, worse = arm(60, 40, ("one",)), arm(40, 60, ("one",))
    assert difference(better, worse).interval is None
    assert difference(better, better).interval is None
    assert accuracy(arm(10, 0, ("one",)).results).share.interval is None


def test_images_that_come_out_alike_are_as_many_items_as_they_are() -> None:
    better, worse = arm(30, 20, ("one", "two")), arm(20, 30, ("one", "two"))
    found = difference(better, worse)
    assert found.method == "Newcombe"
    assert found.value == pytest.approx(0.2)
    assert found.interval == pytest.approx(newcombe(Pairs(0.8, 0.4, 0.0, 0.8)))
    low, high = found.interval or (0, 0)
    assert high - low > 0.5  # of 2 images, not of 100 questions
    low, high = accuracy(better.results).share.interval or (0, 0)
    assert low < 0.2
    assert high > 0.9
    independent = arm(1, 0, tuple(f"image {n}" for n in range(30)))
    assert difference(independent, independent).method == "Newcombe"


def test_an_exact_test_is_of_whole_numbers() -> None:
    with pytest.raises(ValueError, match="whole"):
        mcnemar(Pairs(1, 0.5, 2, 3))
