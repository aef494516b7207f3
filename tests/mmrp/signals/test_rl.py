"""A row for reinforcement learning has a prompt, an answer that can be verified, and the interns' pass rate."""

import json
from pathlib import Path

import pytest

from chiron.errors import InputError
from chiron.evaluation.reward import answer_reward
from chiron.mmrp.cot import build_cot
from chiron.mmrp.exports.export import exports
from chiron.mmrp.row import read_rows
from chiron.mmrp.signals.rl import RlOptions, build_rl
from tests.mmrp.building import lines
from tests.mmrp.signals.searching import searched
from tests.support.cases import write_cases
from tests.support.command import chiron


def test_the_prompt_is_that_of_the_chains_of_thought_and_the_pass_rate_that_of_the_search(tmp_path: Path) -> None:
    run = searched(tmp_path, 2)
    build_rl([run], tmp_path / "rl")
    build_cot([run], tmp_path / "cot")
    asked = {row.case_id: row.turns[:-1] for row in read_rows(tmp_path / "cot" / "rows.jsonl")}
    baseline = {path["case_id"]: path["baseline"] for path in lines(run / "paths.jsonl")}
    rows = list(read_rows(tmp_path / "rl" / "rows.jsonl"))
    assert len(rows) == 2
    for row in rows:
        assert row.turns[:-1] == asked[row.case_id]
        assert row.signal == {"pass_rate": 1 / 3, "answered": 3}
        assert row.signal["pass_rate"] == baseline[row.case_id]
        assert row.difficulty == pytest.approx(2 / 3)


@pytest.mark.parametrize(("window", "kept"), [((0.0, 0.9), True), ((1 / 3, 1 / 3), True), ((0.4, 1.0), False), ((0.0, 0.3), False)])
def test_the_window_of_pass_rates_decides(tmp_path: Path, window: tuple[float, float], kept: bool) -> None:
    run = searched(tmp_path, 1)
    if kept:
        assert build_rl([run], tmp_path / "rl", options=RlOptions(*window)).kept == 1
        return
    reason = "too low" if window[0] > 1 / 3 else "too high"
    with pytest.raises(InputError, match=f"no prompt could be built .*1 x pass rate {reason}"):
        build_rl([run], tmp_path / "rl", options=RlOptions(*window))


def test_a_window_that_is_empty_is_rejected() -> None:
    for window in ((0.5, 0.4), (-0.1, 1.0), (0.0, 1.1)):
        with pytest.raises(InputError, match="window of pass rates"):
            RlOptions(*window)


def test_a_run_without_a_baseline_is_told_how_to_get_one(tmp_path: Path) -> None:
    run = searched(tmp_path, 1, baseline=False)
    with pytest.raises(InputError, match=r"pass rate was not measured .*baseline: true.*chiron replay"):
        build_rl([run], tmp_path / "rl")


@pytest.mark.parametrize("options", [["Normal", "Cyst"], ["Rib fracture case-00000"]])
def test_an_answer_that_the_reward_cannot_verify_is_dropped(tmp_path: Path, options: list[str]) -> None:
    cases = write_cases(tmp_path, 2)
    records = lines(cases)
    records[0]["options"] = options
    cases.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert build_rl([searched(tmp_path)], tmp_path / "rl").kept == 1
    assert [(d["case_id"], d["reason"]) for d in lines(tmp_path / "rl" / "dropped.jsonl")] == [("case-00000", "answer cannot be verified")]
    (row,) = lines(tmp_path / "rl" / "exports" / "trl" / "rl.jsonl")
    assert answer_reward([f"### The final answer is: {row['answer']}"], [row["answer"]], [row["options"]], [row["question"]]) == [1.0]


def test_options_reach_every_form_and_choices_keep_their_letters(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 2)
    records = lines(cases)
    options = ["Normal", records[0]["answer"]]
    records[0] |= {"options": options, "question": f"{records[0]['question']}\nA. Normal\nB. {records[0]['answer']}"}
    cases.write_text("".join(json.dumps(record) + "\n" for record in records))
    run = searched(tmp_path)
    done = chiron("build", "rl", run, "--out", tmp_path / "rl")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "rl" / "exports"
    for name in ("trl", "verl", "ms-swift"):
        faults = exports()[name].signals["rl"].faults
        written = lines(folder / name / "rl.jsonl")
        assert [fault for row in written for fault in faults(row)] == []
        columns = [row["extra_info"] if name == "verl" else row for row in written]
        assert [each["options"] for each in columns] == [options, []]
        assert [each["pass_rate"] for each in columns] == [1 / 3, 1 / 3]
    assert lines(folder / "verl" / "rl.jsonl")[0]["reward_model"]["ground_truth"] == records[0]["answer"]
