"""Retained paths become training dialogues, each once, and every row can be traced to its calls."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chiron.client.call import ImagePart
from chiron.client.ledger import Ledger
from chiron.errors import InputError
from chiron.mics.prompts import load_prompts
from chiron.mmrp.cot import build_cot, difficulty, intern_form
from chiron.mmrp.row import read_rows
from chiron.mmrp.templates import InternTemplate, PaperTemplate, dialogue_of
from chiron.training.rows import read_rows as read_training_rows
from tests.mmrp.building import lines
from tests.support.cases import a_case, known_answers, write_cases
from tests.support.endpoint import Endpoint
from tests.support.runs import config_of, execute, team
from tests.support.simulation import Simulation


def search(cases: Path, run: Path, **how: Any) -> Path:
    with Endpoint(Simulation(known_answers(cases), **{"skill": 1.0, **how.pop("world", {})}).reply) as endpoint:
        execute(cases, config_of(team(endpoint.base_url, **how)), run)
    return run


def change(run: Path, case_id: str, **changes: Any) -> None:
    """Edit a run's paths."""
    paths = [{**p, **changes} if p["case_id"] == case_id else p for p in lines(run / "paths.jsonl")]
    (run / "paths.jsonl").write_text("".join(json.dumps(p) + "\n" for p in paths))


@pytest.mark.slow
def test_a_row_is_in_the_published_form_and_leads_back_to_its_calls(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 3)
    run = search(cases, tmp_path / "run", baseline=True)
    summary = build_cot([run], tmp_path / "cot")
    assert (summary.kept, summary.pending, summary.dropped) == (3, 0, {})
    row = next(iter(read_rows(tmp_path / "cot" / "rows.jsonl")))
    path = lines(run / "paths.jsonl")[0]
    asked, said = (turn.text for turn in row.turns)
    question, known, marks = asked.splitlines()
    assert question == "What does the image of case-00000 show? (Supplementary information is as follows:"
    assert known == "Gender: Female, Age: 54 years, Chief complaint: Fell from a ladder.)"
    assert marks.startswith("Please base your response on the keyframes of the relevant medical imaging modality (Modality 1: <image>) and")
    assert marks.endswith("reason step-by-step to answer the above question.")
    assert said == path["reasoning"]
    assert row.difficulty == path["difficulty"] == 0
    assert row.depth == path["depth"]
    with Ledger.read(run / "ledger.sqlite") as ledger:
        assert row.provenance.calls
        assert all(ledger.get(key) is not None for key in row.provenance.calls)
    about = json.loads((run / "run.json").read_text())
    assert dict(row.provenance.prompts) == about["identity"]["prompts"]
    assert row.provenance.models["judge"] == about["identity"]["judge"][1]
    assert len(read_training_rows(tmp_path / "cot" / "rows.jsonl")) == 3


def test_several_groups_are_several_modalities() -> None:
    case = a_case(images=("c1/x-ray_group1/0.png", "c1/x-ray_group1/1.png", "c1/mri_group2/0.png"), history="", age=None, sex=None)
    (dialogue,) = PaperTemplate().of_path(case, "### The final answer is: x")
    assert dialogue.turns[0].text.startswith(f"{case.question}\nPlease base")
    assert "(Modality 1: <image>\n<image>,\nModality 2: <image>)" in dialogue.turns[0].text


def test_interns_are_asked_in_the_same_words_as_in_the_search(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 1)
    (tmp_path / "intern.txt").write_text("Q: $question")
    with Endpoint(Simulation(known_answers(cases), skill=1.0).reply) as endpoint:
        execute(
            cases, config_of(team(endpoint.base_url, prompts={"intern": str(tmp_path / "intern.txt")}, baseline=True)), tmp_path / "run"
        )
        asked = [b["messages"] for b in endpoint.seen.bodies if b["model"] == "intern-a"]
    build_cot([tmp_path / "run"], tmp_path / "cot", form=intern_form(tmp_path / "run"))
    (row,) = lines(tmp_path / "cot" / "rows.jsonl")
    words = [[part["text"] for part in turn["content"] if part["type"] == "text"] for messages in asked for turn in messages[1:]]
    assert [row["messages"][1]["content"].removeprefix("<image>\n")] in words
    assert row["messages"][1]["content"].startswith("<image>\nQ: <question>")
    assert row["messages"][0]["role"] == "system"


@pytest.mark.slow
def test_of_several_runs_the_best_score_wins_and_the_others_are_dropped_in_order(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 1)
    scores = {"a": 0.6, "b": float("nan"), "c": 0.9, "d": 0.7}
    runs = [search(cases, tmp_path / name, seed=seed) for seed, name in enumerate(scores)]
    for run, score in zip(runs, scores.values(), strict=True):
        change(run, "case-00000", mics_score=score)
    build_cot(runs, tmp_path / "cot")
    (row,) = lines(tmp_path / "cot" / "rows.jsonl")
    assert row["provenance"]["run"] == "c"
    dropped = lines(tmp_path / "cot" / "dropped.jsonl")
    assert [one["detail"].split(";")[0] for one in dropped] == [f"of {tmp_path / name}" for name in "abd"]


@pytest.mark.slow
def test_of_two_runs_the_better_path_is_kept(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 3)
    first, second = search(cases, tmp_path / "first"), search(cases, tmp_path / "second", seed=1)
    change(first, "case-00000", mics_score=0.6)
    change(second, "case-00001", mics_score=0.7)
    build_cot([first, second], tmp_path / "cot")
    rows, dropped = lines(tmp_path / "cot" / "rows.jsonl"), lines(tmp_path / "cot" / "dropped.jsonl")
    assert [row["provenance"]["run"] for row in rows] == ["second", "first", "first"]  # no path: folders above it may hold names
    assert [(d["case_id"], d["reason"]) for d in dropped] == [(f"case-0000{n}", "another run's path is better") for n in range(3)]
    assert len({row["id"] for row in rows}) == 3


@pytest.mark.slow
def test_what_cannot_be_a_row_is_dropped_with_its_reason(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 4)
    run = search(cases, tmp_path / "run")
    change(run, "case-00001", reasoning="### The final answer is: x")
    change(run, "case-00002", reasoning="### Step 1: a step and no end")
    records = lines(cases)
    records[0]["history"] = "Fell from a horse."
    cases.write_text("\n".join(json.dumps(r) for r in records[:3]))
    build_cot([run], tmp_path / "cot")
    assert lines(tmp_path / "cot" / "rows.jsonl") == []
    assert [(d["case_id"], d["reason"]) for d in lines(tmp_path / "cot" / "dropped.jsonl")] == [
        ("case-00000", "case has changed"),
        ("case-00001", "no steps"),
        ("case-00002", "no final answer"),
        ("case-00003", "case not in the file"),
    ]


def test_cases_that_moved_are_found_where_one_says(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 2)
    run = search(cases, tmp_path / "run")
    moved = cases.rename(tmp_path / "moved.jsonl")
    with pytest.raises(InputError, match="--cases FILE"):
        build_cot([run], tmp_path / "cot")
    assert build_cot([run], tmp_path / "cot", cases=moved).kept == 2


def test_what_is_no_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a run directory"):
        build_cot([tmp_path], tmp_path / "cot")
    with pytest.raises(InputError, match="named twice"):
        build_cot([tmp_path, tmp_path / "."], tmp_path / "cot")
    run = search(write_cases(tmp_path, 1), tmp_path / "run")
    (run / "paths.jsonl").write_text("{broken\n")
    with pytest.raises(InputError, match="damaged"):
        build_cot([run], tmp_path / "cot")


@given(st.floats(0, 1), st.integers(1, 6), st.integers(0, 3), st.integers(1, 6))
def test_difficulty_without_a_baseline_grows_with_what_the_search_took(score: float, depth: int, restarts: int, deepest: int) -> None:
    path = {"mics_score": score, "depth": min(depth, deepest), "restarts": restarts, "difficulty": None}
    found = difficulty(path, deepest)
    assert found is not None
    assert 0 <= found <= 1
    harder = difficulty({**path, "restarts": restarts + 1}, deepest)
    assert harder is not None
    assert harder >= found
    assert difficulty({**path, "difficulty": 0.25}, deepest) == 0.25


def test_difficulty_of_a_full_score_at_the_first_depth_is_none_at_all() -> None:
    assert difficulty({"mics_score": 1.0, "depth": 1, "restarts": 0}, 3) == 0
    assert difficulty({"mics_score": 1.0, "depth": 3, "restarts": 0}, 3) == pytest.approx(2 / 3)
    assert difficulty({"mics_score": None, "depth": 1}, 3) is None


def test_a_dialogue_has_as_many_marks_as_pictures() -> None:
    case = a_case(history="<image> <ima<image>ge>", images=("a.png", "b.png"))
    messages = load_prompts().intern(case, (ImagePart("a", 0), ImagePart("b", 0)), ())
    turns = dialogue_of(messages, "### Step 1: <image>")
    assert sum(len(turn.texts) - 1 for turn in turns) == 2
    assert "<image>" not in turns[-1].text
    assert InternTemplate(load_prompts()).identity()["begun"] == "none"


def test_runs_on_different_image_folders_are_not_one_part(tmp_path: Path) -> None:
    runs = [search(write_cases(tmp_path / name, 1), tmp_path / f"run-{name}") for name in ("a", "b")]
    with pytest.raises(InputError, match="are in different folders"):
        build_cot(runs, tmp_path / "cot")
    assert not (tmp_path / "cot" / "rows.jsonl").exists()
