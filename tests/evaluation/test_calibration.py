"""Calibration of stated confidence."""

import json
import random
from pathlib import Path

import pytest

from chiron.evaluation.calibration import calibration_grids, stated_confidence
from chiron.evaluation.items import Item, Verdict
from chiron.evaluation.protocols.protocol import chosen_option
from chiron.evaluation.read_runs import read_evaluations
from chiron.evaluation.samples import calibration_of
from tests.support.command import Cli, chiron
from tests.support.evaluations import an_item, write_evaluation


@pytest.mark.parametrize(
    ("reply", "confidence"),
    [
        ("Answer: B\nConfidence: 80%", 0.8),
        ("B. **Confidence:** 0.85", 0.85),
        ("My confidence is 75 %.", 0.75),
        ("Confidence level: 8/10", 0.8),
        ("Confidence = 80/100", 0.8),
        ("confidence: 90", 0.9),
        ("Confidence: 1.0", 1.0),
        ("Confidence: 0", 0.0),
        ("Confidence: 40%. On reflection, Confidence: 60%", 0.6),
        ("<think>Confidence: 10%</think>B", None),
        ("Confidence: 1", None),
        ("Confidence: 250", None),
        ("The 95 % confidence interval is wide.", None),
        ("Confidence: high", None),
        ("B", None),
    ],
)
def test_a_confidence_is_read_only_if_it_is_clear(reply: str, confidence: float | None) -> None:
    assert stated_confidence(reply) == (None if confidence is None else pytest.approx(confidence))


def test_a_stated_confidence_does_not_hide_the_answer() -> None:
    item = Item("1", "What is it?", "cyst", options=("stone", "cyst"), gold=1, kind="choice")
    for reply in ("B\nConfidence: 80%", "The answer is B. Confidence: 0.8", "Answer: B\nConfidence: 8/10"):
        assert chosen_option(item, reply, None).right


def test_calibration_is_that_of_its_definition() -> None:
    # Bin 0.8: three answers, two right, mean confidence 0.85. Bin 0.3: one, wrong. Confidence 1 is in the last bin.
    found = calibration_of([(0.8, True), (0.85, True), (0.9 - 1e-9, False), (0.3, False), (1.0, True)])
    assert found is not None
    assert found["ece"] == pytest.approx((abs(2.55 - 2) + 0.3 + 0.0) / 5)
    assert found["brier"] == pytest.approx((0.2**2 + 0.15**2 + 0.9**2 + 0.3**2 + 0) / 5)
    assert calibration_of([]) is None


def test_brier_is_that_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    luck = random.Random(0)
    pairs = [(luck.random(), luck.random() < 0.5) for _ in range(100)]
    theirs = metrics.brier_score_loss([right for _, right in pairs], [confidence for confidence, _ in pairs])
    found = calibration_of(pairs)
    assert found is not None
    assert found["brier"] == pytest.approx(theirs)


def test_only_read_answers_with_a_confidence_count(tmp_path: Path) -> None:
    items = [
        an_item(1, reply="Answer: A\nConfidence: 100%"),
        an_item(2, reply="Answer: A\nConfidence: 50%", verdict=Verdict.WRONG),
        an_item(3),
        an_item(4, reply="Confidence: 50%", verdict=Verdict.UNPARSED, given=None),
        an_item(5, reply="Answer: A\nConfidence: 0%", control="blank"),
    ]
    run = write_evaluation(tmp_path / "run", "Model", items)
    (table,) = calibration_grids(read_evaluations([run]))
    assert table.rows[0][1][0].lines == ("ECE 0.250", "Brier 0.125", "n 2 of 4")
    assert calibration_grids(read_evaluations([write_evaluation(tmp_path / "other", "Other", [an_item(1)])])) == []


@pytest.mark.slow
def test_compare_shows_calibration(tmp_path: Path) -> None:
    run = write_evaluation(tmp_path / "run", "Model", [an_item(1, reply="Answer: A\nConfidence: 90%"), an_item(2)])
    shown = chiron("compare", str(run), "--format", "json")
    assert shown.returncode == 0, shown.stderr
    assert "Calibration of stated confidence" in [table["title"] for table in json.loads(shown.stdout)]


def sampled_run(folder: Path, name: str, accuracy: float) -> str:
    """Five samples of 60 items; a model that is more often right also agrees with itself more often."""
    luck = random.Random(name)
    items = []
    for number in range(60):
        sure = luck.random()
        for seed in range(5):
            right = luck.random() < accuracy * (0.5 + 0.5 * sure)
            changes = {"verdict": Verdict.RIGHT if right else Verdict.WRONG, "given": "Fracture" if right else luck.choice(["Cyst", "Air"])}
            items.append(an_item(number, seed=seed, **changes))
    return str(write_evaluation(folder / name, name, items))


@pytest.mark.slow
@pytest.mark.parametrize(("ending", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_reliability_and_abstention_are_drawn(tmp_path: Path, cli: Cli, ending: str, start: bytes) -> None:
    runs = [sampled_run(tmp_path, "Good-8B", 0.95), sampled_run(tmp_path, "Poor-2B", 0.6)]
    out = tmp_path / f"c.{ending}"
    ended = cli(["compare", *runs, "--calibration", str(out)])
    assert ended.returncode == 0, ended.stderr
    drawn = out.read_bytes()
    assert drawn.startswith(start)
    assert "Calibration of votes" in ended.stdout
    if ending == "svg":
        for words in ("Good-8B, ECE 0.", "Poor-2B, ECE 0.", "vqa_rad, votes: reliability", "abstention: accuracy of the answered items"):
            assert f"<!-- {words}" in drawn.decode()


def test_without_a_confidence_nothing_is_drawn(tmp_path: Path, cli: Cli) -> None:
    run = str(write_evaluation(tmp_path / "r", "A", [an_item(0)]))
    ended = cli(["compare", run, "--calibration", str(tmp_path / "c.png")])
    assert (ended.returncode, "no calibration to draw: ask every item several times" in " ".join(ended.stderr.split())) == (2, True)
    assert not (tmp_path / "c.png").exists()
    ended = cli(["compare", sampled_run(tmp_path, "B", 0.5), "--calibration", "c.txt"])
    assert (ended.returncode, "c.txt: a figure is written as .svg, .png or .pdf" in " ".join(ended.stderr.split())) == (2, True)
