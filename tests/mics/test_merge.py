"""Merged shards are one run: same files, no call again, nothing lost, and contradictions are refused."""

import asyncio
import functools
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chiron.cases.reader import Shard
from chiron.client import ledger_merge
from chiron.client.batch_record import FOLDER, Batch, RequestFile
from chiron.client.call import Reply, Usage
from chiron.client.ledger import Ledger, StoredResult
from chiron.errors import InputError
from chiron.mics.api import replay_setup
from chiron.mics.merge import merge_runs
from chiron.mics.replay import rehearse
from chiron.mics.run_directory import RunDirectory, read_status
from tests.support.calls import a_call
from tests.support.cases import known_answers, write_cases
from tests.support.command import chiron, environment
from tests.support.endpoint import Endpoint
from tests.support.runs import config_of, execute, team, write_config
from tests.support.simulation import Simulation
from tests.support.waiting import wait_until

IDENTITY = {"mentors": [["m", "m", 1]], "seed": 0}
PRICE = {"price": {"input": 1.0, "output": 1.0}}


def a_run(path: Path, results: dict[str, tuple[int, str]], replies: dict[str, Reply] | None = None, **identity: Any) -> Path:
    """Write a run directory by hand. ``results``: position and outcome by case; ``replies``: by prompt."""
    directory = RunDirectory(path)
    with directory.opened({**IDENTITY, **identity}) as ledger:
        directory.write_run({**IDENTITY, **identity}, {"cases": "cases.jsonl", "images": "images", "shard": None, "limit": None})
        for prompt, reply in (replies or {}).items():
            ledger.put(a_call(prompt), reply)
        for case_id, (position, outcome) in results.items():
            record = {"case_id": case_id, "outcome": outcome}
            ledger.put_result(StoredResult(case_id, position, "f", outcome, outcome == "depth", None, record))
    return path


def rows(run: Path, table: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(run / "ledger.sqlite") as db:
        found = sorted(db.execute(f"SELECT * FROM {table}"), key=repr)  # noqa: S608 - names of this test
    db.close()
    return found


def files(run: Path) -> list[bytes]:
    return [(run / name).read_bytes() for name in ("paths.jsonl", "rejected.jsonl")]


def with_open_batch(run: Path) -> Batch:
    file = RequestFile(run / FOLDER, "20260101-000000-x")
    file.add("k", b"{}")
    return file.close("gpt", "https://example.org/v1")


def test_nothing_is_merged_into_a_run_with_an_open_batch(tmp_path: Path) -> None:
    done = a_run(tmp_path / "done", {"a": (0, "depth")})
    merge_runs([done], tmp_path / "all")
    batch = with_open_batch(tmp_path / "all")
    more = a_run(tmp_path / "more", {"b": (1, "depth")})
    with pytest.raises(InputError, match=r"all has 1 open batch .*run its search again"):
        merge_runs([more], tmp_path / "all")
    assert len(rows(tmp_path / "all", "results")) == 1
    batch.remove()
    assert merge_runs([more], tmp_path / "all").new_results == 1


def test_a_run_with_an_open_batch_is_not_merged_before_it_is_collected(tmp_path: Path) -> None:
    done = a_run(tmp_path / "done", {"a": (0, "depth")})
    waiting = a_run(tmp_path / "waiting", {"b": (1, "pending")})
    batch = with_open_batch(waiting)
    with pytest.raises(InputError, match=r"waiting has 1 open batch \(batch 20260101-000000-x of .*: 1 call.*run its search again"):
        merge_runs([done, waiting], tmp_path / "all")
    assert not (tmp_path / "all").exists()
    batch.remove()
    assert merge_runs([done, waiting], tmp_path / "all").new_results == 2


@pytest.mark.slow
def test_merged_shards_equal_one_process_and_resume_without_a_call(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 6)
    with Endpoint(Simulation(known_answers(cases), skill=0.1).reply) as endpoint:
        data = team(endpoint.base_url, model=PRICE)
        config = config_of(data)
        execute(cases, config, tmp_path / "one")
        for part in (1, 2):
            execute(cases, config, tmp_path / f"shard-{part}", shard=Shard(part, 2))
        asked = endpoint.seen.requests
        merged = chiron("merge", tmp_path / "shard-1", tmp_path / "shard-2", "--out", tmp_path / "all")
        assert merged.returncode == 0, merged.stderr
        assert files(tmp_path / "all") == files(tmp_path / "one")
        assert (tmp_path / "all" / "report.html").is_file()
        again = chiron("search", cases, "--config", write_config(tmp_path / "c.yaml", data), "--run", tmp_path / "all", "--json")
        assert again.returncode == 0, again.stderr
        assert json.loads(again.stdout)["total"] == 6
        assert endpoint.seen.requests == asked
    assert files(tmp_path / "all") == files(tmp_path / "one")
    plan = asyncio.run(rehearse(replay_setup(RunDirectory(tmp_path / "all"), config), tmp_path / "all" / "ledger.sqlite"))
    assert (plan.complete, plan.new_calls_at_least) == (6, 0)
    spent = [read_status(tmp_path / name).spent_usd for name in ("shard-1", "shard-2", "all")]
    assert spent[2] == pytest.approx(spent[0] + spent[1])
    assert read_status(tmp_path / "all").possibly_spent_usd == 0
    built = chiron("build", "cot", tmp_path / "all", "--out", tmp_path / "rows")
    assert built.returncode == 0, built.stderr


def test_merging_again_or_with_more_shards_adds_only_what_is_missing(tmp_path: Path) -> None:
    first = a_run(tmp_path / "a", {"c1": (0, "depth")}, {"x": Reply("x"), "both": Reply("yes", cost_usd=0.5)})
    second = a_run(tmp_path / "b", {"c2": (1, "unsolved")}, {"y": Reply("y"), "both": Reply("no", cost_usd=0.25)})
    with Ledger.open(first / "ledger.sqlite") as ledger:
        ledger.note_failure(a_call("gone"), "transient", "no answer", final=True, cost_at_most=0.125)
        ledger.begin_attempt(a_call("killed"), 0.0625)
    out = tmp_path / "out"
    assert merge_runs([first], out).new_replies == 2
    summary = merge_runs([first, second], out)
    assert (summary.new_replies, summary.new_results, summary.differing) == (1, 1, 1)
    assert summary.spent_usd == pytest.approx(0.9375)
    assert summary.possibly_spent_usd == pytest.approx(0.1875)
    before = {table: rows(out, table) for table in ("calls", "failures", "results")}
    again = merge_runs([second, first], out)
    assert (again.new_replies, again.new_results) == (0, 0)
    assert {table: rows(out, table) for table in ("calls", "failures", "results")} == before
    with Ledger.read(out / "ledger.sqlite") as ledger:
        reply = ledger.get(a_call("both").key)
        assert reply is not None
        assert reply.text == "yes"


def test_a_finished_result_replaces_a_pending_one(tmp_path: Path) -> None:
    first, second = a_run(tmp_path / "a", {"c1": (0, "pending")}), a_run(tmp_path / "b", {"c1": (0, "depth")})
    merge_runs([first, second], tmp_path / "out")
    merge_runs([first], tmp_path / "out")
    assert read_status(tmp_path / "out").outcomes["retained"] == 1


def test_runs_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    first = a_run(tmp_path / "a", {"c1": (0, "depth")})
    other = a_run(tmp_path / "b", {"c1": (0, "unsolved")})
    elsewhere = a_run(tmp_path / "c", {"c9": (0, "depth")})
    seeded = a_run(tmp_path / "d", {"c2": (1, "depth")}, seed=7)
    with pytest.raises(InputError, match=r"case 'c1' has one result in .*/b and another"):
        merge_runs([first, other], tmp_path / "out")
    with pytest.raises(InputError, match=r"case 'c9' of .*/c and case 'c1' .* both number 1"):
        merge_runs([first, elsewhere], tmp_path / "out")
    with pytest.raises(InputError, match=r"/d has another configuration than .*/a \(seed: 0 there, 7 here\)"):
        merge_runs([first, seeded], tmp_path / "out")
    with pytest.raises(InputError, match=r"/out contains a run with another configuration \(seed"):
        merge_runs([seeded], tmp_path / "out")
    with pytest.raises(InputError, match="named twice"):
        merge_runs([first, tmp_path / "d" / ".." / "a"], tmp_path / "out")
    with pytest.raises(InputError, match="is not a run directory"):
        merge_runs([tmp_path], tmp_path / "out")


def test_a_run_that_is_being_written_is_refused(tmp_path: Path) -> None:
    first, second = a_run(tmp_path / "a", {"c1": (0, "depth")}), a_run(tmp_path / "b", {})
    with RunDirectory(second).locked():
        refused = chiron("merge", first, second, "--out", tmp_path / "out")
    assert refused.returncode == 2
    assert f"{second} is in use by another process" in refused.stderr.replace("\n", " ")


def test_a_damaged_ledger_is_refused_by_its_name(tmp_path: Path) -> None:
    replies = {str(n): Reply(f"reply {n} " * 40, usage=Usage(1, 1)) for n in range(400)}
    run = a_run(tmp_path / "a", {"c1": (0, "depth")}, replies)
    spoiled = shutil.copytree(run, tmp_path / "spoiled")
    with sqlite3.connect(spoiled / "ledger.sqlite") as db:
        db.execute("UPDATE calls SET text = 'other' WHERE rowid = 399")
    db.close()
    with pytest.raises(InputError, match=r"spoiled/ledger.sqlite is damaged: the reply .* does not match its checksum"):
        merge_runs([spoiled], tmp_path / "out")
    torn = shutil.copytree(run, tmp_path / "torn")
    with sqlite3.connect(torn / "ledger.sqlite") as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    db.close()
    with (torn / "ledger.sqlite").open("r+b") as file:
        for page in range(10, 60):
            file.seek(page * 4096)
            file.write(b"\xff" * 4096)
    with pytest.raises(InputError, match=r"torn/ledger.sqlite is damaged"):
        merge_runs([torn], tmp_path / "out2")
    assert merge_runs([run], tmp_path / "out2").new_results == 1


def test_a_ledger_without_checksums_is_merged_and_its_old_words_are_hidden(tmp_path: Path) -> None:
    recorded = Path(__file__).parents[1] / "support" / "recorded_run"
    old = shutil.copytree(recorded, tmp_path / "old")
    with sqlite3.connect(old / "ledger.sqlite") as db:
        db.execute("INSERT INTO failures VALUES (NULL, x'00', 'intern', 'm', 'transient', 'words of the prompt', 1, 0, 1.0)")
    db.close()
    merge_runs([old], tmp_path / "out")
    assert [reason.words for reason in read_status(tmp_path / "out").failures if "words of" in reason.words] == []
    assert files(tmp_path / "out") == files(recorded)


@pytest.mark.slow
def test_a_killed_merge_loses_nothing(tmp_path: Path) -> None:
    replies = {str(n): Reply("x" * 200, cost_usd=0.5) for n in range(3000)}
    runs = [a_run(tmp_path / name, {f"c{n}": (n, "depth")}, replies) for n, name in enumerate("ab")]
    merge_runs(runs, tmp_path / "whole")
    script = (
        "import sys; from chiron.client import ledger_merge; ledger_merge._BATCH = 10\n"
        "from chiron.mics.merge import merge_runs; merge_runs(sys.argv[1:3], sys.argv[3])"
    )
    out = tmp_path / "killed"
    for enough in (200, 1500, 2990):
        process = subprocess.Popen([sys.executable, "-c", script, *map(str, runs), str(out)], env=environment())
        wait_until(functools.partial(_has_replies, out, enough), process)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not (out / "run.json").exists()
    merge_runs(runs, out)
    for table in ("calls", "failures", "results"):
        assert rows(out, table) == rows(tmp_path / "whole", table)


def _has_replies(run: Path, enough: int) -> bool:
    try:
        with Ledger.read(run / "ledger.sqlite") as ledger:
            return sum(spending.calls for spending in ledger.spending()) >= enough
    except InputError:
        return False


def test_a_large_ledger_takes_several_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_merge, "_BATCH", 3)
    replies = {str(n): replace(Reply("x"), text=str(n)) for n in range(10)}
    run = a_run(tmp_path / "a", {"c1": (0, "depth")}, replies)
    assert merge_runs([run], tmp_path / "out").new_replies == 10
    assert len(rows(tmp_path / "out", "calls")) == 10
