"""Preference pairs compare the best with the worst candidate of one prefix, of similar length, and invent nothing."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from chiron.client.ledger import Ledger
from chiron.errors import InputError
from chiron.mics.tree import read_tree
from chiron.mmrp.exports.export import exports
from chiron.mmrp.row import read_rows
from chiron.mmrp.signals.preferences import PreferenceOptions, build_preferences
from chiron.mmrp.signals.rewards import build_rewards
from chiron.mmrp.signals.rl import build_rl
from tests.mmrp.building import lines
from tests.mmrp.signals.searching import RIGHT_INTERNS, SYNONYM, searched
from tests.support.cases import a_case, write_cases
from tests.support.command import chiron

RECORDED = Path(__file__).parents[2] / "support" / "recorded_run"


def test_a_pair_has_one_prefix_and_the_best_and_worst_candidate(tmp_path: Path) -> None:
    run = searched(tmp_path, 2)
    summary = build_preferences([run], tmp_path / "out")
    rows = list(read_rows(tmp_path / "out" / "rows.jsonl"))
    assert summary.kept == len(rows) == 2
    for row in rows:
        signal = row.signal
        assert (signal["chosen_mentor"], signal["rejected_mentor"]) == ("mentor-a", "mentor-c")
        assert (signal["chosen_score"], signal["rejected_score"]) == (1.0, 0.0)
        assert (signal["depth"], signal["attempt"], signal["prefix_steps"]) == (1, 0, 0)
        chosen, rejected = row.turns[-1].text, signal["rejected"]
        assert chosen == row.reasoning
        assert chosen.startswith("### Step 1: Sign 1 was noted by mentor-a")
        assert rejected.startswith("### Step 1: Sign 1 was noted by mentor-c")
        assert chosen.endswith(f"### The final answer is: {row.answer}")
        assert rejected.endswith(f"### The final answer is: {row.answer}")
        with Ledger.read(run / "ledger.sqlite") as ledger:
            assert all(ledger.get(key) is not None for key in row.provenance.calls)
        assert len(row.provenance.calls) >= 2 + 6  # two mentors, three interns each, and the judge


def test_a_step_pair_ends_with_the_step_that_was_scored(tmp_path: Path) -> None:
    shutil.copytree(RECORDED, tmp_path / "run")
    build_preferences(
        [tmp_path / "run"],
        tmp_path / "out",
        cases=RECORDED / "cases.jsonl",
        options=PreferenceOptions(completion="step", min_gap=0.3, per_case=9),
    )
    levels = {(tree["case_id"], level["depth"]): level for tree in read_tree(tmp_path / "run") for level in tree["attempts"][0]}
    rows = list(read_rows(tmp_path / "out" / "rows.jsonl"))
    assert {row.signal["depth"] for row in rows} == {1, 2}
    for row in rows:
        level = levels[row.case_id, row.signal["depth"]]
        shared = "\n".join(f"### Step {n}: {text}" for n, text in enumerate(level["prefix"], start=1))
        for name, text in (("chosen", row.turns[-1].text), ("rejected", row.signal["rejected"])):
            (candidate,) = [c for c in level["candidates"] if c["mentor"] == row.signal[f"{name}_mentor"]]
            assert text.startswith(shared)
            assert text.endswith(candidate["steps"][-1])
            assert candidate["mics_score"] == row.signal[f"{name}_score"]
        scores = [c["mics_score"] for c in level["candidates"] if c["mics_score"] is not None]
        assert row.signal["chosen_score"] - row.signal["rejected_score"] == max(scores) - min(scores)


def test_gap_length_and_number_are_limited(tmp_path: Path) -> None:
    run = searched(tmp_path, 1, world={"words": {"mentor-c": 40}})
    # mentor-c is five times as long, so the best is compared with the second worst.
    build_preferences([run], tmp_path / "balanced")
    (row,) = read_rows(tmp_path / "balanced" / "rows.jsonl")
    assert row.signal["rejected_mentor"] == "mentor-b"
    build_preferences([run], tmp_path / "any", options=PreferenceOptions(max_length_ratio=10))
    (row,) = read_rows(tmp_path / "any" / "rows.jsonl")
    assert row.signal["rejected_mentor"] == "mentor-c"
    with pytest.raises(InputError, match=r"no pair could be built .*1 x lengths differ too much"):
        build_preferences([run], tmp_path / "none", options=PreferenceOptions(min_gap=0.9))
    assert lines(tmp_path / "none" / "rows.jsonl") == []


def test_at_most_k_pairs_of_a_case_are_kept_those_with_the_largest_gaps(tmp_path: Path) -> None:
    shutil.copytree(RECORDED, tmp_path / "run")
    made = {}
    for k in (1, 9):
        build_preferences(
            [tmp_path / "run"], tmp_path / str(k), cases=RECORDED / "cases.jsonl", options=PreferenceOptions(min_gap=0.3, per_case=k)
        )
        made[k] = list(read_rows(tmp_path / str(k) / "rows.jsonl"))
    assert len(made[9]) > len(made[1]) == len({row.case_id for row in made[1]})
    for row in made[1]:
        gaps = [r.signal["chosen_score"] - r.signal["rejected_score"] for r in made[9] if r.case_id == row.case_id]
        assert row.signal["chosen_score"] - row.signal["rejected_score"] == max(gaps)


def test_the_forms_of_three_trainers_are_written(tmp_path: Path) -> None:
    run = searched(tmp_path, 2)
    done = chiron("build", "preferences", run, "--out", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["kept"] == 2
    folder = tmp_path / "out" / "exports"
    image = str(tmp_path / "images" / "case-00000" / "0.png")
    for name in ("trl", "ms-swift", "llamafactory"):
        faults = exports()[name].signals["preferences"].faults
        written = lines(folder / name / "preferences.jsonl")
        assert [fault for row in written for fault in faults(row)] == []
        assert len(written) == 2
        assert written[0]["images"] == [image]
    info = json.loads((folder / "llamafactory" / "dataset_info.json").read_text())["mmrp-preferences"]
    assert (info["ranking"], info["columns"]["chosen"], info["columns"]["rejected"]) == (True, "chosen", "rejected")


def test_what_gives_no_pair_is_reported_in_one_line(tmp_path: Path) -> None:
    one = searched(tmp_path / "one", 1, mentors=["mentor-a"])
    with pytest.raises(InputError, match=r"a search with one mentor has no candidates to compare .*mentor-a"):
        build_preferences([one], tmp_path / "out-one")
    equal = searched(tmp_path / "equal", 1, mentors=["mentor-a", "mentor-b"], world={"replies": {"intern-a": "### The final answer is: x"}})
    with pytest.raises(InputError, match="no pair could be built"):
        build_preferences([equal], tmp_path / "out-equal", options=PreferenceOptions(min_gap=1.0))
    done = chiron("build", "preferences", equal, "--out", tmp_path / "out-equal", "--min-gap", "1")
    assert (done.returncode, len(done.stderr.strip().splitlines()) >= 1) == (2, True)


def mentors_of(run: Path, **options: Any) -> set[tuple[str, str]]:
    """Build the pairs of a run and return their mentors, the chosen one first."""
    out = run.with_name(f"{run.name}-{'-'.join(map(str, options.values()))}-pairs")
    build_preferences([run], out, options=PreferenceOptions(**options))
    return {(row.signal["chosen_mentor"], row.signal["rejected_mentor"]) for row in read_rows(out / "rows.jsonl")}


def test_cut_off_candidates_are_left_out(tmp_path: Path) -> None:
    run = searched(tmp_path, 1, cut_off="mentor-c")
    assert mentors_of(run) == {("mentor-a", "mentor-b")}
    one = searched(tmp_path / "one", 1, mentors=["mentor-a", "mentor-c"], cut_off="mentor-c")
    with pytest.raises(InputError, match="1 x one candidate only"):
        build_preferences([one], tmp_path / "out-one")


def test_scores_below_the_quorum_are_left_out(tmp_path: Path) -> None:
    run = searched(tmp_path, 1, world={"unclear": "mentor-a"})
    (level,) = next(read_tree(run))["attempts"][0]
    assert next((c["mentor"], c["answered"], c["mics_score"]) for c in level["candidates"]) == ("mentor-a", 1, 1.0)
    assert mentors_of(run) == {("mentor-b", "mentor-c")}
    two = searched(tmp_path / "two", 1, mentors=["mentor-a", "mentor-c"], world={"unclear": "mentor-a"})
    with pytest.raises(InputError, match="1 x scores below the quorum"):
        build_preferences([two], tmp_path / "out-two")


def test_a_finished_path_that_offers_the_prefix_again_is_left_out(tmp_path: Path) -> None:
    finished = "### Step 1: It is seen.\n### Step 2: It was noted by mentor-b.\n### The final answer is: " + a_case("case-00000").answer
    run = searched(tmp_path, 1, mentors=["mentor-b", "mentor-c"], world={"replies": {"mentor-b": finished}})
    offered = [c for level in next(read_tree(run))["attempts"][0][1:] for c in level["candidates"] if c["mentor"] == "mentor-b"]
    assert [(c["steps"], c["correct"]) for c in offered] == [([], 1), ([], 1)]
    build_preferences([run], tmp_path / "out", options=PreferenceOptions("step", max_length_ratio=99))
    assert [row.signal["depth"] for row in read_rows(tmp_path / "out" / "rows.jsonl")] == [1]


def test_paths_without_a_final_answer_give_step_pairs_only(tmp_path: Path) -> None:
    replies = {name: f"### Step 1: It is seen.\n### Step 2: It was noted by {name}." for name in ("mentor-a", "mentor-c")}
    run = searched(tmp_path, 1, mentors=["mentor-a", "mentor-c"], world={"replies": replies})
    with pytest.raises(InputError, match="1 x no final answer"):
        build_preferences([run], tmp_path / "out-path")
    assert mentors_of(run, completion="step") == {("mentor-a", "mentor-c")}


@pytest.mark.parametrize(
    ("world", "reason"),
    [
        ({"endings": {"mentor-a": "Rib fracture, or none"}}, "better path ends in another answer"),
        ({"whole": {"mentor-a": 0}}, "better path was refuted as a whole"),
        ({"whole": {"mentor-a": 1}}, "better path was refuted as a whole"),
    ],
)
def test_a_path_that_does_not_lead_to_the_answer_is_not_preferred(tmp_path: Path, world: dict[str, Any], reason: str) -> None:
    run = searched(tmp_path, 1, world=world)
    assert mentors_of(run) == {("mentor-b", "mentor-c")}
    assert ("mentor-a", "mentor-c") in mentors_of(run, completion="step")
    two = searched(tmp_path / "two", 1, mentors=["mentor-a", "mentor-c"], world=world)
    with pytest.raises(InputError, match=f"1 x {reason}"):
        mentors_of(two)


def test_a_path_no_better_as_a_whole_than_the_rejected_step_is_not_preferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RIGHT_INTERNS, "mentor-c", 2)
    run = searched(tmp_path, 1, mentors=["mentor-a", "mentor-c"], world={"whole": {"mentor-a": 2}}, depth=1)
    with pytest.raises(InputError, match="1 x better path was refuted as a whole"):
        mentors_of(run)
    monkeypatch.setitem(RIGHT_INTERNS, "mentor-c", 1)
    worse = searched(tmp_path / "worse", 1, mentors=["mentor-a", "mentor-c"], world={"whole": {"mentor-a": 2}}, depth=1)
    assert mentors_of(worse) == {("mentor-a", "mentor-c")}


def test_the_verdict_of_the_judge_counts_and_without_one_the_normal_form(tmp_path: Path) -> None:
    judged = searched(tmp_path / "judged", 1, world={"endings": {"mentor-a": SYNONYM}})
    assert mentors_of(judged) == {("mentor-a", "mentor-c")}
    # The search judges the path of mentor-a only.
    endings = {"mentor-a": "Something else", "mentor-b": "The rib fracture case-00000."}
    same = searched(tmp_path / "same", 1, world={"endings": endings})
    assert mentors_of(same) == {("mentor-b", "mentor-c")}
    unknown = searched(tmp_path / "unknown", 1, world={"endings": {**endings, "mentor-b": SYNONYM}})
    with pytest.raises(InputError, match="1 x better path ends in another answer"):
        mentors_of(unknown)


LEAK = "The correct answer is given."


@pytest.mark.slow
@pytest.mark.parametrize("completion", ["path", "step"])
def test_a_shared_prefix_may_not_reveal_that_the_answer_was_known(tmp_path: Path, completion: str) -> None:
    # The search continues from the steps of mentor-a.
    prefixes = []
    for name, steps in (("clean", {}), ("leak", {"mentor-a": LEAK})):
        run = searched(tmp_path / name, 1, world={"whole": {"mentor-a": 0}, "steps": steps})
        build_preferences([run], tmp_path / name / "out", options=PreferenceOptions(completion, per_case=9))  # type: ignore[arg-type]
        prefixes.append({row.signal["prefix_steps"] > 0 for row in read_rows(tmp_path / name / "out" / "rows.jsonl")})
    assert prefixes == [{False, True}, {False}]


def test_a_rejected_path_may_reveal_it(tmp_path: Path) -> None:
    run = searched(tmp_path, 1, mentors=["mentor-a", "mentor-c"], world={"steps": {"mentor-c": LEAK}})
    assert mentors_of(run) == {("mentor-a", "mentor-c")}


def test_a_case_that_was_edited_or_removed_gives_nothing(tmp_path: Path) -> None:
    run = searched(tmp_path, 3)
    records = lines(tmp_path / "cases.jsonl")
    records[0]["history"] = "Fell from a horse."
    (tmp_path / "cases.jsonl").write_text("\n".join(json.dumps(record) for record in records[:2]) + "\n")
    assert build_preferences([run], tmp_path / "out").kept == 1
    assert [(d["case_id"], d["reason"]) for d in lines(tmp_path / "out" / "dropped.jsonl")] == [
        ("case-00000", "case has changed"),
        ("case-00002", "case not in the file"),
    ]


@pytest.mark.parametrize("options", [["Cyst", ""], 3])
def test_a_case_whose_options_cannot_be_read_gives_nothing(tmp_path: Path, options: object) -> None:
    records = lines(write_cases(tmp_path, 2))
    records[0]["options"] = options
    (tmp_path / "cases.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    run = searched(tmp_path)
    for part, build in (("preferences", build_preferences), ("rewards", build_rewards), ("rl", build_rl)):
        build([run], tmp_path / part)
        assert {row.case_id for row in read_rows(tmp_path / part / "rows.jsonl")} == {"case-00001"}
        assert [d["reason"] for d in lines(tmp_path / part / "dropped.jsonl")] == ["options cannot be read"]


def test_the_same_pair_of_two_runs_is_kept_once(tmp_path: Path) -> None:
    run, other = searched(tmp_path, 1), searched(tmp_path, 1, run="other")
    assert build_preferences([run, other], tmp_path / "out").kept == 1
    with pytest.raises(InputError, match="named twice"):
        build_preferences([run, run], tmp_path / "again")


@pytest.mark.slow
def test_a_case_that_two_runs_searched_from_files_of_their_own_is_one_case(tmp_path: Path) -> None:
    run = searched(tmp_path, 3)
    records = lines(tmp_path / "cases.jsonl")
    for name, kept in (("copy", records[1:]), ("changed", [records[0] | {"history": "Fell from a horse."}, *records[1:]])):
        shutil.copytree(tmp_path / "images", tmp_path / name / "images")
        (tmp_path / name / "cases.jsonl").write_text("".join(json.dumps(record) + "\n" for record in kept))
    copy, changed = searched(tmp_path / "copy"), searched(tmp_path / "changed")
    images = tmp_path / "images"
    build_preferences([copy, run], tmp_path / "out", images=images)
    rows = [row.case_id for row in read_rows(tmp_path / "out" / "rows.jsonl")]
    assert rows == ["case-00001", "case-00002", "case-00000"]
    build_preferences([copy, changed], tmp_path / "other", images=images)  # the changed case is in one of them only
    with pytest.raises(InputError, match=r"two cases have the id 'case-00000' .*rename one of them"):
        build_preferences([run, changed], tmp_path / "two", images=images)
    for folder in (tmp_path, tmp_path / "copy"):
        (folder / "cases.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records[:1]))
    build_preferences([copy, run], tmp_path / "gone", images=images)
    dropped = [(d["case_id"], d["reason"]) for d in lines(tmp_path / "gone" / "dropped.jsonl")]
    assert dropped == [("case-00001", "case not in the file"), ("case-00002", "case not in the file")]


@pytest.mark.parametrize(
    "option",
    [("--min-gap", "0"), ("--min-gap", "1.5"), ("--max-length-ratio", "0.5"), ("--per-case", "0"), ("--completion", "word")],
)
def test_options_out_of_range_are_rejected(tmp_path: Path, option: tuple[str, str]) -> None:
    run = shutil.copytree(RECORDED, tmp_path / "run")
    done = chiron("build", "preferences", run, "--out", tmp_path / "out", *option)
    assert done.returncode == 2
    assert "error:" in done.stderr
