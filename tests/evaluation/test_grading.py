"""Grades of open answers by judges, and how well judges and people agree."""

import asyncio
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from chiron.errors import InputError
from chiron.evaluation.agreement import agreement_grids, read_grades
from chiron.evaluation.config import load_evaluation
from chiron.evaluation.evaluation import EvaluationSummary
from chiron.evaluation.extra_scores import read_grade
from chiron.evaluation.items import read_results
from chiron.evaluation.preparation import prepare_evaluation
from chiron.evaluation.read_runs import read_evaluations
from chiron.reviews.agreement import cohens_kappa
from tests.evaluation import published
from tests.support.command import chiron
from tests.support.endpoint import Endpoint
from tests.support.evaluations import an_item, write_evaluation
from tests.support.simulation import prompt_of

GRADES = {"left lung": "1", "left": "Grade: 0.5", "kidney": "0", "unclear": "It depends."}
"""What the strict grader says of an answer."""


@pytest.mark.parametrize(
    ("reply", "grade"),
    [
        ("1", 1.0),
        (" 0.5.", 0.5),
        ("**Grade: 0.5**", 0.5),
        ("Grade = 1/2", 0.5),
        ("Grade: 0,5", 0.5),
        ("1.0", 1.0),
        ("The side is missing, so 0.5", 0.5),
        ("Grade: 1 (the scale is 0, 0.5, 1)", 1.0),
        ("<think>0 or 1?</think>0", 0.0),
        ("0 or 0.5", None),
        ("0.75", None),
        ("100%", None),
        ("-1", None),
        ("10", None),
        ("good", None),
        ("<think>1", None),
    ],
)
def test_a_grade_is_read_only_if_there_is_one(reply: str, grade: float | None) -> None:
    assert read_grade(reply) == grade


def reply(body: dict[str, Any]) -> str:
    prompt = prompt_of(body)
    if body["model"] == "m":
        number = int(prompt.partition("number ")[2].partition("?")[0])
        return f"### The final answer is: {[*GRADES][number // 2]}"
    given = prompt.partition("<given_answer>")[2].partition("</given_answer>")[0].strip()
    return "1" if body["model"] == "lenient" else GRADES[given]


def write(folder: Path, url: str, **evaluation: Any) -> Path:
    models = {name: {"provider": "openai", "base_url": url, "model": name} for name in ("m", "strict", "lenient")}
    (folder / "models.yaml").write_text(json.dumps({"models": models, "evaluation": {"protocol": "exact", **evaluation}}))
    return folder / "models.yaml"


def run(folder: Path, config: Path) -> EvaluationSummary:
    return asyncio.run(prepare_evaluation("m", ["vqa_rad"], folder / "run", load_evaluation(config, "m"), data=folder / "d").execute())


@pytest.mark.slow
def test_graders_are_columns_of_open_answers_and_one_without_a_grade_is_missing(tmp_path: Path) -> None:
    published.vqa_rad(tmp_path / "d")
    with Endpoint(reply) as endpoint:
        summary = run(tmp_path, write(tmp_path, endpoint.base_url, graders=["strict", "lenient"]))
        asked = [body for body in endpoint.seen.bodies if body["model"] == "strict"]
        command = [
            "eval",
            "--model",
            "m",
            "--config",
            str(tmp_path / "models.yaml"),
            "--benchmarks",
            "vqa_rad",
            "--graders",
            "strict,lenient",
        ]
        write(tmp_path, endpoint.base_url)
        again = chiron(*command, "--data", str(tmp_path / "d"), "--run", str(tmp_path / "run"))
        assert again.returncode == 0, again.stderr
        assert len([body for body in endpoint.seen.bodies if body["model"] == "strict"]) == len(asked)
    opened = [line for line in read_results(tmp_path / "run" / "items.jsonl") if line.kind == "open"]
    assert [line.scores["grade:strict"] for line in opened] == [1.0, 0.5, 0.0, None]
    assert [line.scores["grade:lenient"] for line in opened] == [1.0] * 4
    assert [line.right for line in opened] == [True, False, False, False]
    assert summary.groups[0]["scores"]["grade:strict"] == {"mean": 0.5, "n": 3}
    assert len(asked) == 5  # "It depends." was asked twice
    assert all("what is number" in prompt_of(body) and "left lung" in prompt_of(body) for body in asked)
    assert not any(
        "grade" in name for line in read_results(tmp_path / "run" / "items.jsonl") if line.kind != "open" for name in line.scores
    )
    shown = chiron("compare", str(tmp_path / "run"), "--format", "markdown")
    assert shown.returncode == 0, shown.stderr
    # Same: 1 of 3. By chance: the lenient one says 1 always, so kappa is 0.
    assert "m, grade:strict and grade:lenient | kappa 0.00<br>weighted 0.00<br>same 33.3<br>n 3" in shown.stdout.replace("\\", "")


def test_the_rubric_may_be_ones_own_and_is_recorded(tmp_path: Path) -> None:
    published.vqa_rad(tmp_path / "d")
    (tmp_path / "rubric.txt").write_text("MY RUBRIC $question $known_answer $given_answer")
    recorded = []
    for prompts in ({}, {"grade": "rubric.txt"}):
        with Endpoint(reply) as endpoint:
            summary = run(tmp_path, write(tmp_path, endpoint.base_url, graders=["strict"], prompts=prompts))
            asked = [prompt_of(body) for body in endpoint.seen.bodies if body["model"] == "strict"]
        assert all(("MY RUBRIC" in prompt) is bool(prompts) for prompt in asked)
        recorded.append(summary.groups[0]["columns_by"])
    assert recorded[0]["graders"] == ["strict"]
    assert recorded[0]["rubric"] != recorded[1]["rubric"]


def test_a_rubric_without_the_known_answer_is_rejected(tmp_path: Path) -> None:
    published.vqa_rad(tmp_path / "d")
    (tmp_path / "rubric.txt").write_text("Grade $question $given_answer")
    config = write(tmp_path, "http://127.0.0.1:9", graders=["strict"], prompts={"grade": "rubric.txt"})
    with pytest.raises(InputError, match="known_answer"):
        run(tmp_path, config)


def linear(first: float, second: float) -> float:
    return abs(first - second)


def test_kappa_is_that_of_the_definition() -> None:
    # 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: observed 0.7, by chance 0.5 * 0.6 + 0.5 * 0.4 = 0.5.
    pairs = [(1.0, 1.0)] * 20 + [(1.0, 0.0)] * 5 + [(0.0, 1.0)] * 10 + [(0.0, 0.0)] * 15
    assert cohens_kappa(pairs) == pytest.approx(0.4)
    assert cohens_kappa(pairs, linear) == pytest.approx(0.4)  # with two grades, the weights change nothing
    # Grades 0 0.5 1 against 0.5 0.5 1: the mean difference is 1/6; by chance, it is (0.5 + 0.5 + 1 + 0 + 0 + 0.5 + 0.5 + 0.5) / 9.
    assert cohens_kappa([(0, 0.5), (0.5, 0.5), (1, 1)], linear) == pytest.approx(1 - (1 / 6) / (3.5 / 9))


def test_kappa_is_that_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    luck = random.Random(0)
    for _ in range(20):
        first = [luck.choice([0, 0.5, 1]) for _ in range(30)]
        second = [grade if luck.random() < 0.6 else luck.choice([0, 0.5, 1]) for grade in first]
        pairs = list(zip(first, second, strict=True))
        for weights, ours in ((None, cohens_kappa(pairs)), ("linear", cohens_kappa(pairs, linear))):
            theirs = metrics.cohen_kappa_score([str(g) for g in first], [str(g) for g in second], weights=weights)
            assert ours == pytest.approx(theirs)


def test_kappa_of_one_and_the_same_grade_is_not_defined(tmp_path: Path) -> None:
    items = [an_item(n, kind="open", given="x", scores={"grade:a": 1.0, "grade:b": 1.0}) for n in range(4)]
    (table,) = agreement_grids(read_evaluations([write_evaluation(tmp_path / "run", "Model", items)]))
    ((_, (cell,)),) = table.rows
    assert cell.lines == ("kappa not defined", "weighted not defined", "same 100.0", "n 4")


@pytest.fixture
def graded(tmp_path: Path) -> Path:
    items = [
        an_item(n, kind="open", options=(), given=None if n == 5 else "x", scores={"grade:a": grade, "judge:b": float(grade == 1)})
        for n, grade in enumerate([0, 0.5, 1, 1, 0, 0])
    ]
    return write_evaluation(tmp_path / "run", "Model", items)


def people(folder: Path, *lines: dict[str, Any]) -> str:
    return str(published.jsonl(folder / "people.jsonl", [{"benchmark": "vqa_rad", **line} for line in lines]))


@pytest.mark.slow
def test_judges_are_compared_with_people(graded: Path, tmp_path: Path) -> None:
    file = people(
        tmp_path, {"id": "q0", "grade": 0}, {"id": "q1", "grade": 0}, {"id": "q2", "grade": 1, "given": "x"}, {"id": "q5", "grade": 1}
    )
    shown = chiron("compare", str(graded), "--grades", file, "--format", "json")
    assert shown.returncode == 0, shown.stderr
    (table,) = (table for table in json.loads(shown.stdout) if table["title"] == "Agreement of graders")
    rows = {name: cells[0]["lines"] for name, cells in table["rows"]}
    assert set(rows) == {f"Model, {pair}" for pair in ("grade:a and judge:b", "grade:a and people", "judge:b and people")}
    assert rows["Model, judge:b and people"] == ["kappa 1.00", "weighted 1.00", "same 100.0", "n 3"]
    # 0-0, 0.5-0, 1-1: observed 2/3, by chance 1/3 * 2/3 + 1/3 * 1/3 = 1/3. An answer that nobody could read is left out.
    assert rows["Model, grade:a and people"][0] == "kappa 0.50"
    assert rows["Model, grade:a and judge:b"][3] == "n 5"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ({"id": "q0", "grade": 0.7}, "its grade is 0.7"),
        ({"id": "q0"}, "KeyError"),
        ({"id": "q99", "grade": 1}, "item 'q99' of vqa_rad (Model, seed 0) is not in these runs"),
        ({"id": "q0", "grade": 1, "given": "another"}, "was graded for another answer"),
    ],
)
def test_unusable_grades_of_people_say_what_is_wrong(graded: Path, tmp_path: Path, line: dict[str, Any], problem: str) -> None:
    with pytest.raises(InputError, match=re.escape(problem)):
        read_grades(Path(people(tmp_path, line)), read_evaluations([graded]))


def test_a_second_grade_of_one_answer_is_rejected(graded: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has two grades"):
        read_grades(Path(people(tmp_path, {"id": "q0", "grade": 1}, {"id": "q0", "grade": 0})), read_evaluations([graded]))


def test_grades_of_several_models_name_theirs(graded: Path, tmp_path: Path) -> None:
    other = write_evaluation(tmp_path / "other", "Other", [an_item(0, kind="open", given="y")])
    models = read_evaluations([graded, other])
    assert read_grades(Path(people(tmp_path, {"id": "q0", "grade": 1, "model": "Other"})), models) == {("Other", "vqa_rad", "q0", 0): 1.0}
    with pytest.raises(InputError, match=r"'model'.*with \"model\" if several are compared"):
        read_grades(Path(people(tmp_path, {"id": "q0", "grade": 1})), models)
