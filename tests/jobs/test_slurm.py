"""A search on Slurm: scripts, submission, parts that continue after a kill, one budget, and the merge."""

import asyncio
import json
import os
import shlex
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer
from aiohttp import web

from chiron.cli.app import app
from chiron.errors import DiskError, InputError
from chiron.jobs import slurm
from chiron.jobs.engine import EngineOptions, engine_of
from chiron.jobs.slurm import SlurmOptions, need_ended
from chiron.jobs.storage import Storage, recover_parts
from chiron.mics.run_directory import RunDirectory, read_status
from tests.jobs.test_ray_engine import PRICE, Charging, files
from tests.support.cases import known_answers, write_cases
from tests.support.command import Ended, chiron, environment, wait_for
from tests.support.endpoint import Endpoint
from tests.support.runs import config_of, execute, make_run, team, write_config
from tests.support.simulation import Simulation
from tests.support.waiting import wait_until

SBATCH = """#!/bin/bash
echo "$@" >> "{log}"
if [ -e "{log}.refuse" ]; then
    echo "sbatch: error: invalid partition specified: nowhere" >&2
    exit 1
fi
echo $((100 + $(wc -l < "{log}")))
"""
BASH, SCONTROL = shutil.which("bash") or "bash", shutil.which("scontrol") or ""
CONTROLLER = bool(SCONTROL) and subprocess.run([SCONTROL, "ping"], capture_output=True, check=False).returncode == 0


def programs(folder: Path, **scripts: str) -> str:
    """Return a PATH with stand-ins of Slurm's programs."""
    folder.mkdir(exist_ok=True)
    for name, text in scripts.items():
        (folder / name).write_text(text.format(log=folder / "log"))
        (folder / name).chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def submit(cases: Path, config: Path, run: Path, *options: str, path: str = os.environ["PATH"]) -> Ended:
    return chiron("slurm", "search", cases, "--config", config, "--run", run, "--workers", 2, *options, PATH=path)


def offline(folder: Path, number: int = 3) -> tuple[Path, Path]:
    cases = write_cases(folder, number)
    chiron("init", "offline", "--out", folder / "c.yaml")
    return cases, folder / "c.yaml"


@pytest.mark.slow
def test_a_search_is_submitted_as_an_array_and_a_merge_that_depends_on_it(tmp_path: Path) -> None:
    cases, config = offline(tmp_path / "a folder")
    run, stand_ins = tmp_path / "a folder" / "100%", tmp_path / "bin"
    path = programs(stand_ins, sbatch=SBATCH)
    options = ["--time", "01:30:00", "--partition", "gpu", "--sbatch=--account=x", "--setup", "export A=1"]
    done = submit(cases, config, run, *options, path=path)
    assert done.returncode == 0, done.stderr
    assert "submitted as Slurm job 101; job 102 merges the results" in done.stderr
    assert (stand_ins / "log").read_text().splitlines() == ["--parsable array.sh", "--parsable --dependency=afterany:101 merge.sh"]
    for name in ("array.sh", "merge.sh", "submit.sh"):
        assert subprocess.run([BASH, "-n", str(run / "slurm" / name)], check=False).returncode == 0
    array, merge = (
        [shlex.split(line)[1] for line in (run / "slurm" / name).read_text().splitlines() if line.startswith("#SBATCH")]
        for name in ("array.sh", "merge.sh")
    )
    common = ["--time=01:30:00", "--partition=gpu", "--requeue", "--open-mode=append", "--account=x"]
    folder = f"{tmp_path}/a folder/100%%/slurm"
    for line in ("--job-name=chiron-100%", "--array=0-2%2", f"--output={folder}/%a.log", "--signal=B:USR1@120", *common):
        assert line in array
    for line in (f"--output={folder}/merge.log", *common):
        assert line in merge
    assert "\nexport A=1\n" in (run / "slurm" / "array.sh").read_text()
    again = chiron("search", cases, "--config", config, "--run", run, PATH=programs(stand_ins, squeue="#!/bin/bash\necho 7\necho 101\n"))
    assert again.returncode == 2
    assert "is in use by Slurm job 101" in again.stderr


@pytest.mark.slow
def test_what_slurm_refuses_is_one_line_and_can_be_submitted_again(tmp_path: Path) -> None:
    cases, config = offline(tmp_path)
    path = programs(tmp_path / "bin", sbatch=SBATCH)
    (tmp_path / "bin" / "log.refuse").touch()
    refused = submit(cases, config, tmp_path / "run", "--partition", "nowhere", path=path)
    assert refused.returncode == 2
    assert "(sbatch: error: invalid partition specified: nowhere): correct the options" in " ".join(refused.stderr.split())
    assert "Traceback" not in refused.stderr
    (tmp_path / "bin" / "log.refuse").unlink()
    assert submit(cases, config, tmp_path / "run", path=path).returncode == 0


def test_a_machine_without_slurm_is_told_from_one_that_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("bin", "slurm"):
        (tmp_path / folder).mkdir()
    (tmp_path / "bin" / "bash").symlink_to(BASH)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(InputError, match=r"sbatch is not installed here: .* --write-only"):
        slurm.submit(slurm.write_scripts(tmp_path, 1, 1, SlurmOptions()))


@pytest.mark.slow
def test_scripts_can_be_written_and_submitted_by_hand(tmp_path: Path) -> None:
    cases, config = offline(tmp_path)
    written = submit(cases, config, tmp_path / "run", "--write-only", path="/usr/bin:/bin")
    assert written.returncode == 0, written.stderr
    script = tmp_path / "run" / "slurm" / "submit.sh"
    assert f"submit them with: bash {script}" in written.stderr
    env = environment(PATH=programs(tmp_path / "bin", sbatch=SBATCH))
    assert subprocess.run([BASH, str(script)], env=env, check=False).returncode == 0
    twice = subprocess.run([BASH, str(script)], env=env, check=False, capture_output=True, text=True)
    assert (twice.returncode, twice.stderr) == (1, "already submitted as job 101\n")


def run_script(run: Path, name: str, task: int = 0) -> "subprocess.Popen[str]":
    """Run a script as Slurm would."""
    env = environment(SLURM_ARRAY_TASK_ID=str(task), SLURM_ARRAY_JOB_ID="1", TMPDIR=str(run.parent))
    log = (run / "slurm" / f"{task}.log").open("a")
    with log:
        return subprocess.Popen([BASH, str(run / "slurm" / name)], env=env, stdout=log, stderr=log, text=True, start_new_session=True)


def log_of(run: Path, task: int) -> str:
    return (run / "slurm" / f"{task}.log").read_text()


@pytest.mark.slow
def test_a_killed_task_continues_from_its_copy_and_its_money_is_counted(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 8)
    world = Charging(cases)
    with Endpoint(world.reply, latency=lambda _: 0.02) as endpoint:
        data = team(endpoint.base_url, model=PRICE, budget_usd=10_000)
        execute(cases, config_of(data), tmp_path / "one")
        before, world.usd = endpoint.seen.requests, 0.0
        run = tmp_path / "run"
        written = chiron(
            "slurm", "search", cases, "--config", write_config(tmp_path / "c.yaml", data), "--run", run, "--workers", 1, "--write-only"
        )  # fmt: skip
        assert written.returncode == 0, written.stderr
        task = run_script(run, "array.sh")
        wait_for(endpoint, before + 60, task)
        task.send_signal(signal.SIGTERM)  # as at preemption: it ends in order
        assert task.wait() == 130, log_of(run, 0)
        assert Storage(str(run / "copies")).copies() == [f"{name}-0" for name in parts(run)[:1]]
        ordered = endpoint.seen.requests
        task = run_script(run, "array.sh")
        wait_for(endpoint, ordered + 30, task)
        os.killpg(task.pid, signal.SIGKILL)  # as when the node dies
        task.wait()
        for number in range(len(parts(run))):
            assert run_script(run, "array.sh", number).wait() == 0, log_of(run, number)
        assert run_script(run, "merge.sh", 99).wait() == 0, log_of(run, 99)
        asked = endpoint.seen.requests - before
        status = read_status(run)
    assert files(run) == files(tmp_path / "one")
    assert "8 cases selected" in log_of(run, 99)
    assert sum(s.calls for s in status.spending) <= asked
    assert world.usd <= status.spent_usd + 1e-6  # what the killed task paid for and did not copy is counted
    assert status.spent_usd - status.possibly_spent_usd <= world.usd + 1e-6
    assert sorted(path.name for path in run.iterdir() if path.name.startswith(("copies", "leases", "workers"))) == []
    shutil.rmtree(run / "slurm")


def parts(run: Path) -> list[str]:
    return [json.loads(file.read_text())["task"]["name"] for file in sorted((run / "slurm").glob("*.json")) if "end" not in file.name]


@pytest.mark.slow
def test_replies_of_unfinished_cases_are_not_paid_for_again_on_slurm(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 4)

    def stops_halfway(_: dict[str, Any], number: int) -> web.Response | None:
        return web.json_response({"error": {"message": "out of credit"}}, status=403) if number > 20 else None

    with Endpoint(Simulation(known_answers(cases), skill=0.1).reply, override=stops_halfway) as endpoint:
        config, run = write_config(tmp_path / "c.yaml", team(endpoint.base_url)), tmp_path / "run"
        assert chiron("search", cases, "--config", config, "--run", run).returncode != 0
        before = set(endpoint.seen.answered)
        endpoint.override = None
        assert submit(cases, config, run, "--write-only").returncode == 0
        for number in range(len(parts(run))):
            assert chiron("slurm", "task", run, number).returncode == 0
        assert chiron("slurm", "merge", run).returncode == 0
        assert len(before) > 0
        assert {endpoint.seen.answered[key] for key in before} == {1}


@pytest.mark.slow
def test_tasks_spend_one_budget_and_the_merge_says_why_cases_are_pending(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 16)
    world = Charging(cases)
    with Endpoint(world.reply) as endpoint:
        config = write_config(tmp_path / "c.yaml", team(endpoint.base_url, model=PRICE, budget_usd=10))
        assert submit(cases, config, tmp_path / "run", "--write-only").returncode == 0
        tasks = [run_script(tmp_path / "run", "array.sh", number) for number in range(4)]
        assert 3 in {task.wait() for task in tasks}, log_of(tmp_path / "run", 0)
        assert run_script(tmp_path / "run", "merge.sh", 99).wait() == 3
    assert 10 - 5 < world.usd <= read_status(tmp_path / "run").spent_usd + 1e-6 <= 10 + 2e-6
    assert "stopped: the budget of $10.00" in log_of(tmp_path / "run", 99)


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["cases.jsonl", "leases.sqlite"])
def test_the_merge_says_why_a_part_could_not_begin(tmp_path: Path, missing: str) -> None:
    cases, config = offline(tmp_path)
    run = tmp_path / "run"
    assert submit(cases, config, run, "--write-only").returncode == 0
    file = cases if missing == "cases.jsonl" else run / missing
    away = file.rename(tmp_path / "away")
    assert chiron("slurm", "task", run, 0).returncode == 2
    away.rename(file)
    merged = chiron("slurm", "merge", run)
    assert merged.returncode == 3
    assert "stopped: part 0 could not run: " in merged.stderr
    assert file.name in merged.stderr


def test_a_model_with_batch_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 2)
    job = make_run(cases, config_of(team("http://127.0.0.1:1/v1", model={"batch": True})), tmp_path / "run")
    job.engine = engine_of("slurm", EngineOptions(workers=2, slurm=SlurmOptions(write_only=True)))
    with pytest.raises(InputError, match="has 'batch', which needs --engine local"):
        asyncio.run(job.execute())
    assert not (tmp_path / "run" / "slurm").exists()
    assert not (tmp_path / "run" / "workers.json").exists()


@pytest.mark.slow
def test_a_task_of_a_run_that_was_merged_since_is_refused(tmp_path: Path) -> None:
    cases, config = offline(tmp_path)
    run = tmp_path / "run"
    assert submit(cases, config, run, "--write-only").returncode == 0
    assert chiron("slurm", "task", run, 7).returncode == 2
    assert chiron("search", cases, "--config", config, "--run", run).returncode == 0
    late = chiron("slurm", "task", run, 0)
    assert late.returncode == 2
    assert "Traceback" not in late.stderr
    assert read_status(run).outcomes.get("pending", 0) == 0


def test_options_that_slurm_would_misread_are_refused() -> None:
    for time in ("1h", "02:00", "3"):
        with pytest.raises(InputError, match=f"--time {time}"):
            SlurmOptions(time=time).check()
    for time in ("30", "10:00", "04:00:00", "1-0", "1-02:03", "1-02:03:04"):
        SlurmOptions(time=time).check()
    with pytest.raises(InputError, match="is not one option"):
        SlurmOptions(sbatch=("account=x",)).check()
    with pytest.raises(InputError, match="is not one option"):
        SlurmOptions(partition="a\n#SBATCH --wrap=x").check()
    with pytest.raises(InputError, match="needs --workers N"):
        engine_of("slurm")
    with pytest.raises(InputError, match="names a Ray cluster"):
        engine_of("slurm", EngineOptions(workers=1, address="auto"))


def test_a_run_is_not_touched_while_slurm_does_not_say_that_it_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm" / "job").write_text("12\n")
    monkeypatch.setenv("PATH", programs(tmp_path / "bin", squeue="#!/bin/bash\necho 'Unable to contact controller' >&2; exit 1\n"))
    with pytest.raises(InputError, match=r"whether job 12 .* has ended \(Unable to contact controller\)"):
        need_ended(tmp_path)
    monkeypatch.setenv("PATH", programs(tmp_path / "bin", squeue="#!/bin/bash\necho 112\n"))
    need_ended(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="squeue is not installed here"):
        need_ended(tmp_path)


@pytest.mark.slow
def test_two_runs_with_one_storage_do_not_take_each_others_copies(tmp_path: Path) -> None:
    cases, config = offline(tmp_path)
    for name in ("a", "b"):
        assert submit(cases, config, tmp_path / name, "--write-only", "--storage", str(tmp_path / "copies")).returncode == 0
        assert chiron("slurm", "task", tmp_path / name, 0).returncode == 0
    recover_parts(RunDirectory(tmp_path / "a"))
    left = Storage(str(tmp_path / "copies")).copies()
    assert [name.rpartition("-")[0] for name in left] == parts(tmp_path / "b")[:1]


@pytest.mark.slow
def test_a_part_is_done_even_if_its_earlier_copies_cannot_be_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases, config = offline(tmp_path)
    run = tmp_path / "run"
    assert submit(cases, config, run, "--write-only").returncode == 0
    assert chiron("slurm", "task", run, 0).returncode == 0
    with monkeypatch.context() as patch:
        patch.setattr(Storage, "remove", cannot_be_written)
        with pytest.raises(SystemExit) as ended:
            typer.main.get_command(app)(["slurm", "task", str(run), "0"])
    assert ended.value.code == 0
    for number in range(1, len(parts(run))):
        assert chiron("slurm", "task", run, number).returncode == 0
    merged = chiron("slurm", "merge", run)
    assert merged.returncode == 0, merged.stderr


def cannot_be_written(storage: Storage, name: str) -> None:
    raise DiskError(f"storage cannot be written: {name}")


def test_a_copy_that_cannot_be_deleted_is_an_error_that_names_the_storage(tmp_path: Path) -> None:
    (tmp_path / "a-0.sqlite").mkdir()
    with pytest.raises(DiskError, match=f"storage {tmp_path} cannot be written"):
        Storage(str(tmp_path)).delete("a-0")


@pytest.mark.parametrize("command", [["build", "text"], ["build", "questions"], ["eval"], ["search"]])
def test_the_help_on_slurm_lists_the_options_of_the_command_and_those_of_slurm(command: list[str]) -> None:
    def options(*words: str) -> set[str]:
        found: Any = typer.main.get_command(app)
        for word in words:
            found = found.commands[word]
        return {name for option in found.params for name in option.opts if name.startswith("--")}

    here = {"--engine", "--address", "--pilot", "--json", "--list", "--export-tsv", "--shard" if command == ["search"] else ""}
    slurm = {"--time", "--partition", "--sbatch", "--setup", "--storage", "--workers", "--write-only"}
    assert (options(*command) - here) | slurm == options("slurm", *command)


@pytest.mark.slow
@pytest.mark.skipif(not CONTROLLER, reason="no Slurm controller runs here")
def test_a_real_slurm_requeues_a_task_and_then_merges_the_same_paths(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 8)
    with Endpoint(Simulation(known_answers(cases), skill=0.1).reply, latency=lambda _: 0.05) as endpoint:
        data = team(endpoint.base_url)
        execute(cases, config_of(data), tmp_path / "one")
        before = endpoint.seen.requests
        run = tmp_path / "run"
        done = submit(cases, write_config(tmp_path / "c.yaml", data), run, "--time", "00:10:00")
        assert done.returncode == 0, done.stderr
        job = (run / "slurm" / "job").read_text().strip()
        wait_for(endpoint, before + 30)
        assert "is in use by Slurm job" in chiron("search", cases, "--config", tmp_path / "c.yaml", "--run", run).stderr
        subprocess.run([SCONTROL, "requeue", f"{job}_0"], check=True)
        # Slurm lets a requeued job wait for two minutes.
        wait_until(lambda: subprocess.run([SCONTROL, "update", f"JobId={job}_0", "StartTime=now"], check=False).returncode == 0)
        wait_until(lambda: not (run / "workers.json").exists() and (run / "report.html").exists(), what="the merge")
        asked = endpoint.seen.requests
        assert execute(cases, config_of(data), run).pending == 0
        assert endpoint.seen.requests == asked
    assert files(run) == files(tmp_path / "one")
    assert "part 0" in log_of(run, 0)
    assert asyncio.run(make_run(cases, config_of(data), run).execute()).pending == 0
