"""What endpoints in trouble do to a whole search: it takes longer, and finds the same. On a virtual clock."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chiron.client.missing_calls import Missing
from chiron.client.retry import RetryPolicy
from tests.support.searching import Searched, latencies, searched
from tests.support.traffic import Traffic

CASES = 6
SECONDS = {"mentor": 10.0, "intern": 4.0, "judge": 1.0}


def search_in(folder: Path, name: str, trouble_of: Callable[[str], dict[str, Any]], **more: Any) -> Searched:
    (folder / name).mkdir()
    return searched(
        folder / name, lambda model, n: Traffic(seconds=latencies(model, SECONDS), seed=n, **trouble_of(model)), cases=CASES, **more
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trouble", "seconds"),
    [
        pytest.param({"limited": 0.1}, 30, id="a tenth limited at random"),
        pytest.param({"down": [(40.0, 340.0)]}, 340, id="down for five minutes"),
        pytest.param({"limited": 0.1, "failed": 0.26, "hung": 0.005, "retry_after": 0.05}, 600, id="a mix of faults"),
    ],
)
def test_trouble_at_every_endpoint_costs_time_and_changes_no_path(tmp_path: Path, trouble: dict[str, Any], seconds: float) -> None:
    calm = search_in(tmp_path, "calm", lambda _: {})
    found = search_in(tmp_path, "trouble", lambda _: trouble)
    assert found.paths == calm.paths
    assert (found.given_up, found.halted) == (0, None)
    assert not any(Missing.of(record) for record in found.records)
    assert found.seconds <= calm.seconds + seconds


@pytest.mark.slow
def test_one_mentor_that_restarts_costs_no_candidate(tmp_path: Path) -> None:
    calm = search_in(tmp_path, "calm", lambda _: {})
    found = search_in(tmp_path, "trouble", lambda model: {"down": [(12.0, 600.0)]} if model == "mentor-b" else {})
    assert found.paths == calm.paths
    assert found.given_up == 0


@pytest.mark.slow
def test_a_mentor_that_stays_away_stops_the_run_and_drops_no_candidate(tmp_path: Path) -> None:
    found = search_in(
        tmp_path, "trouble", lambda model: {"down": [(15.0, 1e9)]} if model == "mentor-b" else {}, policy=RetryPolicy(outage=300.0)
    )
    assert found.halted is not None
    assert found.halted.startswith("model 'mentor-b' failed every call for 5 min, most recently with: connection refused")
    assert not any(Missing.of(record) for record in found.records)


@pytest.mark.slow
def test_the_same_trouble_takes_the_same_time_to_the_millisecond(tmp_path: Path) -> None:
    trouble = {"limited": 0.1, "failed": 0.26}
    first, second = (search_in(tmp_path, name, lambda _: trouble) for name in ("first", "second"))
    assert (first.seconds, first.requests) == (second.seconds, second.requests)
