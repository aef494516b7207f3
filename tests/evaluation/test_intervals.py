"""Wilson's interval, against published values and by its properties."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chiron.evaluation.statistics import Share


@pytest.mark.parametrize(
    ("right", "of", "low", "high"),
    # R. G. Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_published_values(right: int, of: int, low: float, high: float) -> None:
    assert Share(right, of).interval == pytest.approx((low, high), abs=5e-5)


@pytest.mark.slow
@given(st.integers(0, 500), st.integers(0, 500))
def test_it_holds_the_share_and_stays_a_share(right: int, wrong: int) -> None:
    share = Share(right, right + wrong)
    low, high = share.interval
    assert 0.0 <= low <= share.value <= high <= 1.0 or share.of == 0
    mirrored = Share(wrong, right + wrong).interval
    assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((low, high))
