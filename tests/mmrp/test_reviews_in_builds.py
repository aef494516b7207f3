"""What reviewers decided reaches the dataset: rejected paths leave, edits replace steps, and the card counts both."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chiron.conversation.reasoning import parse_reasoning
from chiron.errors import InputError
from chiron.mmrp.card import ReleaseOptions
from chiron.mmrp.cot import build_cot
from chiron.mmrp.release import release
from chiron.mmrp.review_report import review_report
from chiron.mmrp.row import MmrpRow, RowReview, read_rows
from chiron.mmrp.signals.rewards import build_rewards
from chiron.reviews.records import hash_path
from chiron.reviews.store import ReviewStore
from tests.mmrp.building import lines
from tests.mmrp.making import PROVENANCE, a_row, write_part
from tests.reviews.writing import review, verdict
from tests.support.command import chiron

RECORDED = Path(__file__).parents[1] / "support" / "recorded_run"
CASES = RECORDED / "cases.jsonl"
EDIT = "The seventh rib is interrupted, on the left."


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(RECORDED, tmp_path / "run"))


def rows_of(run: Path, out: Path, mode: Any) -> tuple[dict[str, MmrpRow], dict[str, int]]:
    summary = build_cot([run], out, cases=CASES, reviews=mode)
    return {row.case_id: row for row in read_rows(out / "rows.jsonl")}, dict(summary.dropped)


def test_every_mode_takes_what_it_should(run: Path, tmp_path: Path) -> None:
    accepted, edited = review(run, 0), review(run, 1, step2=verdict("edit", text=EDIT))
    dropped = review(run, 2, step1=verdict("reject", reason="hallucinated_finding"))
    unread = {path["case_id"] for path in lines(run / "paths.jsonl")[3:]}
    every = {accepted, edited, dropped, *unread}
    assert len(every) == len(lines(run / "paths.jsonl"))

    ignoring, why = rows_of(run, tmp_path / "ignore", "ignore")
    assert (set(ignoring), why) == (every, {})
    assert all("review" not in row.provenance.to_record() for row in ignoring.values())

    preferring, why = rows_of(run, tmp_path / "prefer", "prefer")
    assert (set(preferring), why) == (every - {dropped}, {"rejected by reviewers": 1})
    listed = lines(tmp_path / "prefer" / "dropped.jsonl")
    assert listed[0]["detail"] == "step 1: hallucinated finding"

    requiring, why = rows_of(run, tmp_path / "require", "require")
    assert set(requiring) == {accepted, edited}
    assert why == {"rejected by reviewers": 1, **({"not reviewed": len(unread)} if unread else {})}
    mark = requiring[accepted].provenance.review
    assert mark is not None
    assert mark["status"] == "accepted"
    assert requiring[accepted].reasoning == ignoring[accepted].reasoning
    changed = parse_reasoning(requiring[edited].reasoning).steps
    assert changed[1] == EDIT
    assert changed[:1] + changed[2:] == (was := parse_reasoning(ignoring[edited].reasoning).steps)[:1] + was[2:]
    assert requiring[edited].turns[-1].text.count(EDIT) == 1
    original = next(path["reasoning"] for path in lines(run / "paths.jsonl") if path["case_id"] == edited)
    assert requiring[edited].provenance.review == {
        "status": "edited",
        "edited_steps": [2],
        "edited_answer": False,
        "reviewers": 1,
        "adjudicated": False,
        "path_sha256": hash_path(original),
    }
    assert "anna" not in (tmp_path / "require" / "rows.jsonl").read_text()


def test_disputed_paths_wait_for_the_adjudication(run: Path, tmp_path: Path) -> None:
    case_id = review(run, 0, "anna")
    review(run, 0, "ben", step1=verdict("reject", reason="unsupported"))
    rows, why = rows_of(run, tmp_path / "before", "prefer")
    assert case_id not in rows
    assert why == {"reviewers disagree": 1}
    review(run, 0, "cleo", kind="adjudication", step1=verdict("edit", text=EDIT))
    rows, why = rows_of(run, tmp_path / "after", "prefer")
    mark = rows[case_id].provenance.review
    assert mark is not None
    assert (mark["status"], mark["edited_steps"], mark["reviewers"], mark["adjudicated"]) == ("edited", [1], 2, True)
    assert why == {}


def test_a_review_of_another_version_of_a_path_does_not_count(run: Path, tmp_path: Path) -> None:
    path = lines(run / "paths.jsonl")[0]
    ReviewStore(run).add("review", "anna", path["case_id"], "0" * 64, {"steps": [], "final": verdict("reject"), "note": ""})
    rows, _ = rows_of(run, tmp_path / "out", "prefer")
    assert path["case_id"] in rows


def test_requiring_reviews_of_a_run_without_any_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no path of .* is reviewed"):
        build_cot([run], tmp_path / "out", cases=CASES, reviews="require")
    done = chiron("build", "cot", run, "--cases", CASES, "--out", tmp_path / "out", "--reviews", "perhaps")
    assert done.returncode == 2
    assert "choose one of require, prefer, ignore" in done.stderr


def test_an_accepted_path_of_one_run_precedes_a_better_one_that_was_rejected(run: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(run, tmp_path / "other"))
    case_id = review(run, 0, final="reject")
    rows = build_cot([run, other], tmp_path / "out", cases=CASES)
    made = {row.case_id: row for row in read_rows(tmp_path / "out" / "rows.jsonl")}
    assert made[case_id].provenance.run == "other"
    assert rows.kept == len(lines(run / "paths.jsonl"))


@pytest.mark.slow
def test_the_card_counts_accepted_and_edited_paths(tmp_path: Path) -> None:
    mark: RowReview = {
        "status": "accepted",
        "edited_steps": [],
        "edited_answer": False,
        "reviewers": 2,
        "adjudicated": False,
        "path_sha256": "ab" * 32,
    }
    marks: list[RowReview | None] = [mark, {**mark, "status": "edited", "edited_steps": [2]}, mark, None]
    rows = [a_row(str(n), provenance=replace(PROVENANCE, review=marks[n % 4])) for n in range(40)]
    options = ReleaseOptions(ratios=(1, 0, 0))
    summary = release([write_part(tmp_path / "cot", rows)], tmp_path / "release", options=options)
    assert dict(summary.reviews) == {"accepted": 20, "edited": 10}
    card = (tmp_path / "release" / "README.md").read_text()
    assert "Reviewers read 30 of its chains of thought: they accepted\n20 as they are and 10 with edits" in card
    assert "physicians did not" not in card
    from datasets import load_dataset

    loaded = load_dataset(str(tmp_path / "release"), "cot", split="train", cache_dir=str(tmp_path / "cache"))
    by_case = {row["case_id"]: row["provenance"]["review"] for row in loaded}
    assert by_case["1"] == marks[1]
    assert by_case["3"] is None


def test_rewards_have_the_verdicts_beside_the_scores(run: Path, tmp_path: Path) -> None:
    case_id = review(run, 0, step2=verdict("edit", text=EDIT))
    other = review(run, 1, step1=verdict("reject", reason="irrelevant"))
    build_rewards([run], tmp_path / "rewards", cases=CASES)
    rows = list(read_rows(tmp_path / "rewards" / "rows.jsonl"))
    labeled = {row.id: row for row in rows if "human_labels" in row.signal}
    assert {row.case_id for row in labeled.values()} == {case_id, other}
    path = {p["case_id"]: parse_reasoning(p["reasoning"]).steps for p in lines(run / "paths.jsonl")}
    for row in labeled.values():
        assert len(row.signal["human_labels"]) == len(row.signal["scores"])
        assert row.signal["units"][0].startswith(f"### Step 1: {path[row.case_id][0]}")
        assert row.signal["human_labels"][0] == ("edit" if row.case_id == case_id else "reject")
    unlabeled = [row for row in rows if row.case_id == case_id and row.id not in labeled]
    assert all(
        not row.signal["units"][0].startswith(f"### Step 1: {path[case_id][0]}\n### Step 2: {path[case_id][1]}") for row in unlabeled
    )
    build_rewards([run], tmp_path / "required", cases=CASES, reviews="require")
    kept = list(read_rows(tmp_path / "required" / "rows.jsonl"))
    assert {row.id for row in kept} == {row.id for row in labeled.values() if row.signal["human_labels"][-1]}
    build_rewards([run], tmp_path / "ignored", cases=CASES, reviews="ignore")
    assert not any("human_labels" in row.signal for row in read_rows(tmp_path / "ignored" / "rows.jsonl"))


def test_the_report_says_how_well_scores_predict_verdicts(run: Path) -> None:
    for number, path in enumerate(lines(run / "paths.jsonl")):
        # rejected if the score is not full
        if path["mics_score"] == 1:
            review(run, number)
        else:
            review(run, number, step1=verdict("reject", reason="unsupported"))
    report = review_report([run])
    scores = [path["mics_score"] for path in lines(run / "paths.jsonl")]
    assert (report.path_prediction.positive, report.path_prediction.negative) == (scores.count(1), len(scores) - scores.count(1))
    assert report.path_prediction.auc == (1.0 if 0 < scores.count(1) < len(scores) else None)
    assert report.step_prediction.positive > 0
    assert report.reviewers == {"anna": {"review": len(scores)}}
    done = chiron("review", "report", run)
    assert done.returncode == 0, done.stderr
    assert "MICS-Score predicts that a path is not rejected: AUC" in done.stdout
    assert "nothing was reviewed twice" in done.stdout
    assert json.loads(chiron("review", "report", run, "--json").stdout)["paths"]["accepted"] == scores.count(1)


def test_a_report_without_a_review_does_not_speak_of_equal_verdicts(run: Path) -> None:
    review(run, 0, kind="skip")
    review(run, 1, kind="skip")
    done = chiron("review", "report", run)
    assert "MICS-Score predicts that a path is not rejected: unknown, because nothing was reviewed yet" in done.stdout
    assert "equal" not in done.stdout
    assert "anna: 2 skips" in done.stdout


def test_reviews_are_exported_by_the_command(run: Path, tmp_path: Path) -> None:
    case_id = review(run, 0)
    done = chiron("review", "export", run, "--out", tmp_path / "out.jsonl")
    assert done.stdout.strip() == str(tmp_path / "out.jsonl")
    assert [event["case_id"] for event in lines(tmp_path / "out.jsonl")] == [case_id]
    assert chiron("review", "export", tmp_path).returncode == 2
