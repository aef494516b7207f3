"""Builds and evaluations on Slurm: the same files as one process, also when a task is killed."""

import asyncio
import json
import os
import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from chiron.errors import InputError
from chiron.evaluation.api import evaluate_suite
from chiron.evaluation.config import load_evaluation
from chiron.jobs.directory import WorkDirectory
from chiron.jobs.engine import EngineOptions
from chiron.jobs.slurm import SlurmOptions
from chiron.mmrp.templates import PaperTemplate
from chiron.mmrp.text import prepare_text
from tests.evaluation import published, test_suites
from tests.evaluation.test_running import answers, write
from tests.jobs.test_ray_engine import PRICE, calls_in
from tests.jobs.test_ray_replies import differing, evaluation, execute, refuses_some
from tests.jobs.test_slurm import CONTROLLER, SBATCH, log_of, programs, run_script
from tests.mmrp.building import Models, build_config, write_different
from tests.mmrp.test_questions import Author
from tests.support.cases import write_cases, write_png
from tests.support.command import Ended, chiron, wait_for
from tests.support.endpoint import Endpoint
from tests.support.runs import write_config
from tests.support.waiting import wait_until

ONE = ("--workers", 1, "--write-only")
TWO = ("--workers", 2, "--write-only")


def run_tasks(run: Path) -> list[int]:
    """Run all parts and the merge in this process. Returns their exit codes."""
    numbers = sorted(int(file.stem) for file in (run / "slurm").glob("*.json") if file.stem.isdecimal())
    return [*(chiron("slurm", "task", run, number).returncode for number in numbers), merge(run).returncode]


def merge(run: Path) -> Ended:
    return chiron("slurm", "merge", run)


def build_file(folder: Path, endpoint: Endpoint, **build: Any) -> Path:
    models = build_config(endpoint.base_url, **build).model_dump(mode="json", exclude_none=True)
    return write_config(folder / "b.yaml", models)


def measuring(folder: Path, config: Path, run: Path | None = None) -> list[object]:
    start = ["eval", "--model", "m", "--benchmarks", "vqa_rad", "--data", folder / "d", "--config", config]
    return [*start, *(["--run", run] if run is not None else [])]


def left_of(run: Path) -> list[str]:
    """What a merged run must not keep."""
    prefixes = ("copies", "leases", "workers")
    found = [path.relative_to(run) for path in run.rglob("*")]
    return [str(path) for path in found if path.name.startswith(prefixes) or (path.parent.name == "slurm" and path.suffix == ".json")]


@pytest.mark.slow
@pytest.mark.parametrize(("part", "author"), [("text", Models), ("questions", Author)])
def test_a_build_on_slurm_with_a_killed_task_writes_the_files_of_one_process(tmp_path: Path, part: str, author: Callable[[], Any]) -> None:
    cases = write_different(tmp_path, 24)
    with cases.open("a") as file:
        file.write("not a case\n")
    with Endpoint(author().answer, latency=lambda _: 0.05) as endpoint:
        config = build_file(tmp_path, endpoint, model={**PRICE, "concurrency": 4}, budget_usd=10_000)
        command = ["build", part, cases, "--config", config, "--out"]
        assert chiron(*command, tmp_path / "one" / "out").returncode == 0
        asked, distinct = endpoint.seen.requests, len(endpoint.seen.answered)
        run = tmp_path / "slurm" / "out"
        written = chiron("slurm", *command, run, *ONE)
        assert written.returncode == 0, written.stderr
        assert "the scripts are in" in written.stderr
        assert "0 pending" not in written.stderr
        assert endpoint.seen.requests == asked
        task = run_script(run, "array.sh")
        wait_for(endpoint, asked + 5, task)
        os.killpg(task.pid, signal.SIGKILL)
        task.wait()
        for number in range(4):
            assert run_script(run, "array.sh", number).wait() == 0, log_of(run, number)
        assert run_script(run, "merge.sh", 99).wait() == 0, log_of(run, 99)
        assert len(endpoint.seen.answered) == distinct
    assert differing(tmp_path / "one" / "out", run) == []
    assert "of 25 cases, 0 pending" in log_of(run, 99)
    assert left_of(run) == []
    merged = merge(run)
    assert (merged.returncode, "is merged already: nothing to do" in merged.stderr) == (0, True)


@pytest.mark.slow
def test_an_evaluation_on_slurm_writes_the_files_of_one_process_and_running_it_again_sends_no_call(tmp_path: Path) -> None:
    published.vqa_rad(tmp_path / "d", 20)
    with Endpoint(answers) as endpoint:
        config = write(tmp_path, endpoint.base_url)
        more = ["--protocol", "exact", "--judge", "judge", "--interns", "intern", "--control", "swap", "--samples", 2]
        command = [*measuring(tmp_path, config), *more, "--run"]
        assert chiron(*command, tmp_path / "one").returncode == 0
        asked = len(endpoint.seen.answered)
        written = chiron("slurm", *command, tmp_path / "run", *TWO)
        assert written.returncode == 0, written.stderr
        config.write_text(yaml.safe_dump({"models": {}}))  # tasks and merge use the configuration that was submitted
        assert set(run_tasks(tmp_path / "run")) == {0}
        assert len(endpoint.seen.answered) == asked
        assert differing(tmp_path / "one", tmp_path / "run") == []
        again = endpoint.seen.requests
        write(tmp_path, endpoint.base_url)
        complete = chiron("slurm", *command, tmp_path / "run", *TWO)
        assert complete.returncode == 0, complete.stderr
        assert "the scripts are in" not in complete.stderr
        assert endpoint.seen.requests == again
    assert differing(tmp_path / "one", tmp_path / "run") == []
    assert left_of(tmp_path / "run") == []


@pytest.mark.slow
def test_calls_that_tasks_sent_in_vain_are_not_sent_again_and_leave_the_same_lines(tmp_path: Path) -> None:
    published.vqa_rad(tmp_path / "d", 20)

    with Endpoint(answers, override=refuses_some) as endpoint:
        config = write(tmp_path, endpoint.base_url, protocol="exact")
        execute(evaluation(tmp_path, config, tmp_path / "one"))
        asked, refused = endpoint.seen.requests, endpoint.seen.statuses[400]
        assert 0 < refused < asked
        written = chiron("slurm", *measuring(tmp_path, config, tmp_path / "run"), *TWO)
        assert written.returncode == 0, written.stderr
        run_tasks(tmp_path / "run")
        assert endpoint.seen.requests == 2 * asked
    assert differing(tmp_path / "one", tmp_path / "run") == []


@pytest.mark.slow
def test_what_the_ledger_has_is_not_asked_again_by_tasks(tmp_path: Path) -> None:
    published.vqa_rad(tmp_path / "d", 20)

    def stops_halfway(_: dict[str, Any], number: int) -> web.Response | None:
        return web.json_response({"error": {"message": "out of credit"}}, status=403) if number > 12 else None

    with Endpoint(answers, override=stops_halfway) as endpoint:
        config = write(tmp_path, endpoint.base_url, protocol="exact", judge="judge", interns=["intern"])
        command = measuring(tmp_path, config, tmp_path / "run")
        assert chiron(*command).returncode != 0
        seen = sum(endpoint.seen.answered.values())
        endpoint.override = None
        assert chiron("slurm", *command, *TWO).returncode == 0
        items = [json.loads(line)["verdict"] for line in (tmp_path / "run" / "items.jsonl").read_text().splitlines()]
        assert 0 < items.count("pending") < len(items)  # what the ledger had by then
        assert set(run_tasks(tmp_path / "run")) == {0}
        assert max(endpoint.seen.answered.values()) == 1
        assert len(endpoint.seen.answered) > seen > 0
        execute(evaluation(tmp_path, config, tmp_path / "one"))
    assert differing(tmp_path / "one", tmp_path / "run") == []


@pytest.mark.slow
def test_a_small_budget_is_not_exceeded_and_what_it_paid_for_is_in_the_rows(tmp_path: Path) -> None:
    cases = write_different(tmp_path, 24)
    with Endpoint(Models().answer) as endpoint:
        price, limits = {"price": {"input": 0.0, "output": 10_000.0}}, {"author": 200, "reader": 20}
        config = build_file(tmp_path, endpoint, model=price, budget_usd=10, max_tokens=limits)
        out = tmp_path / "out"
        assert chiron("slurm", "build", "text", cases, "--config", config, "--out", out, *TWO).returncode == 0
        codes = run_tasks(out)
        assert 3 in codes[:-1]
        assert codes[-1] == 3
        asked = endpoint.seen.requests
        assert merge(out).returncode == 0
        assert endpoint.seen.requests == asked
    status = chiron("build", "text", cases, "--config", config, "--out", out, "--json")
    found = json.loads(status.stdout)
    assert 5 < found["spent_usd"] <= 10 + 1e-6
    assert 0 < found["pending"] < found["cases"]
    assert (out / "rows.jsonl").read_text()


@pytest.mark.slow
def test_a_part_whose_task_never_ran_is_pending_and_the_same_command_submits_it(tmp_path: Path) -> None:
    cases = write_different(tmp_path, 8)
    with Endpoint(Author().answer) as endpoint:
        command = ["build", "questions", cases, "--config", build_file(tmp_path, endpoint, personas=["doctor"]), "--out"]
        run = tmp_path / "slurm" / "out"
        assert chiron("slurm", *command, run, *ONE).returncode == 0
        for number in (0, 2):
            assert chiron("slurm", "task", run, number).returncode == 0
        merged = merge(run)
        assert merged.returncode == 3
        assert "4 pending, most of them because no task sent the call" in merged.stderr
        assert len((run / "cases.jsonl").read_text().splitlines()) == 4
        assert chiron("slurm", *command, run, *ONE).returncode == 0
        assert set(run_tasks(run)) == {0}
        assert max(endpoint.seen.answered.values()) == 1
        assert chiron(*command, tmp_path / "one" / "out").returncode == 0
    assert differing(tmp_path / "one" / "out", run) == []


def suite_command(folder: Path, config: Path, run: Path, *more: object) -> list[object]:
    return ["eval", "--suite", "table2", "--model", "a", "--model", "b", "--config", config, "--data", folder / "d", "--run", run, *more]


@pytest.mark.slow
def test_a_suite_on_slurm_is_one_array_and_measures_what_one_process_measures(tmp_path: Path) -> None:
    test_suites.table2(tmp_path / "d")
    path = programs(tmp_path / "bin", sbatch=SBATCH)
    with Endpoint(test_suites.answers) as endpoint:
        config = test_suites.write(tmp_path, endpoint.base_url)
        judged = ("--judge", "judge", "--interns", "intern")
        one = chiron(*suite_command(tmp_path, config, tmp_path / "one", *judged))
        distinct, run = len(endpoint.seen.answered), tmp_path / "run"
        submitted = chiron("slurm", *suite_command(tmp_path, config, run, *judged, "--workers", 2), PATH=path)
        assert submitted.returncode == 0, submitted.stderr
        assert "submitted as Slurm job 101; job 102 merges the results" in submitted.stderr
        assert len((tmp_path / "bin" / "log").read_text().splitlines()) == 2
        busy = programs(tmp_path / "busy", squeue="#!/bin/bash\necho 101\n")
        for again in (suite_command(tmp_path, config, run, *judged), ["slurm", *suite_command(tmp_path, config, run, *judged, *TWO)]):
            refused = chiron(*again, PATH=busy)
            assert (refused.returncode, "is in use by Slurm job 101" in refused.stderr) == (2, True)
        ended = programs(tmp_path / "ended", squeue="#!/bin/bash\necho 7\n")
        numbers = sorted(int(file.stem) for file in (run / "slurm").glob("*.json") if file.stem.isdecimal())
        assert len(numbers) > 6
        for number in numbers:
            task = chiron("slurm", "task", run, number)
            assert task.returncode == 0, task.stderr
        merged = chiron("slurm", "merge", run, PATH=ended)
        assert merged.returncode == one.returncode, merged.stderr
        assert len(endpoint.seen.answered) == distinct
    assert merged.stdout == one.stdout
    for ending in test_suites.ENDINGS:
        assert (run / f"table2.{ending}").read_bytes() == (tmp_path / "one" / f"table2.{ending}").read_bytes()
    for model in ("a", "b"):
        folders = sorted(path.name for path in (tmp_path / "one" / model).iterdir())
        assert [name for name in folders if differing(tmp_path / "one" / model / name, run / model / name)] == []
    assert left_of(run) == []


@pytest.mark.slow
def test_the_evaluations_of_a_suite_spend_one_budget_and_lost_money_is_counted_where_it_was_spent(tmp_path: Path) -> None:
    test_suites.table2(tmp_path / "d")
    with Endpoint(test_suites.answers) as endpoint:
        config = test_suites.write(tmp_path, endpoint.base_url, price=True)
        one = chiron(*suite_command(tmp_path, config, tmp_path / "one", "--json"))
        whole = sum(run["spent_usd"] for run in json.loads(one.stdout)["evaluations"])
        budget = 0.6 * whole
        test_suites.write(tmp_path, endpoint.base_url, price=True, budget_usd=budget, max_tokens={"model": 16})
        run = tmp_path / "run"
        assert chiron("slurm", *suite_command(tmp_path, config, run, *TWO)).returncode == 0
        codes = run_tasks(run)
        assert codes[-1] == 3, codes
        spent = json.loads(chiron(*suite_command(tmp_path, config, run, "--json")).stdout)
    assert 0.2 * budget < sum(evaluation["spent_usd"] for evaluation in spent["evaluations"]) <= budget + 1e-9


@pytest.mark.slow
def test_what_a_machine_lacks_is_one_line_at_the_task_and_at_the_merge(tmp_path: Path) -> None:
    published.vqa_rad(tmp_path / "d", 8)
    with Endpoint(answers) as endpoint:
        config = write(tmp_path, endpoint.base_url)
        command = measuring(tmp_path, config, tmp_path / "run")
        assert chiron("slurm", *command, *ONE).returncode == 0
        published.vqa_rad(tmp_path / "d", 12)
        task = chiron("slurm", "task", tmp_path / "run", 0)
        assert (task.returncode, "benchmarks on this machine differ" in task.stderr) == (2, True)
        published.vqa_rad(tmp_path / "d", 8)
        merged = merge(tmp_path / "run")
        assert merged.returncode == 3
        assert "part 0 could not run: " in merged.stderr
        assert "benchmarks on this machine differ" in " ".join(merged.stderr.split())
        assert endpoint.seen.requests == 0


@pytest.mark.slow
def test_a_machine_with_another_version_is_told_before_it_reads_the_part(tmp_path: Path) -> None:
    cases = write_different(tmp_path, 2)
    with Endpoint(Author().answer) as endpoint:
        run = tmp_path / "out"
        config = build_file(tmp_path, endpoint)
        assert chiron("slurm", "build", "questions", cases, "--config", config, "--out", run, *ONE).returncode == 0
        for file in (run / "slurm").glob("?.json"):
            record = json.loads(file.read_text())
            file.write_text(json.dumps({**record, "about": ["0.0.1", {}], "part": {"kind": "of the future"}}))
        for command in (["task", run, 0], ["merge", run]):
            ended = chiron("slurm", *command)
            assert ended.returncode == 2
            assert "was submitted by chiron 0.0.1, and this machine has" in " ".join(ended.stderr.split())
            assert "Traceback" not in ended.stderr
        assert endpoint.seen.requests == 0


@pytest.mark.slow
def test_a_storage_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    cases = write_different(tmp_path, 4)
    (tmp_path / "file").touch()
    with Endpoint(Author().answer) as endpoint:
        command = ["slurm", "build", "questions", cases, "--config", build_file(tmp_path, endpoint), "--out", tmp_path / "out", *ONE]
        refused = chiron(*command, "--storage", tmp_path / "file" / "copies")
        assert (refused.returncode, "cannot be written" in refused.stderr) == (2, True)
        assert not list((tmp_path / "out" / "slurm").glob("*.sh"))
        assert chiron(*command, "--storage", tmp_path / "copies").returncode == 0
        shutil.rmtree(tmp_path / "copies")
        (tmp_path / "copies").touch()
        task = chiron("slurm", "task", tmp_path / "out", 0)
        assert task.returncode == 2
        assert f"storage {tmp_path}/copies" in " ".join(task.stderr.split())
        assert "Traceback" not in refused.stderr + task.stderr
        assert endpoint.seen.requests == 0


@pytest.mark.slow
def test_images_that_differ_at_the_merge_are_an_error_and_not_paid_for_twice(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 6)
    with Endpoint(Author().answer) as endpoint:
        config = build_file(tmp_path, endpoint, personas=["doctor"], show_images=True)
        run = tmp_path / "out"
        assert chiron("slurm", "build", "questions", cases, "--config", config, "--out", run, *ONE).returncode == 0
        for number in range(3):
            assert chiron("slurm", "task", run, number).returncode == 0
        asked = endpoint.seen.requests
        for seed, path in enumerate(sorted((tmp_path / "images").rglob("*.png"))):
            write_png(path, seed=1000 + seed)
        merged = merge(run)
        assert merged.returncode == 2
        assert "a worker had other images" in " ".join(merged.stderr.split())
        assert endpoint.seen.requests == asked
        assert calls_in(run / "ledger.sqlite") == asked


def test_what_cannot_be_stored_for_a_later_process_is_refused(tmp_path: Path) -> None:
    job = prepare_text(
        write_different(tmp_path, 2), build_config("http://127.0.0.1:1/v1"), tmp_path / "out", form=PaperTemplate(), engine="slurm",
        engine_options=EngineOptions(workers=2, slurm=SlurmOptions(write_only=True)),
    )  # fmt: skip
    with pytest.raises(InputError, match="'form' of this job cannot be stored for --engine slurm"):
        asyncio.run(job.execute())
    assert not (tmp_path / "out" / "workers.json").exists()


def test_a_model_with_batch_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    cases = write_different(tmp_path, 2)
    config = write_config(
        tmp_path / "b.yaml", build_config("http://127.0.0.1:1/v1", model={"batch": True}).model_dump(mode="json", exclude_none=True)
    )
    refused = chiron("slurm", "build", "text", cases, "--config", config, "--out", tmp_path / "out", *TWO)
    assert (refused.returncode, "has 'batch', which needs --engine local" in refused.stderr) == (2, True)
    assert not (tmp_path / "out" / "slurm").exists()
    assert not (tmp_path / "out" / "workers.json").exists()


@pytest.mark.slow
def test_a_suite_is_submitted_from_python_and_its_tables_come_with_the_merge(tmp_path: Path) -> None:
    test_suites.table2(tmp_path / "d")
    with Endpoint(test_suites.answers) as endpoint:
        config = load_evaluation(test_suites.write(tmp_path, endpoint.base_url), "a")
        options = EngineOptions(workers=1, slurm=SlurmOptions(write_only=True))
        one = evaluate_suite("table2", {"a": config}, tmp_path / "one", data=tmp_path / "d")
        asked = endpoint.seen.requests
        evaluate_suite("table2", {"a": config}, tmp_path / "run", data=tmp_path / "d", engine="slurm", engine_options=options)
        assert endpoint.seen.requests == asked
        run_tasks(tmp_path / "run")
        again = endpoint.seen.requests
        assert evaluate_suite("table2", {"a": config}, tmp_path / "run", data=tmp_path / "d") == one
        assert endpoint.seen.requests == again


def is_merged(run: Path) -> bool:
    return not WorkDirectory(run).in_use and not list((run / "slurm").glob("*.json"))


@pytest.mark.slow
@pytest.mark.skipif(not CONTROLLER, reason="no Slurm controller runs here")
def test_a_real_slurm_builds_and_evaluates_the_same_files(tmp_path: Path) -> None:
    cases = write_different(tmp_path, 8)
    published.vqa_rad(tmp_path / "d", 8)
    with Endpoint(Author().answer, latency=lambda _: 0.05) as author, Endpoint(answers) as model:
        build = ["build", "questions", cases, "--config", build_file(tmp_path, author), "--out"]
        config = write(tmp_path, model.base_url, protocol="exact")
        measure = [*measuring(tmp_path, config), "--run"]
        for command, name in ((build, "out"), (measure, "run")):
            assert chiron(*command, tmp_path / "one" / name).returncode == 0
            run = tmp_path / "slurm" / name
            done = chiron("slurm", *command, run, "--workers", 2, "--time", "00:10:00")
            assert done.returncode == 0, done.stderr
            assert "is in use by Slurm job" in chiron(*command, run).stderr
            wait_until(partial(is_merged, run), what="the merge")
            assert differing(tmp_path / "one" / name, run) == []
