"""Searches whose models are asked through batches."""

import json
import signal
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from chiron.errors import InputError
from tests.support.batch_endpoint import BatchEndpoint, BatchFaults
from tests.support.batch_forms import FORMS
from tests.support.cases import known_answers, write_cases
from tests.support.command import CHIRON, chiron, environment
from tests.support.runs import JUDGE, MENTORS, config_of, execute, team, write_config
from tests.support.simulation import Simulation
from tests.support.waiting import wait_until
from tests.view.serving import address_of, settled, visiting

BATCH: dict[str, Any] = {"quiet": 0.02, "poll": 0.01, "attempts": 20}


def files(run: Path) -> list[list[dict[str, Any]]]:
    """Return paths and rejected cases, without the number of attempts and other traces of how they came about."""
    return [
        [
            {k: v for k, v in json.loads(line).items() if k not in {"provenance", "cost_usd"}}
            for line in (run / name).read_text().splitlines()
        ]
        for name in ("paths.jsonl", "rejected.jsonl")
    ]


def simulation(cases: Path) -> Simulation:
    return Simulation(known_answers(cases), skill=0.1)


def all_by_batch(address: str, *, form: str = "openai", **search: Any) -> dict[str, Any]:
    return team(address, model={"batch": {**BATCH, "form": form}}, **search)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_a_search_by_batches_sends_few_waves_and_finds_the_same_paths(tmp_path: Path, form: str) -> None:
    cases = write_cases(tmp_path, 8)
    with BatchEndpoint(simulation(cases).reply, form=form) as server:
        # Anthropic takes no higher temperature than 1.
        warm: dict[str, Any] = {"temperatures": [0.9, 0.2], "mentor_temperature": 0.9}
        execute(cases, config_of(team(server.base_url, **warm)), tmp_path / "live")
        live = server.seen.requests
        summary = execute(cases, config_of(all_by_batch(server.base_url, form=form, **warm)), tmp_path / "batch")
        assert server.seen.requests == live, "no call is sent live"
    assert summary.pending == 0
    assert files(tmp_path / "batch") == files(tmp_path / "live")
    judged = [
        data
        for batch, data in zip(server.batches.values(), server.uploaded, strict=True)
        if batch.get("model") == "judge" or b'"model":"judge"' in data
    ]
    # A depth takes a wave of mentors, of interns and of the judge; the verified policy adds one of interns and judge.
    assert len(judged) <= 2 * (3 * 2 + 1) * 2
    assert set(server.replied.values()) == {1}


@pytest.mark.slow
def test_mentors_by_batch_and_interns_live_find_the_same_paths_in_spite_of_faults(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 6)
    with BatchEndpoint(simulation(cases).reply, batch_faults=BatchFaults.of_each_kind(0.05, seed=7)) as server:
        execute(cases, config_of(team(server.base_url)), tmp_path / "live")
        mixed = team(server.base_url)
        for name in MENTORS:
            mixed["models"][name]["batch"] = BATCH
        summary = execute(cases, config_of(mixed), tmp_path / "mixed")
    assert summary.pending == 0
    assert files(tmp_path / "mixed") == files(tmp_path / "live")
    assert {json.loads(line)["body"]["model"] for data in server.uploaded for line in data.splitlines()} == set(MENTORS)
    assert set(server.replied.values()) == {1}


@pytest.mark.slow
def test_live_calls_that_wait_for_money_do_not_hold_up_the_batch_that_has_it(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 3)
    with BatchEndpoint(simulation(cases).reply) as server:
        price = {"price": {"input": 10.0, "output": 10.0}}
        mixed = team(server.base_url, model=price, budget_usd=1.0)
        for name in MENTORS:
            mixed["models"][name]["batch"] = BATCH
        summary = execute(cases, config_of(mixed), tmp_path / "run")
    assert summary.halted is None or "budget" in str(summary.halted)
    assert summary.spent_usd <= 1.0


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_search_that_is_stopped_or_killed_leaves_its_batches_to_the_next_one(tmp_path: Path, number: signal.Signals) -> None:
    cases = write_cases(tmp_path, 3)
    with BatchEndpoint(simulation(cases).reply, running=True) as server:
        config = write_config(tmp_path / "team.yaml", all_by_batch(server.base_url))
        command = [*CHIRON, "search", str(cases), "--config", str(config), "--run", str(tmp_path / "run")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
        wait_until(lambda: len(server.batches) == len(MENTORS), process, what="a batch of each mentor")
        process.send_signal(number)
        _, messages = process.communicate()
        if number is signal.SIGINT:
            assert process.returncode == 130, messages
            assert "3 calls of model 'mentor-a' are in 1 batch (batch_" in messages
            assert "run the same command again" in messages
        listed = [f" of model '{mentor}': 3 calls, since 20" for mentor in MENTORS]
        status = chiron("status", tmp_path / "run")
        assert all(line in status.stdout for line in listed), status.stdout
        with visiting(tmp_path / "run") as visitor:
            page = unescape(settled(visitor, address_of(visitor, "run")))
        assert all(line in page for line in listed), page
        assert [batch["calls"] for batch in json.loads(chiron("status", tmp_path / "run", "--json").stdout)["batches"]] == [3, 3, 3]
        server.running = False
        again = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
        assert again.returncode == 0, again.stderr
    assert set(server.replied.values()) == {1}
    assert JUDGE in again.stderr
    assert "batch " not in chiron("status", tmp_path / "run").stdout


def test_workers_of_ray_do_not_send_batches() -> None:
    with pytest.raises(InputError, match="--engine local"):
        config_of(all_by_batch("http://localhost/v1")).for_workers(2)
