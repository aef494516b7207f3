"""The merge of builds and evaluations on Slurm: it can be repeated until the results are written, and one problem does not stop a suite."""

import asyncio
import json
import os
import signal
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web

from chiron.errors import DiskError
from chiron.jobs.directory import WorkDirectory
from chiron.jobs.replies import KnownCalls
from chiron.jobs.slurm_engine import SlurmMerge
from chiron.jobs.storage import Storage
from tests.evaluation import published, test_suites
from tests.evaluation.test_running import answers, write
from tests.jobs.test_ray_replies import differing, evaluation, execute, refuses_some
from tests.jobs.test_slurm import log_of, run_script
from tests.jobs.test_slurm_replies import ONE, TWO, left_of, measuring, merge, suite_command
from tests.support.command import Ended, chiron, wait_for
from tests.support.endpoint import Endpoint


def run_parts(run: Path) -> list[int]:
    """Run all parts in this process. Returns their exit codes."""
    numbers = sorted(int(file.stem) for file in (run / "slurm").glob("*.json") if file.stem.isdecimal())
    return [chiron("slurm", "task", run, number).returncode for number in numbers]


def refuses_some_of_any_model(body: dict[str, Any], number: int) -> web.Response | None:
    return refuses_some({**body, "model": "m"}, number)


def evaluation_in_parts(folder: Path, endpoint: Endpoint) -> None:
    """Run an evaluation in one process (``one``), then in the tasks of an array (``run``)."""
    published.vqa_rad(folder / "d", 20)
    config = write(folder, endpoint.base_url, protocol="exact")
    execute(evaluation(folder, config, folder / "one"))
    assert chiron("slurm", *measuring(folder, config, folder / "run"), *TWO).returncode == 0
    assert set(run_parts(folder / "run")) == {0}


def suite_in_parts(folder: Path, endpoint: Endpoint) -> Ended:
    """Measure a suite in one process, then in the tasks of an array. Returns how the first one ended."""
    test_suites.table2(folder / "d")
    config = test_suites.write(folder, endpoint.base_url)
    one = chiron(*suite_command(folder, config, folder / "one"))
    assert chiron("slurm", *suite_command(folder, config, folder / "run", *TWO)).returncode == 0
    run_parts(folder / "run")
    return one


def blocked(file: Path) -> Path:
    """Put a folder where a file is written, as if the disk were full. Returns it."""
    file.unlink(missing_ok=True)
    file.mkdir()
    return file


def differing_in_suite(one: Path, run: Path) -> list[str]:
    """The files of two suites that differ."""
    folders = sorted(path.parent.relative_to(one) for path in one.glob("*/*/items.jsonl"))
    assert folders
    tables = [f"table2.{ending}" for ending in test_suites.ENDINGS]
    found = [name for name in tables if not (run / name).is_file() or (one / name).read_bytes() != (run / name).read_bytes()]
    return found + [f"{folder}/{name}" for folder in folders for name in differing(one / folder, run / folder)]


@pytest.mark.slow
def test_a_task_that_ends_before_an_extra_score_leaves_it_pending(tmp_path: Path) -> None:
    published.vqa_rad(tmp_path / "d", 20)
    with Endpoint(answers, latency=lambda model: 0.1 if model == "intern" else 0.0) as endpoint:
        config = write(tmp_path, endpoint.base_url, models={"concurrency": 1}, protocol="exact", judge="judge", interns=["intern"])
        assert chiron("slurm", *measuring(tmp_path, config, tmp_path / "run"), *ONE).returncode == 0
        task = run_script(tmp_path / "run", "array.sh")
        wait_for(endpoint, 5, task)
        task.send_signal(signal.SIGTERM)
        assert task.wait() == 130, log_of(tmp_path / "run", 0)
        endpoint.latency = lambda _: 0.0  # it kept the task from ending before the signal
        merged = merge(tmp_path / "run")
        assert merged.returncode == 3, merged.stderr
        assert "other images" not in merged.stderr
        execute(evaluation(tmp_path, config, tmp_path / "one"))
        assert execute(evaluation(tmp_path, config, tmp_path / "run")).pending == 0
        assert max(endpoint.seen.answered.values()) == 2  # once for each directory
    assert differing(tmp_path / "one", tmp_path / "run") == []


@pytest.mark.slow
def test_a_merge_that_could_not_write_is_repeated_and_knows_the_failures_of_the_tasks(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with Endpoint(answers, override=refuses_some) as endpoint:
        evaluation_in_parts(tmp_path, endpoint)
        asked = endpoint.seen.requests
        in_the_way = blocked(run / "items.jsonl")
        assert merge(run).returncode == 2
        in_the_way.rmdir()
        assert merge(run).returncode == 0
        assert endpoint.seen.requests == asked
    assert differing(tmp_path / "one", run) == []
    assert left_of(run) == []


@pytest.mark.slow
def test_a_merge_that_is_killed_while_it_deletes_its_input_does_not_merge_again_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, unlink = tmp_path / "run", Path.unlink

    def killed(path: Path, *, missing_ok: bool = False) -> None:
        if path.name.startswith("2."):
            raise KeyboardInterrupt
        unlink(path, missing_ok=missing_ok)

    with Endpoint(answers, override=refuses_some) as endpoint:
        evaluation_in_parts(tmp_path, endpoint)
        with monkeypatch.context() as patched:
            patched.setattr(Path, "unlink", killed)
            assert merge(run).returncode == 130
        assert left_of(run) != []
        merged = merge(run)
        assert (merged.returncode, "is merged already: nothing to do" in merged.stderr) == (0, True)
    assert differing(tmp_path / "one", run) == []
    assert left_of(run) == []


@pytest.mark.slow
def test_a_merge_that_is_interrupted_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, add = tmp_path / "run", KnownCalls.add

    def interrupted(known: KnownCalls, *found: Any) -> None:
        if not known.failures and not known.answered:  # once: a second signal would drop the merge
            os.kill(os.getpid(), signal.SIGTERM)
        add(known, *found)

    with Endpoint(answers, override=refuses_some) as endpoint:
        evaluation_in_parts(tmp_path, endpoint)
        with monkeypatch.context() as patched:
            patched.setattr(KnownCalls, "add", interrupted)
            assert merge(run).returncode == 130
        assert list((run / "slurm").glob("*.end.json"))
        assert merge(run).returncode == 0
    assert differing(tmp_path / "one", run) == []
    assert left_of(run) == []


@pytest.mark.slow
def test_a_suite_whose_tables_could_not_be_written_is_merged_again(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with Endpoint(test_suites.answers, override=refuses_some_of_any_model) as endpoint:
        one = suite_in_parts(tmp_path, endpoint)
        in_the_way = blocked(run / "table2.txt")
        assert merge(run).returncode == 2
        in_the_way.rmdir()
        merged = merge(run)
        assert (merged.returncode, merged.stdout) == (one.returncode, one.stdout), merged.stderr
        again = merge(run)
        assert (again.returncode, "is merged already: nothing to do" in again.stderr) == (0, True)
    assert differing_in_suite(tmp_path / "one", run) == []
    assert left_of(run) == []


@pytest.mark.slow
def test_a_repeated_merge_does_not_blame_images_for_a_call_that_two_tasks_paid_for(tmp_path: Path) -> None:
    """Two items ask the same, and expect something else. The second one continues with the reply that the first one got."""
    rows = [{"image": published.image(0), "question": "what is it?", "answer": f"left lung {n}"} for n in range(4)]
    published.vqa_rad(tmp_path / "d")
    published.parquet(next((tmp_path / "d").rglob("*.parquet")), rows)
    run, numbers = tmp_path / "run", iter(range(100))

    def differs(body: dict[str, Any]) -> str:
        return "yes" if body["model"] == "judge" else f"### The final answer is: number {next(numbers)}"

    with Endpoint(differs) as endpoint:
        config = write(tmp_path, endpoint.base_url, protocol="chiron_judge", judge="judge")
        assert chiron("slurm", *measuring(tmp_path, config, run), *ONE).returncode == 0
        assert run_parts(run) == [0, 0, 0, 0]
        in_the_way = blocked(run / "items.jsonl")
        assert merge(run).returncode == 2
        in_the_way.rmdir()
        merged = merge(run)
        assert merged.returncode == 3, merged.stderr
        assert "3 pending" in merged.stderr
        assert "other images" not in merged.stderr


@pytest.mark.slow
def test_a_task_with_a_full_disk_does_not_keep_the_merge_from_the_other_evaluations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    test_suites.table2(tmp_path / "d")
    run = tmp_path / "run"

    def full(*_: object) -> None:
        raise DiskError("the disk is full")

    with Endpoint(test_suites.answers) as endpoint:
        config = test_suites.write(tmp_path, endpoint.base_url)
        chiron(*suite_command(tmp_path, config, tmp_path / "one"))
        assert chiron("slurm", *suite_command(tmp_path, config, run, *TWO)).returncode == 0
        with monkeypatch.context() as patched:
            patched.setattr(Storage, "put_ledger", full)
            patched.setattr(tempfile, "tempdir", str(tmp_path))  # the task keeps its ledger there
            assert chiron("slurm", "task", run, 0).returncode == 2
        for number in range(1, 1 + max(int(file.stem) for file in (run / "slurm").glob("*.json") if file.stem.isdecimal())):
            assert chiron("slurm", "task", run, number).returncode == 0
        place = json.loads((run / "slurm" / "0.json").read_text())["directory"]
        merged = merge(run)
        assert (merged.returncode, "the disk is full" in merged.stderr) == (2, True)
    assert {name.rpartition("/")[0] for name in differing_in_suite(tmp_path / "one", run) if "/" in name} == {place}


def test_a_suite_of_which_no_evaluation_can_be_asked_is_a_table_without_figures(tmp_path: Path) -> None:
    test_suites.medxpert(tmp_path / "d")
    config = test_suites.write(tmp_path, "http://127.0.0.1:1/v1", max_images={"a": 0})
    start = ["eval", "--suite", "table2", "--model", "a", "--config", config, "--data", tmp_path / "d", "--run"]
    one = chiron(*start, tmp_path / "one")
    submitted = chiron("slurm", *start, tmp_path / "run", *TWO)
    assert (submitted.returncode, submitted.stdout) == (one.returncode, one.stdout), submitted.stderr
    assert "text only" in submitted.stdout


@pytest.mark.slow
def test_a_merge_that_is_killed_while_it_deletes_copies_counts_no_money_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test_suites.table2(tmp_path / "d")
    run, delete, left = tmp_path / "run", Storage.delete, [2]

    def killed(storage: Storage, name: str) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        delete(storage, name)

    with Endpoint(test_suites.answers) as endpoint:
        config = test_suites.write(tmp_path, endpoint.base_url, price=True)
        one = json.loads(chiron(*suite_command(tmp_path, config, tmp_path / "one", "--json")).stdout)
        assert chiron("slurm", *suite_command(tmp_path, config, run, *TWO)).returncode == 0
        assert set(run_parts(run)) == {0}
        with monkeypatch.context() as patched:
            patched.setattr(Storage, "delete", killed)
            assert merge(run).returncode == 130
        merge(run)
        spent = json.loads(chiron(*suite_command(tmp_path, config, run, "--json")).stdout)
    for ours, theirs in zip(spent["evaluations"], one["evaluations"], strict=True):
        assert ours["spent_usd"] == pytest.approx(theirs["spent_usd"])
    assert left_of(run) == []


@pytest.mark.slow
def test_an_evaluation_that_cannot_be_merged_does_not_stop_the_others_and_is_merged_later(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with Endpoint(test_suites.answers, override=refuses_some_of_any_model) as endpoint:
        one = suite_in_parts(tmp_path, endpoint)
        with WorkDirectory(run / "a" / "mmrp_text").locked():
            merged = merge(run)
        assert merged.returncode == 2
        assert merged.stderr.count("mmrp_text is in use by another process") == 1
        items = [path.relative_to(tmp_path / "one") for path in (tmp_path / "one").glob("*/*/items.jsonl")]
        unequal = [str(name.parent) for name in items if (tmp_path / "one" / name).read_bytes() != (run / name).read_bytes()]
        assert unequal == ["a/mmrp_text"]
        assert merge(run).returncode == one.returncode
    assert differing_in_suite(tmp_path / "one", run) == []
    assert left_of(run) == []


@pytest.mark.slow
def test_a_run_that_was_moved_since_its_tasks_ended_is_merged_there(tmp_path: Path) -> None:
    published.vqa_rad(tmp_path / "d", 20)
    with Endpoint(answers) as endpoint:
        config = write(tmp_path, endpoint.base_url, protocol="exact")
        execute(evaluation(tmp_path, config, tmp_path / "one"))
        assert chiron("slurm", *measuring(tmp_path, config, tmp_path / "run"), *TWO).returncode == 0
        assert set(run_parts(tmp_path / "run")) == {0}
    (tmp_path / "elsewhere").mkdir()
    moved = (tmp_path / "run").rename(tmp_path / "elsewhere" / "run")
    assert merge(moved).returncode == 0
    assert differing(tmp_path / "one", moved) == []
    assert left_of(moved) == []


@pytest.mark.slow
def test_a_suite_that_was_not_submitted_completely_is_not_merged_as_one_evaluation(tmp_path: Path) -> None:
    test_suites.table2(tmp_path / "d")
    config = test_suites.write(tmp_path, "http://127.0.0.1:1/v1")
    assert chiron("slurm", *suite_command(tmp_path, config, tmp_path / "run", *TWO)).returncode == 0
    (tmp_path / "run" / "slurm" / "jobs.json").unlink()
    merged = merge(tmp_path / "run")
    assert (merged.returncode, "submit the same command again" in merged.stderr) == (2, True)


def test_the_merge_of_stored_results_holds_one_unit_at_a_time(tmp_path: Path) -> None:
    class Case:
        pass

    (tmp_path / "slurm").mkdir()
    alive, most = weakref.WeakSet[Case](), 0

    def units() -> Iterator[Case]:
        nonlocal most
        for _ in range(100):
            unit = Case()
            alive.add(unit)
            most = max(most, len(alive))
            yield unit

    async def run() -> None:
        job: Any = SimpleNamespace(
            client=SimpleNamespace(halted=None), directory=WorkDirectory(tmp_path), paid_twice=frozenset(), in_flight=4
        )  # fmt: skip
        async for _ in SlurmMerge(tmp_path).run(job, units(), lambda _: asyncio.sleep(0), in_order=False):
            raise AssertionError

    asyncio.run(run())
    assert 0 < most <= 2


def test_a_folder_without_a_submission_is_not_merged_already(tmp_path: Path) -> None:
    assert merge(tmp_path).returncode == 2
    (tmp_path / "slurm").mkdir()
    (tmp_path / "workers.json").write_text("{}")
    assert merge(tmp_path).returncode == 2  # half of a submission
