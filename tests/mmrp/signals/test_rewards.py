"""A row for a process reward model contains a prefix, a step, and the MICS-Score that the search gave them."""

import json
import shutil
from pathlib import Path

import pytest

from chiron.errors import InputError
from chiron.mics.tree import read_tree
from chiron.mmrp.exports.trl import stepwise_faults
from chiron.mmrp.row import read_rows
from chiron.mmrp.signals.rewards import RewardOptions, build_rewards
from chiron.mmrp.signals.source import keys_of
from tests.mmrp.building import lines
from tests.mmrp.signals.searching import searched
from tests.support.command import chiron

RECORDED = Path(__file__).parents[2] / "support" / "recorded_run"


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    return Path(shutil.copytree(RECORDED, tmp_path / "run"))


def test_every_scored_candidate_of_an_old_run_has_a_row_with_the_scores_of_its_prefix(recorded: Path, tmp_path: Path) -> None:
    build_rewards([recorded], tmp_path / "out", cases=RECORDED / "cases.jsonl")
    rows = list(read_rows(tmp_path / "out" / "rows.jsonl"))
    steps_of = {(row.case_id, row.turns[-1].text): row for row in rows}
    seen = 0
    for tree in read_tree(recorded):
        chosen_scores: list[float] = []
        for level in tree["attempts"][0]:
            for candidate in level["candidates"]:
                if not candidate["steps"]:
                    continue
                text = "\n".join(f"### Step {n}: {s}" for n, s in enumerate([*level["prefix"], *candidate["steps"]], start=1))
                row = steps_of[tree["case_id"], text]
                assert row.signal["scores"] == [*chosen_scores, candidate["mics_score"]]
                assert row.signal["labels"] == [score > 0.5 for score in row.signal["scores"]]
                assert "\n".join(row.signal["units"]) == text
                seen += 1
            chosen_scores += [c["mics_score"] for c in level["candidates"] if c["chosen"] and c["mics_score"] is not None]
    whole = [row for row in rows if row.signal["whole_path"]]
    assert seen + len(whole) == len(rows)
    assert whole
    assert all(row.signal["units"][-1].startswith("### Step ") for row in whole)


def test_a_step_that_two_attempts_evaluated_has_one_row_with_the_share_of_both(tmp_path: Path) -> None:
    run = searched(tmp_path, 1, mentors=["mentor-c"], world={"again": {"mentor-c": 2}})
    (tree,) = read_tree(run)
    first = [levels[0]["candidates"][0] for levels in tree["attempts"]]
    assert [(each["steps"], each["correct"], each["answered"]) for each in first] == [(first[0]["steps"], 0, 3), (first[0]["steps"], 2, 3)]
    build_rewards([run], tmp_path / "out")
    rows = list(read_rows(tmp_path / "out" / "rows.jsonl"))
    assert len({tuple(row.signal["units"]) for row in rows}) == len(rows)
    assert {(row.signal["scores"][0], row.signal["answered"][0]) for row in rows} == {(2 / 6, 6)}
    (row,) = (row for row in rows if len(row.signal["units"]) == 1)
    assert set(row.provenance.calls) >= {key for each in first for key in (each["key"], *keys_of(each)) if key}


def test_the_threshold_makes_the_hard_labels(recorded: Path, tmp_path: Path) -> None:
    for threshold in (0.0, 0.7):
        out = tmp_path / f"out-{threshold}"
        build_rewards([recorded], out, cases=RECORDED / "cases.jsonl", options=RewardOptions(threshold))
        for row in read_rows(out / "rows.jsonl"):
            assert row.signal["labels"] == [score > threshold for score in row.signal["scores"]]
    for wrong in (-0.1, 1.0):
        with pytest.raises(InputError, match="threshold must be at least 0 and below 1"):
            RewardOptions(wrong)


def test_the_form_of_trl_is_written(recorded: Path, tmp_path: Path) -> None:
    done = chiron("build", "rewards", recorded, "--cases", RECORDED / "cases.jsonl", "--out", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    written = lines(tmp_path / "out" / "exports" / "trl" / "rewards.jsonl")
    assert len(written) == json.loads(done.stdout)["kept"]
    assert [fault for row in written for fault in stepwise_faults(row)] == []
    assert any(row["labels"] == [False] for row in written)
    assert any(len(row["labels"]) > 1 for row in written)


def test_what_was_not_scored_gives_no_row(tmp_path: Path) -> None:
    for name, how in (("quorum", {"world": {"unclear": "mentor-a"}}), ("cut", {"cut_off": "mentor-a"})):
        run = searched(tmp_path / name, 1, **how)
        build_rewards([run], tmp_path / f"out-{name}")
        rows = list(read_rows(tmp_path / f"out-{name}" / "rows.jsonl"))
        assert {row.signal["mentor"] for row in rows} == {"mentor-b", "mentor-c"}
        assert not [unit for row in rows for unit in row.signal["units"] if "mentor-a" in unit]
    alone = searched(tmp_path / "alone", 1, mentors=["mentor-a"], world={"unclear": "mentor-a"})
    with pytest.raises(InputError, match=r"no scored step could be built .*1 x scores below the quorum"):
        build_rewards([alone], tmp_path / "out")


def test_a_tree_of_one_mentor_gives_rows(tmp_path: Path) -> None:
    run = searched(tmp_path, 1, mentors=["mentor-b"])
    build_rewards([run], tmp_path / "out")
    assert {row.signal["scores"][0] for row in read_rows(tmp_path / "out" / "rows.jsonl")} == {1 / 3}
