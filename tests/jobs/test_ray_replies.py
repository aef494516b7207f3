"""Builds and evaluations on a Ray cluster: the same files as one process, also when a worker is killed."""

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from chiron.client.attempts import Budget
from chiron.client.failures import UnitAsk
from chiron.errors import InputError
from chiron.evaluation.api import evaluate_suite
from chiron.evaluation.config import load_evaluation
from chiron.evaluation.preparation import prepare_evaluation
from chiron.jobs.engine import EngineOptions
from chiron.jobs.job import AnyJob, JobSummary, open_client
from chiron.jobs.replies import KnownCalls
from chiron.mmrp.questions import prepare_questions
from chiron.mmrp.text import prepare_text
from tests.evaluation import published, test_suites
from tests.evaluation.test_running import answers, write
from tests.jobs.test_ray_engine import PRICE, calls_in, run_part, stopped_after_refusing_a_second, workers
from tests.jobs.test_ray_engine import address as address  # noqa: PLC0414 - a fixture
from tests.mmrp.building import Models, build_config, write_different
from tests.mmrp.test_questions import Author
from tests.support.cases import write_cases, write_png
from tests.support.command import chiron
from tests.support.endpoint import Endpoint
from tests.support.runs import write_config
from tests.support.waiting import wait_until


def ray(address: str, **options: Any) -> EngineOptions:
    return EngineOptions(address=address, **{"workers": 2, "copy_every": 0.2, **options})


def evaluation(folder: Path, config: Path, run: Path, **options: Any) -> AnyJob:
    return prepare_evaluation("m", ["vqa_rad"], run, load_evaluation(config, "m"), data=folder / "d", **options)


def execute(job: AnyJob) -> JobSummary:
    summary: JobSummary = asyncio.run(job.execute())
    return summary


def differing(one: Path, other: Path) -> list[str]:
    """Names of the files that differ between two directories, without what contains a time."""
    names = {path.name for folder in (one, other) for path in folder.iterdir() if path.is_file()}
    own = {"ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm", "run.json", "run.lock"}
    return sorted(name for name in names - own if (one / name).read_bytes() != (other / name).read_bytes())


@pytest.mark.slow
def test_an_evaluation_on_ray_writes_the_files_of_one_process(tmp_path: Path, address: str) -> None:
    published.vqa_rad(tmp_path / "d", 40)
    with Endpoint(answers) as endpoint:
        config = write(tmp_path, endpoint.base_url, protocol="exact", judge="judge", interns=["intern"])
        execute(evaluation(tmp_path, config, tmp_path / "one"))
        asked, before = len(endpoint.seen.answered), endpoint.seen.requests
        summary = execute(evaluation(tmp_path, config, tmp_path / "ray", engine="ray", engine_options=ray(address)))
        assert (summary.pending, summary.total) == (0, 40)
        assert differing(tmp_path / "one", tmp_path / "ray") == []
        assert len(endpoint.seen.answered) == asked
        again = endpoint.seen.requests
        assert again > before
        assert execute(evaluation(tmp_path, config, tmp_path / "ray", engine="ray", engine_options=ray(address))).pending == 0
        assert endpoint.seen.requests == again
    assert differing(tmp_path / "one", tmp_path / "ray") == []


def killing_a_worker(endpoint: Endpoint, after: int) -> threading.Thread:
    """Kill a worker once the endpoint was asked so many times more."""
    before = endpoint.seen.requests

    def kill() -> None:
        wait_until(lambda: endpoint.seen.requests >= before + after)
        os.kill(workers()[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    return killer


@pytest.mark.slow
@pytest.mark.parametrize(("prepare", "author"), [(prepare_text, Models), (prepare_questions, Author)])
def test_a_build_on_ray_with_a_killed_worker_writes_the_files_of_one_process(
    tmp_path: Path, address: str, prepare: Callable[..., AnyJob], author: Callable[[], Any]
) -> None:
    cases = write_different(tmp_path, 40)
    with cases.open("a") as file:
        file.write("not a case\n")
    with Endpoint(author().answer, latency=lambda _: 0.05) as endpoint:
        config = build_config(endpoint.base_url, model={**PRICE, "concurrency": 4}, budget_usd=10_000)
        alone = execute(prepare(cases, config, tmp_path / "one" / "out"))
        asked, distinct = endpoint.seen.requests, len(endpoint.seen.answered)
        killer = killing_a_worker(endpoint, asked // 2)
        summary = execute(prepare(cases, config, tmp_path / "ray" / "out", engine="ray", engine_options=ray(address)))
        killer.join()
        assert any("a worker was lost" in note for note in summary.notes)
        assert (summary.pending, summary.total) == (0, 41)
        assert len(endpoint.seen.answered) == distinct
        # What was in flight, or answered since the last copy 0.2 s before.
        assert endpoint.seen.requests - 2 * asked < asked // 2
        # Every reply is counted, also those that two parts asked for. A worker that is killed between two calls loses nothing.
        assert summary.spent_usd - summary.possibly_spent_usd >= alone.spent_usd - 1e-9
        assert summary.possibly_spent_usd > 0 or endpoint.seen.requests == 2 * asked
    assert differing(tmp_path / "one" / "out", tmp_path / "ray" / "out") == []


@pytest.mark.slow
def test_what_the_ledger_has_is_not_asked_again_by_workers(tmp_path: Path, address: str) -> None:
    published.vqa_rad(tmp_path / "d", 40)

    def stops_halfway(_: dict[str, Any], number: int) -> web.Response | None:
        refused = number > 60
        return web.json_response({"error": {"message": "out of credit"}}, status=403) if refused else None

    with Endpoint(answers, override=stops_halfway) as endpoint:
        config = write(tmp_path, endpoint.base_url, protocol="exact", judge="judge", interns=["intern"])
        assert execute(evaluation(tmp_path, config, tmp_path / "ray")).pending > 0
        seen = sum(endpoint.seen.answered.values())
        endpoint.override = None
        assert execute(evaluation(tmp_path, config, tmp_path / "ray", engine="ray", engine_options=ray(address))).pending == 0
        assert max(endpoint.seen.answered.values()) == 1
        assert len(endpoint.seen.answered) > seen > 0
        execute(evaluation(tmp_path, config, tmp_path / "one"))
    assert differing(tmp_path / "one", tmp_path / "ray") == []


def refuses_some(body: dict[str, Any], _: int) -> web.Response | None:
    refused = body["model"] == "m" and "7" in str(body["messages"])[-400:]
    return web.json_response({"error": {"message": "flagged"}}, status=400) if refused else None


@pytest.mark.slow
def test_calls_that_workers_sent_in_vain_are_not_sent_again_and_leave_the_same_lines(tmp_path: Path, address: str) -> None:
    published.vqa_rad(tmp_path / "d", 40)

    with Endpoint(answers, override=refuses_some) as endpoint:
        config = write(tmp_path, endpoint.base_url, protocol="exact")
        execute(evaluation(tmp_path, config, tmp_path / "one"))
        asked, refused = endpoint.seen.requests, endpoint.seen.statuses[400]
        assert 0 < refused < asked
        execute(evaluation(tmp_path, config, tmp_path / "ray", engine="ray", engine_options=ray(address)))
        assert endpoint.seen.requests == 2 * asked
    assert differing(tmp_path / "one", tmp_path / "ray") == []


@pytest.mark.slow
def test_a_small_budget_is_not_exceeded_and_what_it_paid_for_is_in_the_rows(tmp_path: Path, address: str) -> None:
    cases = write_different(tmp_path, 40)
    with Endpoint(Models().answer) as endpoint:
        price, limits = {"price": {"input": 0.0, "output": 10_000.0}}, {"author": 200, "reader": 20}  # $27.88 for all of them
        config = build_config(endpoint.base_url, model=price, budget_usd=15, max_tokens=limits)
        summary = execute(prepare_text(cases, config, tmp_path / "out", engine="ray", engine_options=ray(address)))
    assert "the budget of $15.00" in str(summary.halted)
    assert 0 < summary.spent_usd <= 15 + 1e-6
    assert 0 < summary.pending < summary.total
    rows = (tmp_path / "out" / "rows.jsonl").read_text().splitlines()
    assert len(rows) == summary.total - summary.pending


@pytest.mark.slow
def test_a_signal_ends_the_workers_of_a_build_in_order_and_keeps_their_questions(tmp_path: Path, address: str) -> None:
    cases = write_different(tmp_path, 100)
    with Endpoint(Author().answer, latency=lambda _: 0.05) as endpoint:
        models = build_config(endpoint.base_url, model={"concurrency": 4}).model_dump(mode="json", exclude_none=True)
        config = write_config(tmp_path / "c.yaml", models)
        command = ["build", "questions", str(cases), "--config", str(config), "--out", str(tmp_path / "out")]
        on_ray = [*command, "--engine", "ray", "--address", address, "--workers", "2"]
        stopped_after_refusing_a_second(on_ray, endpoint)
        assert calls_in(tmp_path / "out" / "ledger.sqlite") == sum(endpoint.seen.answered.values()) < 300
        assert (tmp_path / "out" / "cases.jsonl").read_text()
        again = chiron(*command, "--json")
        assert again.returncode == 0, again.stderr
        assert json.loads(again.stdout)["pending"] == 0
        assert max(endpoint.seen.answered.values()) == 1


@pytest.mark.slow
def test_a_worker_with_other_benchmark_files_is_refused(tmp_path: Path, address: str) -> None:
    published.vqa_rad(tmp_path / "d", 8)
    with Endpoint(answers) as endpoint:
        job = evaluation(tmp_path, write(tmp_path, endpoint.base_url), tmp_path / "run", engine="ray", engine_options=ray(address))
        published.vqa_rad(tmp_path / "d", 12)
        with pytest.raises(InputError, match="cases or benchmarks on this machine differ"):
            execute(job)
        assert endpoint.seen.requests == 0


@pytest.mark.slow
def test_images_that_differ_between_the_machines_are_an_error_and_not_paid_for_twice(tmp_path: Path, address: str) -> None:
    """As with a copy of the images on each machine: here they change when the workers have sent their last call."""
    cases = write_cases(tmp_path, 16)

    def changes_images(_: dict[str, Any], number: int) -> None:
        if number == 2 * asked:
            for seed, path in enumerate(sorted((tmp_path / "images").rglob("*.png"))):
                write_png(path, seed=1000 + seed)

    with Endpoint(Author().answer) as endpoint:
        config = build_config(endpoint.base_url, personas=["doctor"], show_images=True)
        execute(prepare_questions(cases, config, tmp_path / "one"))
        asked = endpoint.seen.requests
        endpoint.override = changes_images
        with pytest.raises(InputError, match=r"a worker had other images .*unit \d+, case-000\d\d: .*copy the same images"):
            execute(prepare_questions(cases, config, tmp_path / "ray", engine="ray", engine_options=ray(address)))
        assert endpoint.seen.requests == 2 * asked
        assert calls_in(tmp_path / "ray" / "ledger.sqlite") == asked


def test_a_part_of_a_build_asks_the_calls_of_its_units_alone_and_returns_its_failures(tmp_path: Path) -> None:
    cases = write_different(tmp_path, 6)

    def refuses_one(body: dict[str, Any], _: int) -> web.Response | None:
        refused = "rib 3 is" in str(body)
        return web.json_response({"error": {"message": "flagged"}}, status=400) if refused else None

    with Endpoint(Author().answer, override=refuses_one) as endpoint:
        config = build_config(endpoint.base_url, personas=["doctor"])
        job = prepare_questions(cases, config, tmp_path / "driver")
        part = job.part_of([(rank, unit) for rank, unit in enumerate(job.units()) if rank in {1, 2, 4}])
        end = run_part(part, tmp_path / "copies", "part-0")
        answered = len(endpoint.seen.answered)
    assert (end.problem, answered, calls_in(tmp_path / "copies" / "part-0.sqlite")) == (None, 2, 2)
    assert (end.summary.total, end.summary.pending) == (3, 1)
    assert [failure.public for failure in end.summary.failures.values()] == [end.summary.pending_because]
    assert end.summary.answered == {1, 4}
    cases.write_text(cases.read_text() + "\n")
    assert "cases or benchmarks on this machine differ" in run_part(part, tmp_path / "copies", "part-1").problem


def test_after_a_reply_that_two_parts_paid_for_a_unit_may_continue_otherwise_than_on_its_worker(tmp_path: Path) -> None:
    """The reply that was kept may be that of the other part."""
    cases = write_different(tmp_path, 1)

    def first_alone(_: dict[str, Any], number: int) -> web.Response | None:
        return web.json_response({"error": {"message": "out of credit"}}, status=403) if number > 1 else None

    async def ask(job: AnyJob, twice: set[str]) -> None:
        (unit,) = job.units()
        with job.directory.opened(job.identity) as ledger:
            async with open_client(job.endpoints, ledger, Budget(None)) as client:
                await job.work(unit, UnitAsk(KnownCalls(client, {0: unit}, answered={0}, twice=twice).of_unit(0)))

    with Endpoint(Author().answer, override=first_alone) as endpoint:
        config = build_config(endpoint.base_url, personas=["doctor", "student"])
        execute(prepare_questions(cases, config, tmp_path / "out"))
        endpoint.override, asked = None, endpoint.seen.requests
        with contextlib.closing(sqlite3.connect(tmp_path / "out" / "ledger.sqlite")) as db:
            twice = {str(key).lower() for (key,) in db.execute("SELECT hex(key) FROM calls")}
        with pytest.raises(InputError, match=r"a worker had other images .*unit 1, case-00000"):
            asyncio.run(ask(prepare_questions(cases, config, tmp_path / "out"), set()))
        assert (len(twice), endpoint.seen.requests) == (1, asked)
        asyncio.run(ask(prepare_questions(cases, config, tmp_path / "out"), twice))
        assert endpoint.seen.requests > asked


@pytest.mark.parametrize("command", [["build", "text"], ["build", "questions"], ["eval"]])
def test_the_help_lists_the_options_of_an_engine(command: list[str]) -> None:
    ended = chiron(*command, "--help")
    assert all(option in ended.stdout for option in ("--engine", "--address", "--workers", "--storage"))


def test_without_ray_the_error_names_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published.vqa_rad(tmp_path / "d", 4)
    cases, config = write_different(tmp_path, 1), build_config("http://127.0.0.1:1/v1")
    measured = write(tmp_path, "http://127.0.0.1:1/v1")
    monkeypatch.setitem(sys.modules, "ray", None)
    for prepare in (
        lambda **engine: prepare_text(cases, config, tmp_path / "out", **engine),
        lambda **engine: prepare_questions(cases, config, tmp_path / "out", **engine),
        lambda **engine: evaluation(tmp_path, measured, tmp_path / "run", **engine),
    ):
        with pytest.raises(InputError, match=r"--engine ray needs the package 'ray'"):
            prepare(engine="ray")
        with pytest.raises(InputError, match="add --engine ray"):
            prepare(engine_options=EngineOptions(workers=2))


@pytest.mark.slow
def test_a_suite_on_ray_measures_what_one_process_measures(tmp_path: Path, address: str) -> None:
    test_suites.table2(tmp_path / "d")
    with Endpoint(test_suites.answers) as endpoint:
        config = load_evaluation(test_suites.write(tmp_path, endpoint.base_url), "a", judge="judge", interns=["intern"])
        one = evaluate_suite("table2", {"a": config}, tmp_path / "one", data=tmp_path / "d")
        distinct = len(endpoint.seen.answered)
        on_ray = evaluate_suite(
            "table2", {"a": config}, tmp_path / "ray", data=tmp_path / "d", engine="ray", engine_options=ray(address)
        )  # fmt: skip
        assert len(endpoint.seen.answered) == distinct
    assert on_ray == one
    folders = sorted(path.name for path in (tmp_path / "one" / "a").iterdir())
    assert [name for name in folders if differing(tmp_path / "one" / "a" / name, tmp_path / "ray" / "a" / name)] == []
