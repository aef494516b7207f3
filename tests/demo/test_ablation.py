"""The ablation: its figures are found once, kept apart by scale, and put into tables with mean and spread."""

from pathlib import Path

import pytest

from chiron.demo.data import QUICK, TINY
from chiron.errors import InputError
from experiments import ablation
from experiments.ablation import tables
from experiments.arms import ARMS

pytestmark = pytest.mark.slow


@pytest.mark.slow
def test_figures_are_found_once_and_belong_to_one_scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ablation, "VARIATIONS", {"depth 1": {"depth": 1}, "a weak intern": ablation.VARIATIONS["a weak intern"]})
    monkeypatch.setattr(ablation, "ARMS", {name: ARMS[name] for name in ("a random mentor", "no curriculum")})
    told: list[str] = []
    found = ablation.run_ablation(tmp_path, TINY, [0], processes=1, tell=told.append)
    assert len(told) == 2 + (2 + 2) + (1 + 2) + 2
    assert found[0]["arms"]["a random mentor"]["rows"] == TINY.cases
    assert found[0]["searches"]["depth 1"]["cases"] == found[0]["searches"]["a weak intern"]["cases"] == TINY.cases
    assert set(found[0]["varied"]) == {"nothing", "depth 1", "a weak intern"}
    assert ablation.run_ablation(tmp_path, TINY, [0], processes=1, tell=told.append) == found
    assert len(told) == 11
    with pytest.raises(InputError, match="another scale"):
        ablation.run_ablation(tmp_path, QUICK, [0], processes=1, tell=told.append)


def test_tables_have_mean_and_spread_and_say_where_there_is_nothing() -> None:
    def result(seed: int, right: float, pure: int) -> dict[str, object]:
        eyes = dict.fromkeys(("side", "size", "density", "margin"), right)
        arm = {"rows": 10, "pure": pure, "seen": right, "held_out": right / 2, "without_answer": 0.0, "perception": eyes}
        none = {"rows": 0, "pure": 0, "seen": None, "held_out": None}
        search = {"cases": 20, "retained": 10, "pure": pure, "evaluations": 100, "first": {"cases": 5, "retained": 4, "pure": 3}}
        base = {"seen": 0.5, "held_out": 0.25, "without_answer": 0.0, "perception": eyes}
        bases = {"base": base, "weak": base | {"seen": 0.125}}
        searches = {"verified": search, "s": {key: value for key, value in search.items() if key != "first"}}
        varied = {"nothing": arm, "s": none}
        return {"seed": seed, "scale": "x", "bases": bases, "arms": {"a": arm, "b": none}, "searches": searches, "varied": varied}

    lines = tables([result(0, 0.4, 5), result(1, 0.8, 10)]).splitlines()
    assert "| a | 10 | 0.750 (0.500 to 1.000) | 0.600 (0.400 to 0.800) | 0.300 (0.200 to 0.400) |" in lines
    assert "| b | 0 | - | - | - |" in lines
    assert "| (none: the model of stage 2) | - | - | 0.500 | 0.250 |" in lines
    assert "| (none: the weak intern) | - | - | 0.125 | 0.250 |" in lines
    assert "| verified | 20 | 0.500 | 0.750 (0.500 to 1.000) | 15 (10 to 20) | - | - |" in lines
    assert "| verified, the first 5 of them | 5 | 0.800 | 0.750 | - | 0.600 (0.400 to 0.800) | 0.300 (0.200 to 0.400) |" in lines
    assert "| s | 20 | 0.500 | 0.750 (0.500 to 1.000) | 15 (10 to 20) | - | - |" in lines
