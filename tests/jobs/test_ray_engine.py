"""A search on a Ray cluster: same paths as one process, also when a worker is killed, and one budget for all workers."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from aiohttp import web

from chiron.cases.case import Case
from chiron.cases.reader import Selection
from chiron.client.broker import Broker
from chiron.client.lease import FileLeases
from chiron.client.ledger import Ledger
from chiron.errors import ChironError, DiskError, InputError
from chiron.jobs import parts
from chiron.jobs.engine import EngineOptions, engine_of
from chiron.jobs.parts import PartRunner, PartTask, check_worker, store_remains
from chiron.jobs.storage import LEASES, Storage, begin_parts, spent_in_copy
from chiron.mics.config import RunConfig
from chiron.mics.run import Run, RunSummary
from chiron.mics.run_directory import RunDirectory, read_status
from chiron.mics.setup import SearchSetup
from tests.support.cases import known_answers, write_cases
from tests.support.command import CHIRON, chiron, environment, wait_for
from tests.support.endpoint import Endpoint, completion
from tests.support.runs import config_of, execute, make_run, team, write_config
from tests.support.simulation import Simulation
from tests.support.waiting import PATIENCE, wait_until

PRICE = {"price": {"input": 0.0, "output": 1000.0}}


class Charging:
    """Replies of a simulation, and the USD that the endpoint charged for them."""

    def __init__(self, cases: Path) -> None:
        self._world = Simulation(known_answers(cases), skill=0.1)
        self.usd = 0.0

    def reply(self, body: dict[str, Any]) -> str:
        text = self._world.reply(body)
        self.usd += completion(text)["usage"]["completion_tokens"] * PRICE["price"]["output"] / 1e6
        return text


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Address of a cluster of two nodes on this machine."""
    utils = pytest.importorskip("ray.cluster_utils")
    cluster = utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    try:
        cluster.add_node(num_cpus=2)
        yield cluster.address
    finally:
        cluster.shutdown()


def on_cluster(cases: Path, config: RunConfig, run: Path, address: str, **options: Any) -> RunSummary:
    job = make_run(cases, config, run)
    job.engine = engine_of("ray", EngineOptions(address=address, **{"workers": 2, "copy_every": 0.2, **options}))
    return asyncio.run(job.execute())


def files(run: Path) -> list[bytes]:
    return [(run / name).read_bytes() for name in ("paths.jsonl", "rejected.jsonl")]


def stopped_after_refusing_a_second(arguments: list[str], endpoint: Endpoint) -> None:
    """Run a command until 100 requests were sent; a second one is refused, and SIGTERM ends the first and all its workers in order."""
    process = subprocess.Popen([*CHIRON, *arguments], env=environment(), stderr=subprocess.PIPE, text=True)
    wait_for(endpoint, 100, process)
    second = chiron(*arguments)
    assert second.returncode == 2
    assert "in use by another process" in second.stderr
    process.send_signal(signal.SIGTERM)
    _, messages = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, messages
    wait_until(lambda: not workers(), what="the end of all workers")


def workers() -> list[int]:
    """Processes of workers of this test's cluster."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # also a zombie
            if process.name().startswith("ray::RayWorker") and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


@pytest.mark.slow
def test_a_killed_worker_changes_no_path_and_overshoots_no_budget(tmp_path: Path, address: str) -> None:
    cases = write_cases(tmp_path, 24)
    world = Charging(cases)
    with Endpoint(world.reply, latency=lambda _: 0.02) as endpoint:
        config = config_of(team(endpoint.base_url, model=PRICE, budget_usd=10_000))
        execute(cases, config, tmp_path / "one")
        before, world.usd = endpoint.seen.requests, 0.0

        def kill() -> None:
            wait_until(lambda: endpoint.seen.requests >= before + 300)
            os.kill(workers()[0], signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        summary = on_cluster(cases, config, tmp_path / "ray", address)
        killer.join()
        asked = endpoint.seen.requests
        assert any("a worker was lost" in note for note in summary.notes)
        assert execute(cases, config, tmp_path / "ray").pending == 0
        assert endpoint.seen.requests == asked
    assert files(tmp_path / "ray") == files(tmp_path / "one")
    assert sorted(p.name for p in (tmp_path / "ray").iterdir() if p.name.startswith(("copies", "leases"))) == []
    status = read_status(tmp_path / "ray")
    assert sum(s.calls for s in status.spending) <= asked - before
    assert world.usd <= status.spent_usd + 1e-6  # what the killed worker paid for and did not copy is counted
    assert status.spent_usd - status.possibly_spent_usd <= world.usd + 1e-6


@pytest.mark.slow
def test_only_the_calls_in_flight_are_paid_again_if_the_machine_of_a_killed_worker_is_still_there(tmp_path: Path, address: str) -> None:
    """Its ledger is on that machine, and has more than the last copy; here, there is none."""
    cases = write_cases(tmp_path, 8)
    with Endpoint(Simulation(known_answers(cases), skill=0.1).reply, latency=lambda _: 0.02) as endpoint:
        data = team(endpoint.base_url, model={**PRICE, "concurrency": 4}, budget_usd=10_000)

        def kill() -> None:
            wait_until(lambda: endpoint.seen.requests >= 200)
            os.kill(workers()[0], signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        summary = on_cluster(cases, config_of(data), tmp_path / "ray", address, copy_every=1000.0)
        killer.join()
        assert any("a worker was lost" in note for note in summary.notes)
        assert summary.pending == 0
        again = sum(count - 1 for count in endpoint.seen.answered.values())
    assert again <= 4 / 2 * len(data["models"])


def calls_in(ledger: Path) -> int:
    with contextlib.suppress(sqlite3.OperationalError), contextlib.closing(sqlite3.connect(f"{ledger.as_uri()}?mode=ro", uri=True)) as db:
        return int(db.execute("SELECT COUNT(*) FROM calls").fetchone()[0])
    return 0


@pytest.mark.slow
def test_a_part_that_loses_a_worker_before_its_first_copy_continues_from_the_copy_before(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fatal:
        """A part whose second worker dies as soon as it has fetched the copy of the first one."""

        def __init__(self, part: Any, log: Path) -> None:
            self.part, self.log = part, log

        def open(self, directory: Path, workers: int) -> Any:
            if directory.name.startswith("chiron-"):
                ledger = directory / "ledger.sqlite"
                with self.log.open("a") as log:
                    log.write(f"{calls_in(ledger)}\n")
                if len(self.log.read_text().split()) == 2:
                    os.kill(os.getpid(), signal.SIGKILL)
            return self.part.open(directory, workers)

    cases, log, copies = write_cases(tmp_path, 1), tmp_path / "log", tmp_path / "copies"
    world = Charging(cases)
    with Endpoint(world.reply, latency=lambda _: 0.1) as endpoint:
        job = make_run(cases, config_of(team(endpoint.base_url, model=PRICE, budget_usd=10_000)), tmp_path / "ray")
        real = job.part_of
        monkeypatch.setattr(job, "part_of", lambda units: Fatal(real(units), log))
        job.engine = engine_of("ray", EngineOptions(address=address, workers=1, copy_every=0.05, storage=str(copies)))

        def kill() -> None:
            wait_until(lambda: any(calls_in(copy) >= 10 for copy in copies.glob("*-0.sqlite")))
            os.kill(workers()[0], signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        summary = asyncio.run(job.execute())
        killer.join()
    assert summary.pending == 0
    first, second, third = map(int, log.read_text().split())
    assert first == 0
    assert third == second >= 10
    assert world.usd <= summary.spent_usd + 1e-6
    assert summary.spent_usd - summary.possibly_spent_usd <= world.usd + 1e-6
    assert Storage(str(copies)).copies() == []


@pytest.mark.slow
def test_a_small_budget_is_spent_once_by_all_workers_together(tmp_path: Path, address: str) -> None:
    cases = write_cases(tmp_path, 16)
    world = Charging(cases)
    with Endpoint(world.reply) as endpoint:
        config = config_of(team(endpoint.base_url, model=PRICE, budget_usd=20))
        summary = on_cluster(cases, config, tmp_path / "ray", address)
    assert "the budget of $20.00" in str(summary.halted)
    assert 15 < world.usd <= summary.spent_usd + 1e-6 <= 20 + 2e-6
    assert summary.pending > 0


@pytest.mark.slow
def test_a_signal_ends_the_workers_in_order_and_the_next_run_continues(tmp_path: Path, address: str) -> None:
    cases = write_cases(tmp_path, 16)
    with Endpoint(Simulation(known_answers(cases), skill=0.1).reply, latency=lambda _: 0.05) as endpoint:
        config = write_config(tmp_path / "c.yaml", team(endpoint.base_url))
        command = ["search", str(cases), "--config", str(config), "--run", str(tmp_path / "ray")]
        ray = ["--engine", "ray", "--address", address, "--workers", "2"]
        stopped_after_refusing_a_second([*command, *ray], endpoint)
        answered = sum(endpoint.seen.answered.values())
        assert sum(s.calls for s in read_status(tmp_path / "ray").spending) >= answered - answered // 4
        again = chiron(*command, "--json")
        assert again.returncode == 0, again.stderr
        assert json.loads(again.stdout)["pending"] == 0


@pytest.mark.slow
def test_what_workers_left_when_their_command_was_killed_is_used_and_counted(tmp_path: Path, address: str) -> None:
    cases = write_cases(tmp_path, 16)
    with Endpoint(Simulation(known_answers(cases), skill=0.1).reply, latency=lambda _: 0.05) as endpoint:
        data = team(endpoint.base_url, model=PRICE, budget_usd=10_000)
        script = (
            "import sys; from pathlib import Path; from chiron.jobs.engine import EngineOptions; from chiron import *\n"
            "cases, config, run, address = sys.argv[1:]\n"
            "options = EngineOptions(address=address, workers=2, copy_every=0.2)\n"
            "run_search(cases, load_config(config), run, engine='ray', engine_options=options)"
        )
        run, config = tmp_path / "ray", write_config(tmp_path / "c.yaml", data)
        process = subprocess.Popen([sys.executable, "-c", script, *map(str, (cases, config, run, address))], env=environment(), text=True)
        wait_for(endpoint, 200, process)
        wait_until(lambda: bool(list((run / "copies").glob("*.sqlite"))), process)
        process.kill()
        process.wait()
        wait_until(lambda: not workers(), what="the end of all workers")
        answered = sum(endpoint.seen.answered.values())
        summary = execute(cases, config_of(data), run)
        again = sum(endpoint.seen.answered.values()) - answered
        assert summary.pending == 0
        assert again < len(endpoint.seen.answered)
    assert summary.possibly_spent_usd > 0
    assert not [path.name for path in run.iterdir() if path.name.startswith(("copies", "leases", "workers"))]


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "failing"), [(12, None), (50, "mentor-c")])
def test_the_calls_of_an_interrupted_case_are_not_sent_again_by_a_worker(
    tmp_path: Path, address: str, sent: int, failing: str | None
) -> None:
    """Those after a failed call are not either."""
    cases = write_cases(tmp_path, 1)

    def fails(body: dict[str, Any], number: int) -> web.Response | None:
        if number > sent:
            return web.json_response({"error": {"message": "out of credit"}}, status=403)
        return web.json_response({"error": {"message": "flagged"}}, status=400) if body["model"] == failing else None

    with Endpoint(Simulation(known_answers(cases), skill=0.1).reply, override=fails) as endpoint:
        config = config_of(team(endpoint.base_url, model={"concurrency": 1}))
        assert execute(cases, config, tmp_path / "ray").pending == 1
        answered = len(endpoint.seen.answered)
        assert bool(endpoint.seen.statuses[400]) == (failing is not None)
        endpoint.override = None
        assert on_cluster(cases, config, tmp_path / "ray", address).pending == 0
        assert len(endpoint.seen.answered) > answered > 0
        assert max(endpoint.seen.answered.values()) == 1
        execute(cases, config, tmp_path / "one")
    assert files(tmp_path / "ray") == files(tmp_path / "one")


@pytest.mark.slow
def test_a_cluster_that_refuses_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    cases = write_cases(tmp_path, 1)
    chiron("init", "offline", "--out", tmp_path / "c.yaml")
    refused = chiron(
        "search", cases, "--config", tmp_path / "c.yaml", "--run", tmp_path / "r", "--engine", "ray", "--address", "127.0.0.1:1"
    )
    assert refused.returncode == 2
    assert "the Ray cluster at 127.0.0.1:1 cannot be used" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_without_ray_the_error_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"--engine ray needs the package 'ray'.*-m pip install 'chiron-med\[ray\]'"):
        engine_of("ray")
    with pytest.raises(InputError, match="add --engine ray"):
        engine_of("local", EngineOptions(workers=2))


def part_of(cases: Path, config: RunConfig) -> tuple[Run, Any]:
    job = Run.of(SearchSetup.of(Selection(cases), config), RunDirectory(cases.parent / "driver"))
    units = [(position, case) for position, case in job.setup.selection if isinstance(case, Case)]
    return job, job.part_of(list(enumerate(units)))


def test_a_worker_that_differs_is_told_from_one_that_fits(tmp_path: Path) -> None:
    cases = write_cases(tmp_path / "c", 2)
    config = config_of(team("http://127.0.0.1:1/v1"))
    job, part = part_of(cases, config)
    storage = str(tmp_path / "copies")
    (tmp_path / "copies").mkdir()
    (tmp_path / "copies" / "token.probe").touch()
    from chiron._version import __version__

    here = (__version__, job.identity)
    assert check_worker(part, here, storage, "token", str(tmp_path)) is None
    assert "install the same version" in (check_worker(part, ("0.0.1", job.identity), storage, "token", "/") or "")
    assert "install the same version" in (check_worker(part, (__version__, {**job.identity, "rules": 0}), storage, "token", "/") or "")
    assert "is not shared with this machine" in (check_worker(part, here, storage, "other", "/") or "")
    with cases.open("a") as file:
        file.write("\n")
    assert "differs from the file where the search was started" in (check_worker(part, here, storage, "token", "/") or "")
    cases.unlink()
    assert str(cases) in (check_worker(part, here, storage, "token", "/") or "")


def run_part(part: Any, storage: Path, name: str, resumes: str | None = None, copy_every: float = 0.01) -> Any:
    task = PartTask(
        name=name, part=part, units=2, resumes=resumes, storage=str(storage), copy_every=copy_every, workers=1, budget_usd=None
    )  # fmt: skip
    return asyncio.run(PartRunner(task, None).run())


@pytest.mark.slow
def test_a_part_continues_from_the_copy_of_another_worker(tmp_path: Path) -> None:
    cases = write_cases(tmp_path / "c", 2)
    with Endpoint(Simulation(known_answers(cases)).reply) as endpoint:
        _, part = part_of(cases, config_of(team(endpoint.base_url)))
        first = run_part(part, tmp_path / "copies", "part-0")
        assert first.problem is first.halted is None
        asked = endpoint.seen.requests
        again = run_part(part, tmp_path / "copies", "part-1", "part-0")
        assert again.problem is None
        assert endpoint.seen.requests == asked
    assert Storage(str(tmp_path / "copies")).copies() == ["part-0", "part-1"]


def test_what_a_killed_process_left_on_this_machine_is_stored_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    storage = Storage(str(tmp_path / "copies"))
    for attempt in (1, 10):
        left = tmp_path / f"chiron-run-00001-{attempt}-x1y2"
        left.mkdir()
        with Ledger.open(left / "ledger.sqlite") as ledger:
            ledger.book_lost("earlier", float(attempt))
    store_remains("run-00001-1", storage.url)
    assert storage.copies() == ["run-00001-1"]
    assert spent_in_copy(storage, "run-00001-1") == 1.0
    assert [path.name for path in tmp_path.glob("chiron-*")] == ["chiron-run-00001-10-x1y2"]
    (tmp_path / "chiron-run-00001-10-x1y2" / "ledger.sqlite").write_bytes(b"SQLite format 3\0" + bytes(5000))
    with pytest.raises(ChironError):
        store_remains("run-00001-10", storage.url)
    assert storage.copies() == ["run-00001-1"]


def test_a_part_whose_copy_is_missing_is_not_begun_again(tmp_path: Path) -> None:
    _, part = part_of(write_cases(tmp_path / "c", 2), config_of(team("http://127.0.0.1:1/v1")))
    end = run_part(part, tmp_path / "copies", "part-1", "part-0")
    assert "the copy 'part-0' of a lost worker's ledger is not in" in str(end.problem)


def test_half_a_fetched_copy_is_not_stored_as_the_newest_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Storage, __: str, local: Path) -> bool:
        local.touch()
        raise DiskError("storage cannot be read")

    _, part = part_of(write_cases(tmp_path / "c", 2), config_of(team("http://127.0.0.1:1/v1")))
    monkeypatch.setattr(Storage, "get", broken)
    end = run_part(part, tmp_path / "copies", "part-1", "part-0")
    assert end.problem == "storage cannot be read"
    assert Storage(str(tmp_path / "copies")).copies() == []


class Ending:
    """A part whose job ends with an error after its last reply."""

    def __init__(self, part: Any) -> None:
        self.part = part

    def open(self, directory: Path, workers: int) -> Any:
        job = self.part.open(directory, workers)

        def finish(_: Any) -> None:
            raise DiskError("no space left for the report")

        job.finish = finish
        return job


@pytest.mark.slow
def test_a_part_that_ends_with_an_error_stores_its_replies_or_names_their_folder(tmp_path: Path) -> None:
    cases = write_cases(tmp_path / "c", 2)
    (tmp_path / "file").touch()
    with Endpoint(Simulation(known_answers(cases)).reply) as endpoint:
        _, part = part_of(cases, config_of(team(endpoint.base_url)))
        stored = run_part(Ending(part), tmp_path / "copies", "part-0", copy_every=900.0)
        asked = endpoint.seen.requests
        kept = run_part(Ending(part), tmp_path / "file" / "copies", "part-0", copy_every=900.0)
    assert stored.problem == "no space left for the report"
    assert calls_in(tmp_path / "copies" / "part-0.sqlite") == asked
    assert str(kept.problem).startswith("no space left for the report; storage ")
    folder = Path(kept.problem.rpartition("replies of this part are in ")[2].split(" on ")[0])
    assert calls_in(folder / "ledger.sqlite") == asked
    shutil.rmtree(folder)


@pytest.mark.slow
def test_a_storage_that_cannot_be_written_stops_the_part_and_keeps_its_replies(tmp_path: Path) -> None:
    cases = write_cases(tmp_path / "c", 2)
    (tmp_path / "file").touch()
    with Endpoint(Simulation(known_answers(cases)).reply, latency=lambda _: 0.05) as endpoint:
        _, part = part_of(cases, config_of(team(endpoint.base_url)))
        end = run_part(part, tmp_path / "file" / "copies", "part-0")
    assert "cannot be written" in str(end.halted)
    kept = Path(str(end.halted).rpartition("replies of this part are in ")[2].split(" on ")[0])
    assert (kept / "ledger.sqlite").is_file()
    shutil.rmtree(kept)


@pytest.mark.slow
def test_rate_limits_of_one_worker_slow_another_that_saw_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "_EXCHANGE_EVERY", 0.02)
    cases = write_cases(tmp_path / "c", 2)
    limiting, seen_by_other = threading.Event(), 0.0
    limiting.set()

    def override(body: dict[str, Any], _: int) -> web.Response | None:
        if limiting.is_set() and body["model"] == "intern-a":
            return web.json_response({"error": {"message": "slow down"}}, status=429, headers={"Retry-After": "0.05"})
        return None

    def part(base_url: str, name: str, intern: str) -> PartRunner:
        data = team(base_url, model={"concurrency": 8})
        data["models"]["intern-a"]["model"] = intern  # so that the endpoint tells the two workers apart
        _, part = part_of(cases, config_of(data))
        broker.open(name, 0.0)
        task = PartTask(name=name, part=part, units=2, storage=str(tmp_path / "s"), copy_every=9.0, workers=1, budget_usd=None)
        return PartRunner(task, FileLeases(tmp_path / LEASES, name))

    async def main(limited: PartRunner, other: PartRunner) -> None:
        nonlocal seen_by_other

        async def until_slowed() -> None:
            nonlocal seen_by_other
            while (seen_by_other := other.state().allowed.get("intern-a", 8.0)) == 8.0:
                await asyncio.sleep(0.01)
            limiting.clear()

        ends = await asyncio.gather(limited.run(), other.run(), asyncio.wait_for(until_slowed(), PATIENCE))
        assert [end.problem for end in ends[:2]] == [None, None]

    broker = Broker(None, 0.0, 2, tmp_path / LEASES, shared=True)
    latency = lambda model: 2.0 if limiting.is_set() and model == "intern-other" else 0.0  # noqa: E731
    with Endpoint(Simulation(known_answers(cases)).reply, override=override, latency=latency) as endpoint:
        asyncio.run(main(part(endpoint.base_url, "run-0-0", "intern-a"), part(endpoint.base_url, "run-1-0", "intern-other")))
    assert seen_by_other < 8.0


@pytest.mark.slow
def test_a_worker_whose_clock_differs_finds_the_same_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = write_cases(tmp_path / "c", 2)
    with Endpoint(Simulation(known_answers(cases)).reply) as endpoint:
        config = config_of(team(endpoint.base_url))
        execute(cases, config, tmp_path / "one")
        job = make_run(cases, config, tmp_path / "run")
        job.directory.path.mkdir()
        run = begin_parts(job.directory.path, Storage(str(tmp_path / "copies")))
        units = [(position, case) for position, case in job.setup.selection if isinstance(case, Case)]
        here = time.time
        for number, years in enumerate((-30, 30)):
            monkeypatch.setattr(time, "time", lambda years=years: here() + years * 3.15e7)
            assert run_part(job.part_of([(number, units[number])]), tmp_path / "copies", f"{run}-{number}-0").problem is None
        monkeypatch.setattr(time, "time", here)
        asked = endpoint.seen.requests
        assert execute(cases, config, tmp_path / "run").pending == 0
        assert endpoint.seen.requests == asked
    assert files(tmp_path / "run") == files(tmp_path / "one")


@pytest.mark.slow
def test_a_node_that_dies_with_unsent_copies_costs_its_lease_and_nothing_that_was_copied(tmp_path: Path) -> None:
    cases = write_cases(tmp_path / "c", 2)
    with Endpoint(Simulation(known_answers(cases)).reply) as endpoint:
        data = team(endpoint.base_url, model=PRICE, budget_usd=1000)
        job, part = part_of(cases, config_of(data))
        job.directory.path.mkdir()
        run = begin_parts(job.directory.path, Storage(str(tmp_path / "copies")))
        assert run_part(part, tmp_path / "copies", f"{run}-0-0").problem is None
        asked = endpoint.seen.requests
        broker = Broker(1000.0, 0.0, 2, job.directory.path / LEASES)
        broker.open(f"{run}-1-0", 0.0)
        lost = broker.lease(f"{run}-1-0", 2.5)  # its node dies before the first copy
        broker.disconnect()
        summary = execute(cases, config_of(data), job.directory.path)
        assert endpoint.seen.requests == asked
    assert summary.pending == 0
    assert summary.possibly_spent_usd == pytest.approx(lost)
    assert summary.spent_usd > lost
    assert not list(tmp_path.glob("copies/*"))
