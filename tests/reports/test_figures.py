from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chiron.reports.figures import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, histogram, uplift

scores = st.floats(0, 1)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.tuples(scores, st.booleans()), st.integers(1, 10**6), max_size=40))
def test_every_case_has_a_place_inside_the_axes(counts: dict[tuple[float, bool], int]) -> None:
    figure = histogram(Counter(counts), 0.5)
    assert sum(bar.total for bar in figure.bars) == sum(counts.values())
    for bar in figure.bars:
        assert LEFT <= bar.x <= bar.x + bar.width <= WIDTH - RIGHT
        assert TOP - 1e-6 <= bar.others_y <= bar.retained_y <= HEIGHT - BOTTOM
    assert len(figure.y_ticks) <= 6


@pytest.mark.parametrize(
    ("score", "words"),
    [
        (0.0, "exactly 0"),
        (1 / 6, "above 0.1 up to 0.2"),
        (0.3, "above 0.2 up to 0.3"),
        (0.5, "above 0.4 up to 0.5"),
        (0.7, "above 0.6 up to 0.7"),
        (11 / 12, "above 0.9 up to 1.0"),
        (1.0, "exactly 1"),
    ],
)
def test_intervals_are_closed_above(score: float, words: str) -> None:
    assert histogram(Counter({(score, True): 1}), None).words == f"{words}: 1 retained, 0 not"


def test_the_threshold_stands_between_what_is_retained_and_what_is_not() -> None:
    figure = histogram(Counter({(0.5, False): 1, (0.51, True): 1}), 0.5)
    low, high = (bar for bar in figure.bars if bar.total)
    assert figure.threshold_x is not None
    assert low.x + low.width < figure.threshold_x < high.x


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.tuples(scores, scores), st.integers(1, 1000), min_size=1, max_size=40))
def test_bubbles(pairs: dict[tuple[float, float], int]) -> None:
    figure = uplift(Counter(pairs))
    assert figure.better + figure.same + figure.worse == sum(pairs.values())
    for bubble in figure.bubbles:
        assert bubble.x - bubble.radius > LEFT
        assert bubble.y + bubble.radius < HEIGHT - BOTTOM
