"""Output that is closed, full or gone: a run goes on, a reader who left is no error, a full disk is one line."""

import json
import signal
import subprocess
from pathlib import Path
from typing import IO, Any

import pytest

from tests.support.cases import known_answers, write_cases
from tests.support.command import CHIRON, chiron, environment, wait_for
from tests.support.endpoint import Endpoint
from tests.support.runs import team, write_config
from tests.support.simulation import Simulation
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run ``r`` of the embedded team, its cases and its configuration."""
    folder = tmp_path_factory.mktemp("done")
    chiron("sample", folder / "s", "--count", "3", "--size", "64")
    chiron("init", "offline", "--out", folder / "o.yaml")
    assert chiron("search", "s/cases.jsonl", "--config", "o.yaml", "--run", "r", cwd=folder).returncode == 0
    with (folder / "s" / "bad.jsonl").open("w") as file:
        file.write("{\n" * 2000)
    return folder


SEARCH = ("search", "s/cases.jsonl", "--config", "o.yaml", "--run", "r", "--json")
RESULTS = [("status", "r"), ("status", "r", "--json"), SEARCH, ("--help",), ("report", "r"), ("cases", "check", "s/bad.jsonl")]


def with_output(command: tuple[str, ...], folder: Path, out: "int | IO[Any]") -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*CHIRON, *command], stdout=out, stderr=subprocess.PIPE, text=True, cwd=folder, env=environment(), timeout=PATIENCE, check=False
    )


@pytest.mark.parametrize("command", RESULTS)
def test_a_reader_that_goes_away_is_no_error(done: Path, command: tuple[str, ...]) -> None:
    whole = [*CHIRON, *command]
    with subprocess.Popen(whole, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=done, env=environment()) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
        assert process.wait(PATIENCE) == 0, said
    for word in ("Traceback", "Broken", "error", "Exception"):
        assert word not in said


@pytest.mark.parametrize("command", RESULTS)
def test_an_output_that_takes_no_more_is_one_line_and_exit_code_two(done: Path, command: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        told = with_output(command, done, full)
    assert told.returncode == 2
    assert "Traceback" not in told.stderr
    errors = [line for line in told.stderr.splitlines() if "error:" in line]
    assert len(errors) == 1
    assert "standard output cannot be written (No space left on device)" in errors[0]


def test_an_output_closed_from_the_start_changes_nothing(done: Path) -> None:
    for redirection in (">&-", "2>&-", ">&- 2>&-"):
        command = f"{' '.join(CHIRON)} status r {redirection}"
        told = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=done, env=environment(), check=False)  # noqa: S602
        assert told.returncode == 0, told.stderr
        assert told.stderr == ""


@pytest.mark.parametrize("log", ["full", "gone"])
def test_a_log_that_takes_nothing_ends_no_run(tmp_path: Path, log: str) -> None:
    cases = write_cases(tmp_path / "c", 4)
    with Endpoint(Simulation(known_answers(cases)).reply) as endpoint:
        config = write_config(tmp_path / "c.yaml", team(endpoint.base_url))
        process = start(cases, config, tmp_path / "r", log)
        out, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert json.loads(out)["total"] == 4
    assert (tmp_path / "r" / "report.html").stat().st_size > 1000


@pytest.mark.parametrize("log", ["full", "gone"])
def test_a_run_without_a_log_stops_when_it_is_told_to(tmp_path: Path, log: str) -> None:
    cases = write_cases(tmp_path / "c", 8)
    with Endpoint(Simulation(known_answers(cases)).reply, latency=lambda _: 0.2) as endpoint:
        config = write_config(tmp_path / "c.yaml", team(endpoint.base_url))
        process = start(cases, config, tmp_path / "r", log)
        wait_for(endpoint, 20)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert json.loads(out)["pending"] > 0


def start(cases: Path, config: Path, run: Path, log: str) -> "subprocess.Popen[str]":
    command = [*CHIRON, "search", str(cases), "--config", str(config), "--run", str(run), "--json"]
    if log == "full":
        with Path("/dev/full").open("w") as full:
            return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=full, text=True, env=environment())
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
    assert process.stderr is not None
    process.stderr.close()
    process.stderr = None
    return process
