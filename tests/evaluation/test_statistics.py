"""Each method against published values or scipy, and by what must hold of it."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chiron.evaluation.figures import accuracy, difference
from chiron.evaluation.record import Verdict
from chiron.evaluation.runs import Arm
from chiron.evaluation.statistics.bootstrap import clustered_difference, clustered_mean
from chiron.evaluation.statistics.paired import Pairs, holm, mcnemar, newcombe
from chiron.evaluation.statistics.repeats import Consistency, Spread
from tests.support.evaluations import an_item, with_verdict

counts = st.integers(0, 60)
tables = st.builds(Pairs, counts, counts, counts, counts)


def test_a_published_pair_of_shares() -> None:
    # Airway hyper-responsiveness before and after stem cell transplantation: M. W. Fagerland, S. Lydersen and P. Laake, Statistics in
    # Medicine 33 (2014), tables I and VI.
    pairs = Pairs(both=1, only_first=1, only_second=7, neither=12)
    assert mcnemar(pairs) == pytest.approx(0.0703, abs=5e-5)
    assert newcombe(pairs) == pytest.approx((-0.507, -0.026), abs=5e-4)
    assert pairs.difference == pytest.approx(-0.286, abs=5e-4)


@given(st.integers(0, 700), st.integers(0, 700))
def test_mcnemar_is_the_binomial_test(b: int, c: int) -> None:
    from scipy.stats import binomtest

    expected = binomtest(b, b + c).pvalue if b + c else 1.0
    assert mcnemar(Pairs(5, b, c, 7)) == pytest.approx(expected, rel=1e-9, abs=1e-300)


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


def test_newcombe_covers_what_it_should() -> None:
    random_ = random.Random(1)
    inside = 0
    for _ in range(400):
        outcomes = [(hard < 0.7, hard < 0.6 if random_.random() < 0.6 else random_.random() < 0.6) for hard in _uniform(random_, 120)]
        low, high = newcombe(Pairs.of(outcomes))
        inside += low <= 0.1 <= high
    assert 0.92 <= inside / 400 <= 0.985


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


def test_the_bootstrap_of_single_items_is_as_wide_as_the_normal_interval() -> None:
    values = [float(i % 5 < 3) for i in range(1000)]
    found = clustered_mean(values, range(1000))
    half = 1.96 * (0.6 * 0.4 / 1000) ** 0.5
    assert found.value == pytest.approx(0.6)
    assert (found.low, found.high) == pytest.approx((0.6 - half, 0.6 + half), abs=0.003)
    assert (found.of, found.groups) == (1000, 1000)


@pytest.mark.parametrize("real", [False, True])
def test_it_agrees_with_scipy(real: bool) -> None:
    import numpy as np
    from scipy.stats import bootstrap

    random_ = random.Random(3)
    values = [random_.random() if real else float(random_.random() < 0.4) for _ in range(300)]
    found = clustered_mean(values, range(300))
    theirs = bootstrap((values,), np.mean, n_resamples=4000, method="percentile", random_state=1).confidence_interval
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=0.006)


def test_copies_of_an_item_add_no_certainty() -> None:
    values = [float(i % 2) for i in range(60)]
    once = clustered_mean(values, range(60))
    thrice = clustered_mean([v for v in values for _ in range(3)], [g for g in range(60) for _ in range(3)])
    alone = clustered_mean([v for v in values for _ in range(3)], range(180))
    assert thrice.high - thrice.low == pytest.approx(once.high - once.low, abs=0.01)
    assert alone.high - alone.low < 0.7 * (thrice.high - thrice.low)


def test_it_covers_what_it_should_with_groups() -> None:
    random_ = random.Random(5)
    inside = 0
    for trial in range(300):
        values, groups = [], []
        for group in range(60):
            ease = random_.choice((0.3, 0.9))
            for _ in range(random_.randint(1, 6)):
                values.append(float(random_.random() < ease))
                groups.append(group)
        found = clustered_mean(values, groups, draws=1000, seed=trial)
        inside += found.low <= 0.6 <= found.high
    assert 0.90 <= inside / 300 <= 0.985


@settings(max_examples=40)
@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 8)), min_size=1, max_size=60))
def test_a_difference_turns_around(outcomes: list[tuple[bool, bool, int]]) -> None:
    first, second, groups = ([row[i] for row in outcomes] for i in range(3))
    there = clustered_difference(first, second, groups, draws=400)
    back = clustered_difference(second, first, groups, draws=400)
    assert back.value == pytest.approx(-there.value)
    assert there.low - 1e-12 <= there.value <= there.high + 1e-12 or there.groups < 12
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low), abs=0.35)
    assert there == clustered_difference(first, second, groups, draws=400)
    assert (there.interval is None) == (len(set(groups)) == 1)


def test_a_bootstrap_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        clustered_mean([], [])
    with pytest.raises(ValueError, match="group for each"):
        clustered_mean([1.0], [1, 2])


def test_spread() -> None:
    spread = Spread.of([0.6, 0.7, 0.8])
    assert (spread.mean, spread.sd, spread.low, spread.high, spread.seeds) == pytest.approx((0.7, 0.1, 0.6, 0.8, 3))
    assert Spread.of([0.5]).sd is None
    with pytest.raises(ValueError, match="no figure"):
        Spread.of([])


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
    assert found.agreement == pytest.approx((1 + 1 / 3 + 0) / 3)
    assert Consistency.of([]).agreement == 0.0


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
