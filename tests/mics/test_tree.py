"""The whole search tree of a run can be read: every candidate, step, evaluation, score and ledger key, also of old runs."""

import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from chiron.client.ledger import Ledger
from chiron.errors import InputError
from chiron.mics.tree import TreeCandidate, TreeRecord, read_tree, write_tree
from tests.support.cases import known_answers, write_cases
from tests.support.command import chiron
from tests.support.endpoint import Endpoint
from tests.support.runs import config_of, execute, team
from tests.support.simulation import Simulation

RECORDED = Path(__file__).parents[1] / "support" / "recorded_run"


def search(tmp_path: Path, count: int = 3, *, replies: dict[str, str] | None = None, **how: Any) -> Path:
    cases = write_cases(tmp_path, count)
    with Endpoint(Simulation(known_answers(cases), replies=replies or {}).reply) as endpoint:
        execute(cases, config_of(team(endpoint.base_url, **how)), tmp_path / "run")
    return tmp_path / "run"


def candidates(record: TreeRecord) -> list[TreeCandidate]:
    return [c for attempt in record["attempts"] for level in attempt for c in level["candidates"]]


def keys_of(record: TreeRecord) -> set[str]:
    found = {c["key"] for c in candidates(record)} | {e["key"] for c in candidates(record) for e in c["evaluations"]}
    return {key for key in found if key is not None}


def test_an_old_run_has_its_whole_tree_with_keys_that_are_in_its_ledger(tmp_path: Path) -> None:
    run = Path(shutil.copytree(RECORDED, tmp_path / "run"))
    records = list(read_tree(run))
    assert [(r["case_id"], r["version"], r["retained"]) for r in records] == [(f"case-0000{n}", 1, True) for n in range(3)]
    with Ledger.read(run / "ledger.sqlite") as ledger:
        for record in records:
            judged = {e["judge_key"] for c in candidates(record) for e in c["evaluations"] if e["correct"] is not None}
            assert judged
            assert None not in judged
            replies = {key: ledger.get(str(key)) for key in keys_of(record) | judged}
            assert all(reply is not None for reply in replies.values())
    lost = next(c for c in candidates(records[1]) if c["mentor"] == "mentor-c")
    assert (lost["steps"], lost["rest"], lost["mics_score"], lost["key"]) == ([], None, None, None)
    assert lost["problem"] == "call failed: mentor-c: HTTP 400"


@pytest.mark.slow
def test_the_steps_of_the_tree_are_those_of_the_paths(tmp_path: Path) -> None:
    run = search(tmp_path, 5, baseline=True)
    paths = {p["case_id"]: p for p in map(json.loads, (run / "paths.jsonl").read_text().splitlines())}
    assert paths
    for record in read_tree(run):
        assert record["baseline"] is not None
        assert len(record["baseline"]["evaluations"]) == 6
        for attempt in record["attempts"]:
            for level, after in pairwise(attempt):
                (chosen,) = [c for c in level["candidates"] if c["chosen"]]
                assert after["prefix"] == level["prefix"] + chosen["steps"]
            for level in attempt:
                for c in level["candidates"]:
                    assert len(c["steps"]) == (2 if level["depth"] == 1 else 1)
                    right = sum(e["correct"] is True for e in c["evaluations"])
                    assert (c["correct"], c["mics_score"]) == (right, right / 6)
        if path := paths.get(record["case_id"]):
            last = record["attempts"][-1][-1]
            (end,) = [c for c in last["candidates"] if c["chosen"]]
            whole = [*last["prefix"], *end["steps"], *(end["rest"] or ())]
            assert path["reasoning"].startswith("\n".join(f"### Step {n}: {text}" for n, text in enumerate(whole, start=1)))
            assert path["reasoning"].endswith(f"### The final answer is: {end['final_answer']}")


def test_a_reply_that_is_cut_off_has_no_steps_and_says_why(tmp_path: Path) -> None:
    run = search(tmp_path, 1, replies={"mentor-b": "I cannot look at images."})
    (record,) = read_tree(run)
    unreadable = [c for c in candidates(record) if c["mentor"] == "mentor-b"]
    assert all(c["steps"] == [] and c["planned"] == 0 and c["quorum"] is False for c in unreadable)
    assert {c["problem"] for c in unreadable} == {"unreadable: no_steps, no_final_answer"}


def test_a_steps_rest_is_unknown_without_its_reply(tmp_path: Path) -> None:
    import sqlite3

    run = Path(shutil.copytree(RECORDED, tmp_path / "run"))
    first = candidates(next(read_tree(run)))[0]
    with sqlite3.connect(run / "ledger.sqlite") as db:
        db.execute("DELETE FROM calls WHERE key = ?", (bytes.fromhex(str(first["key"])),))
    again = candidates(next(read_tree(run)))[0]
    assert again == {**first, "rest": None, "final_answer": None}


def test_the_command_writes_one_line_for_each_searched_case(tmp_path: Path) -> None:
    run = Path(shutil.copytree(RECORDED, tmp_path / "run"))
    done = chiron("build", "tree", run)
    assert (done.returncode, done.stdout.strip()) == (0, str(run / "tree.jsonl"))
    written = [json.loads(line) for line in (run / "tree.jsonl").read_text().splitlines()]
    assert written == list(read_tree(run))
    assert write_tree(run, tmp_path / "other.jsonl").read_text() == (run / "tree.jsonl").read_text()


def test_what_is_not_a_run_of_this_version_is_reported(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a run directory"):
        write_tree(tmp_path)
    run = Path(shutil.copytree(RECORDED, tmp_path / "run"))
    about = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**about, "identity": {**about["identity"], "rules": 7}}))
    with pytest.raises(InputError, match="was searched with version 7 of the rules, and this program reads version 1"):
        write_tree(run)
    (run / "run.json").write_text(json.dumps({**about, "identity": {"part": "cot", "rules": 1}}))
    with pytest.raises(InputError, match="not the run of a search"):
        write_tree(run)
    assert not (run / "tree.jsonl").exists()
