"""The study of the full ladder: results are computed once and belong to one scale; the worth of a score, and the tables."""

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from chiron.demo.data import QUICK, TINY, Scale
from chiron.demo.ladder import LADDER
from chiron.errors import InputError
from chiron.evaluation.statistics import clustered_mean
from experiments.ladder import Figures, once, run_study
from experiments.score_worth import Node, auc, calibration
from experiments.tables import tables

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def logging_of_other_tests() -> Iterator[None]:
    """``once`` silences warnings, as in the process of its own that it usually has."""
    yield
    logging.disable(logging.NOTSET)


@dataclass(frozen=True)
class Studied:
    """A study of the ladder, and what it said."""

    folder: Path
    messages: list[str]
    found: list[Figures]

    def again(self, scale: Scale = TINY) -> list[Figures]:
        return run_study(self.folder, scale, [0], only_ladder=True, processes=1, tell=self.messages.append)


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> Studied:
    study = Studied(tmp_path_factory.mktemp("study"), [], [])
    study.found.extend(study.again())
    logging.disable(logging.NOTSET)
    return study


def test_each_result_is_computed_once_and_belongs_to_one_scale(studied: Studied) -> None:
    (found,), messages = studied.found, studied.messages
    assert len(messages) == len(LADDER) + 2 + 2 + 2
    assert set(found["ladder"]) == set(LADDER)
    assert set(found["interns"]) == {"intern-1", "intern-2"}
    assert found["searches"]["search"]["cases"] == TINY.cases
    assert found["ladder"]["random_mentor"]["rows"] == TINY.cases
    assert found["ladder"]["true_chains"]["seen"]["n"] == TINY.evaluated
    assert found["interns"]["intern-1"]["rows"] == TINY.annotated
    assert set(found["after mics_verified"]) == {"preference pairs (DPO)", "more of stage 3 (control)"}
    assert sum(n for _, n in found["ladder"]["base"]["combinations"]["held_out"]) == TINY.evaluated
    assert studied.again() == studied.found
    assert len(messages) == len(LADDER) + 2 + 2 + 2
    for name in LADDER:
        assert f"| {name} |" in tables(studied.found)
    with pytest.raises(InputError, match="another scale"):
        studied.again(QUICK)


def test_results_of_an_older_format_are_computed_again(studied: Studied) -> None:
    path = studied.folder / "0" / "figures" / "ladder-base.json"
    written = path.read_text()
    first = json.loads(written)
    path.write_text(json.dumps({key: value for key, value in first.items() if key not in {"format", "combinations"}}))
    again = once(lambda _: None, studied.folder, TINY, 0, "ladder", "base")
    timed = {"seconds", "cpu_seconds"}
    assert {k: v for k, v in json.loads(json.dumps(again)).items() if k not in timed} == {k: v for k, v in first.items() if k not in timed}
    path.write_text(written)


def test_the_interns_of_a_variation_are_not_evaluated(studied: Studied) -> None:
    once(lambda _: None, studied.folder, TINY, 0, "searches", "10 true chains")
    assert (studied.folder / "0" / "intern-1-of-10" / "model").is_dir()
    assert not (studied.folder / "0" / "intern-1-of-10" / "answers").exists()


def test_the_area_is_the_probability_that_a_true_prefix_scores_higher() -> None:
    assert auc([0.9, 0.8, 0.2], [True, True, False]) == 1
    assert auc([0.1, 0.8], [True, False]) == 0
    assert auc([0.5, 0.5], [True, False]) == 0.5
    assert auc([0.9, 0.3, 0.5, 0.5], [True, True, False, False]) == 0.5
    assert auc([0.9, 0.8], [True, True]) is None


def test_calibration_counts_true_prefixes_at_each_score() -> None:
    assert calibration([1.0, 0.5, 1.0, 0.5], [True, False, True, True]) == [
        {"score": 0.5, "n": 2, "true": 0.5},
        {"score": 1.0, "n": 2, "true": 1.0},
    ]


def test_a_score_counts_the_named_interns_only() -> None:
    node = Node(1, true=True, evaluations=(("a", True), ("a", False), ("b", True)))
    assert node.score() == pytest.approx(2 / 3)
    assert node.score(["a"]) == 0.5
    assert node.score(["c"]) != node.score(["c"])  # NaN: no evaluation of this intern


def test_tables_have_mean_range_and_interval_and_a_dash_for_missing_results() -> None:
    def result(seed: int, right: int, pure: int) -> dict[str, object]:
        share = {"right": right, "n": 10, "interval": [0, 1]}
        pairs = [(2 * (right > 2 * k), 2) for k in range(5)]  # a combination is all right or all wrong
        single = [(int(k < right), 1) for k in range(10)]
        rung = {"name": "x", "rows": 10, "pure": pure, "seen": share, "held_out": share}
        rung["combinations"] = {"seen": single, "held_out": pairs}
        worth = {"n": 4, "auc": 0.75, "calibration": [{"score": 0.5, "n": 4, "true": 0.25}]}
        search = {"cases": 20, "retained": 10, "pure": pure, "evaluations": 100}
        search_with_worth = {**search, "score_worth": {"all": worth, "by_depth": {"1": worth}, "by_interns": {"1": worth}}}
        return {"seed": seed, "scale": "x", "ladder": {"a": rung, "b": {"rows": 0}}, "interns": {}, "searches": {"s": search_with_worth}}

    lines = tables([result(0, 4, 5), result(1, 8, 10)]).splitlines()
    single, pairs = clustered_mean([1.0] * 12 + [0.0] * 8, range(20)), clustered_mean([1.0] * 6 + [0.0] * 4, range(10))
    seen, held_out = ("[{:.3f}, {:.3f}]".format(*mean.share_interval or ()) for mean in (single, pairs))
    assert seen != held_out
    assert f"| a | 10 | 0.750 (0.500 to 1.000) | 0.600 (0.400 to 0.800) {seen} | 0.600 (0.400 to 0.800) {held_out} |" in lines
    assert "| b | 0 | - | - | - |" in lines
    assert "| s | 0.500 | 0.750 (0.500 to 1.000) | 15 (10 to 20) |" in lines
    assert "| s, depth 1 | 4 | 0.750 | 0.5: 0.25 |" in lines


def test_a_mean_that_leaves_out_seeds_says_so() -> None:
    """A search may retain no path with one seed: the rung then has no model."""

    def result(seed: int, *, retained: int) -> dict[str, object]:
        share = {"right": 1, "n": 2, "interval": [0, 1]}
        measured = {"seen": share, "held_out": share, "combinations": {"seen": [(1, 2)], "held_out": [(0, 1), (1, 1)]}, "pure": retained}
        worth: dict[str, object] = {"n": 4, "auc": 0.75 if retained else None, "calibration": []}
        search = {"cases": 20, "retained": retained, "pure": retained, "evaluations": 100}
        search_with_worth = {**search, "score_worth": {"all": worth, "by_depth": {}, "by_interns": {}}}
        rung = {"rows": retained, **(measured if retained else {})}
        return {"seed": seed, "scale": "x", "ladder": {"mics": rung}, "interns": {}, "searches": {"s": search_with_worth}}

    lines = tables([result(0, retained=10), result(1, retained=0), result(2, retained=10)]).splitlines()
    (mics,) = (line for line in lines if line.startswith("| mics |"))
    assert mics.count("2 of 3 seeds") == 3
    assert "| s | 0.333 (0.000 to 0.500) | 1.000, 2 of 3 seeds | 10, 2 of 3 seeds |" in lines
    assert "| s | 4 | 0.750, 2 of 3 seeds |  |" in lines
