"""The commands as a person types them."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from chiron.__main__ import main
from chiron.client.batch_record import FOLDER, Batch, BatchRecord
from chiron.client.ledger import Ledger
from tests.support.cases import a_case, known_answers, write_cases
from tests.support.command import CHIRON, chiron, chiron_process, environment, wait_for
from tests.support.endpoint import Endpoint
from tests.support.runs import team, write_config
from tests.support.simulation import Simulation
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.slow


@pytest.fixture
def world(tmp_path: Path) -> Any:
    cases = write_cases(tmp_path / "c", 8)
    with Endpoint(Simulation(known_answers(cases)).reply) as endpoint:
        config = write_config(tmp_path / "c.yaml", team(endpoint.base_url))
        yield cases, config, endpoint


def test_search_says_what_it_did_and_where_it_lies(world: Any, tmp_path: Path) -> None:
    cases, config, _ = world
    done = chiron("search", cases, "--config", config, "--run", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "8 cases" in done.stderr
    assert str(tmp_path / "run" / "report.html") in done.stderr
    assert (tmp_path / "run" / "report.html").stat().st_size > 1000
    again = chiron("search", cases, "--config", config, "--run", tmp_path / "run", "--json")
    assert json.loads(again.stdout)["total"] == 8


def test_the_offline_team_takes_the_sample_cases(tmp_path: Path) -> None:
    assert chiron("sample", tmp_path / "s", "--count", "6", "--size", "64").returncode == 0
    assert chiron("init", "offline", "--out", tmp_path / "o.yaml").returncode == 0
    assert chiron("init", "offline", "--out", tmp_path / "o.yaml").returncode == 2  # never over a file that is there
    assert chiron("doctor", tmp_path / "o.yaml").returncode == 0
    assert chiron("cases", "check", tmp_path / "s" / "cases.jsonl").returncode == 0
    done = chiron("search", tmp_path / "s" / "cases.jsonl", "--config", tmp_path / "o.yaml", "--run", tmp_path / "r")
    assert done.returncode == 0, done.stderr
    status = json.loads(chiron("status", tmp_path / "r", "--json").stdout)
    assert sum(status["outcomes"].values()) == 6
    replay = chiron("replay", tmp_path / "r", "--config", tmp_path / "o.yaml", "--run", tmp_path / "r2")
    assert replay.returncode == 0
    assert "6 of 6 cases need no new call" in replay.stderr
    assert (tmp_path / "r" / "paths.jsonl").read_text() == (tmp_path / "r2" / "paths.jsonl").read_text()


def test_the_offline_team_retains_some_published_cases_and_rejects_others(published: Path, tmp_path: Path) -> None:
    chiron("init", "offline", "--out", tmp_path / "o.yaml")
    done = chiron("search", published, "--config", tmp_path / "o.yaml", "--run", tmp_path / "r", "--json")
    summary = json.loads(done.stdout)
    assert summary["total"] == 10
    assert summary["retained"] > 0
    assert summary["rejected"] + summary["unsolved"] > 0
    assert summary["pending"] == summary["bad"] == 0


def test_the_published_cases_go_through_an_endpoint(published: Path, tmp_path: Path) -> None:
    with Endpoint(lambda body: Simulation({}).reply(body)) as endpoint:
        config = write_config(tmp_path / "c.yaml", team(endpoint.base_url))
        done = chiron("search", published, "--config", config, "--run", tmp_path / "r", "--json")
        assert done.returncode == 0, done.stderr
        images = [
            p
            for b in endpoint.seen.bodies
            for m in b["messages"]
            if isinstance(m["content"], list)
            for p in m["content"]
            if p["type"] == "image_url"
        ]
    assert len(images) > 100
    assert json.loads(done.stdout)["total"] == 10


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("search", "none.jsonl", "--config", "c.yaml", "--run", "r"), "none.jsonl does not exist"),
        (("search", "c/cases.jsonl", "--config", "none.yaml", "--run", "r"), "chiron init"),
        (("search", "c/cases.jsonl", "--config", "c.yaml", "--run", "r", "--images", "none"), "--images"),
        (("search", "c/cases.jsonl", "--config", "c.yaml", "--run", "r", "--shard", "3/2"), "--shard"),
        (("search", "c/cases.jsonl", "--config", "c.yaml", "--run", "c/cases.jsonl"), "cannot be created"),
        (("search", "c/cases.jsonl", "--config", "c.yaml", "--run", "r", "--shard", ""), "--shard"),
        (("search", "n" * 300, "--config", "c.yaml", "--run", "r"), "cannot be reached"),
        (("search", "c/cases.jsonl", "--config", "n" * 300, "--run", "r"), "cannot be read"),
        (("search", "c/cases.jsonl", "--config", "c.yaml", "--run", "n" * 300), "cannot be created"),
        (("search", "c/cases.jsonl", "--config", "c.yaml", "--run", "r", "--images", "n" * 300), "cannot be reached"),
        (("status", "n" * 300), "cannot be read"),
        (("report", "n" * 300), "cannot be read"),
        (("report", "c", "--cases", "9" * 5000), "--cases"),
        (("status", "c"), "not a run directory"),
        (("report", "c"), "not a run directory"),
        (("replay", "c", "--config", "c.yaml", "--run", "r"), "not a run directory"),
        (("cases", "check", "none.jsonl"), "does not exist"),
        (("doctor", "none.yaml"), "chiron init"),
        (("status", "c.yaml"), "not a run directory"),
        (("report", "c.yaml"), "not a run directory"),
    ],
)
def test_what_a_person_got_wrong_is_one_clear_line_and_exit_code_two(world: Any, tmp_path: Path, args: tuple[str, ...], words: str) -> None:
    done = chiron(*args, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().count("\n") == 0


def test_pending_work_is_exit_code_three(tmp_path: Path) -> None:
    cases = write_cases(tmp_path / "c", 1)
    config = write_config(tmp_path / "c.yaml", team("http://127.0.0.1:9/v1", model={"attempts": 1}))
    done = chiron("search", cases, "--config", config, "--run", tmp_path / "r")
    assert done.returncode == 3
    assert "run the same command again" in done.stderr


def test_cases_check_says_what_is_wrong_with_which_line(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 2)
    with cases.open("a") as file:
        file.write('{"id": 5\n')
    done = chiron("cases", "check", cases)
    assert done.returncode == 2
    assert f"{cases}:3: error: broken JSON" in done.stdout


def test_no_case_steers_the_terminal(tmp_path: Path) -> None:
    names = ["a\x1b[2Jb", "a\nc.jsonl:9: error: forged", "a\x9b2Jb", "\x7f", "\u202egnp"]
    records = [{"id": name, "question": "", "images": []} for name in names]
    records += [a_case(f"case-{n}", images=(name,)).to_record() for n, name in enumerate(names)]
    cases = tmp_path / "cases.jsonl"
    cases.write_text("".join(json.dumps(record) + "\n" for record in records))
    (tmp_path / "images").mkdir()
    done = chiron("cases", "check", cases)
    assert done.returncode == 2
    assert len(done.stdout.splitlines()) == len(records)
    assert all(c == "\n" or c.isprintable() for c in done.stdout + done.stderr)
    assert "image 'a\\x1b[2Jb' is missing" in done.stdout


def test_what_the_terminal_cannot_show_is_written_out(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    cases = tmp_path / "cases.jsonl"
    cases.write_text(json.dumps(a_case("Röntgen", images=("胸部.png",)).to_record()))
    done = chiron_process("cases", "check", cases, PYTHONIOENCODING="ascii")
    assert done.returncode == 2
    assert "R\\xf6ntgen" in done.stdout
    assert "Traceback" not in done.stderr
    assert chiron_process("--help", PYTHONIOENCODING="ascii").returncode == 0


def test_a_model_may_be_called_anything_that_can_be_printed(world: Any, tmp_path: Path) -> None:
    cases, _, endpoint = world
    data = team(endpoint.base_url)
    data["models"]["[/x]"] = data["models"].pop("judge")
    config = write_config(tmp_path / "x.yaml", {**data, "search": {**data["search"], "judge": "[/x]"}})
    done = chiron("search", cases, "--config", config, "--run", tmp_path / "r")
    assert done.returncode == 0, done.stderr
    assert "[/x]" in done.stderr
    assert "[/x]" in chiron("status", tmp_path / "r").stdout


def test_status_and_summary_have_the_same_names(world: Any, tmp_path: Path) -> None:
    cases, config, _ = world
    with cases.open("a") as file:
        file.write("{\n")
    summary = json.loads(chiron("search", cases, "--config", config, "--run", tmp_path / "r", "--json").stdout)
    outcomes = json.loads(chiron("status", tmp_path / "r", "--json").stdout)["outcomes"]
    assert summary["bad"] == 1
    assert outcomes == {name: summary[name] for name in ("retained", "rejected", "unsolved", "pending", "bad") if summary[name]}


def test_the_demonstration_needs_nothing_and_shows_everything(tmp_path: Path) -> None:
    done = chiron("demo", "--search-only", "--dir", tmp_path / "d", "--count", "4")
    assert done.returncode == 0, done.stderr
    assert "generated 4 cases" in done.stderr
    assert "4 cases selected" in done.stderr
    report = tmp_path / "d" / "run-4" / "report.html"
    assert str(report) in done.stderr
    assert "Search report" in report.read_text()
    again = chiron("demo", "--search-only", "--dir", tmp_path / "d", "--count", "4")
    assert again.returncode == 0, again.stderr
    assert "calls none" in again.stderr  # nothing is left to ask


def test_a_second_ctrl_c_drops_the_calls_under_way(tmp_path: Path) -> None:
    cases = write_cases(tmp_path / "c", 4)
    seconds = [2 * PATIENCE]
    with Endpoint(Simulation(known_answers(cases)).reply, latency=lambda _: seconds[0]) as endpoint:
        config = write_config(tmp_path / "c.yaml", team(endpoint.base_url))
        command = [*CHIRON, "search", str(cases), "--config", str(config), "--run", str(tmp_path / "r")]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        wait_for(endpoint, 5)
        process.send_signal(signal.SIGINT)
        assert "Ctrl-C again" in process.stderr.readline()
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=PATIENCE)
        assert process.returncode == 130
        assert "stopped at once" in said
        assert "Traceback" not in said
        seconds[0] = 0.0
        done = chiron("search", cases, "--config", config, "--run", tmp_path / "r")
        assert done.returncode == 0, done.stderr
        assert "4 cases selected" in done.stderr


def test_a_second_ctrl_c_says_that_open_batches_are_not_lost(tmp_path: Path) -> None:
    cases = write_cases(tmp_path / "c", 2)
    with Endpoint(Simulation(known_answers(cases)).reply, latency=lambda _: 2 * PATIENCE) as endpoint:
        config = write_config(tmp_path / "c.yaml", team(endpoint.base_url))
        command = [*CHIRON, "search", str(cases), "--config", str(config), "--run", str(tmp_path / "r")]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        wait_for(endpoint, 3)
        (tmp_path / "r" / FOLDER).mkdir()
        Batch(tmp_path / "r" / FOLDER, BatchRecord("b", "mentor-a", endpoint.base_url, ["00", "11"], 1e9)).save()
        process.send_signal(signal.SIGINT)
        assert "batches continue at their provider" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert "2 calls in batches are not lost: the same command collects their replies" in said


def test_a_terminal_that_hangs_up_twice_drops_no_call_and_nohup_is_obeyed(tmp_path: Path) -> None:
    cases = write_cases(tmp_path / "c", 2)
    with Endpoint(Simulation(known_answers(cases)).reply, latency=lambda _: 0.5) as endpoint:
        config = write_config(tmp_path / "c.yaml", team(endpoint.base_url))
        command = [*CHIRON, "search", str(cases), "--config", str(config), "--run", str(tmp_path / "r")]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        wait_for(endpoint, 3)
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGHUP)
        _, said = process.communicate(timeout=PATIENCE)
        assert process.returncode == 130, said
        assert "stopped at once" not in said
        assert sum(endpoint.seen.answered.values()) == endpoint.seen.requests  # none was dropped
        asked = endpoint.seen.requests
        ignoring = subprocess.Popen(["/usr/bin/env", "nohup", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(endpoint, asked + 1)
        ignoring.send_signal(signal.SIGHUP)
        assert ignoring.wait(timeout=PATIENCE) == 0


def test_ctrl_c_while_it_is_being_loaded_leaves_no_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delitem(sys.modules, "chiron.cli.app", raising=False)

    class Interrupting:
        @staticmethod
        def find_spec(name: str, *_: object) -> None:
            if name == "chiron.cli.app":
                raise KeyboardInterrupt

    monkeypatch.setattr(sys, "meta_path", [Interrupting, *sys.meta_path])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 130
    assert capsys.readouterr().err == ""


def test_no_key_is_said_before_anything_is_asked(world: Any, tmp_path: Path) -> None:
    cases, _, endpoint = world
    config = write_config(tmp_path / "k.yaml", team(endpoint.base_url, model={"api_key_env": "CHIRON_NO_SUCH_KEY"}))
    done = chiron("search", cases, "--config", config, "--run", tmp_path / "r")
    assert done.returncode == 2
    assert "CHIRON_NO_SUCH_KEY" in done.stderr
    assert endpoint.seen.requests == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c_keeps_the_calls_under_way_and_says_how_to_go_on(tmp_path: Path, number: signal.Signals) -> None:
    cases = write_cases(tmp_path / "c", 8)
    with Endpoint(Simulation(known_answers(cases)).reply, latency=lambda _: 0.2) as endpoint:
        config = write_config(tmp_path / "c.yaml", team(endpoint.base_url))
        command = [*CHIRON, "search", str(cases), "--config", str(config), "--run", str(tmp_path / "r")]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        wait_for(endpoint, 20)
        process.send_signal(number)
        _, said = process.communicate(timeout=PATIENCE)
        assert process.returncode == 130, said
        assert "run the same command again" in said
        done = chiron("search", cases, "--config", config, "--run", tmp_path / "r")
        assert done.returncode == 0
        assert max(endpoint.seen.answered.values()) == 1


def test_kill_dash_nine_loses_the_calls_in_flight_and_nothing_else(tmp_path: Path) -> None:
    cases, dice = write_cases(tmp_path / "c", 10), random.Random(1)
    with Endpoint(Simulation(known_answers(cases)).reply, latency=lambda _: 0.02) as endpoint:
        config = write_config(tmp_path / "c.yaml", team(endpoint.base_url, model={"concurrency": 4}))
        command = [*CHIRON, "search", str(cases), "--config", str(config), "--run", str(tmp_path / "r")]
        lost = kills = answered = kept = 0
        while True:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True)
            wait_for(endpoint, endpoint.seen.requests + dice.randint(20, 120), process)
            if process.poll() is not None:
                break
            process.kill()
            process.wait()
            kills += 1
            while sum(endpoint.seen.in_flight.values()):
                time.sleep(0.01)
            with Ledger.read(tmp_path / "r" / "ledger.sqlite") as ledger:
                in_ledger = sum(s.calls for s in ledger.spending())
            total = sum(endpoint.seen.answered.values())
            lost += (total - answered) - (in_ledger - kept)
            answered, kept = total, in_ledger
        assert process.returncode == 0
        assert kills >= 3
        assert lost <= kills * 7 * 4  # seven models, four places each
        # What was answered twice is what no ledger held: nothing else was asked again.
        assert sum(n - 1 for n in endpoint.seen.answered.values()) <= lost
        assert chiron("search", cases, "--config", config, "--run", tmp_path / "undisturbed").returncode == 0
    for name in ("paths.jsonl", "rejected.jsonl"):
        assert (tmp_path / "r" / name).read_text() == (tmp_path / "undisturbed" / name).read_text()


def test_a_report_is_written_anew_with_as_many_cases_as_asked_for(world: Any, tmp_path: Path) -> None:
    cases, config, _ = world
    chiron("search", cases, "--config", config, "--run", tmp_path / "r")
    done = chiron("report", tmp_path / "r", "--cases", "2", "--out", tmp_path / "two.html")
    assert done.stdout.strip() == str(tmp_path / "two.html")
    assert "--cases all" in (tmp_path / "two.html").read_text()
    assert chiron("report", tmp_path / "r", "--cases", "all").returncode == 0
    assert chiron("report", tmp_path / "r", "--cases", "few").returncode == 2


def test_brackets_in_a_path_are_printed_as_they_are(tmp_path: Path) -> None:
    done = chiron("status", tmp_path / "[red]r[/red][/x]")
    assert done.returncode == 2
    assert "[red]r[/red][/x]" in done.stderr


def test_help_is_there_for_every_command_and_loads_nothing_heavy() -> None:
    code = """
import sys
from typer.main import get_command
from typer.testing import CliRunner
from chiron.cli.app import app

def walk(command, path=()):
    yield path
    for name, inner in getattr(command, "commands", {}).items():
        yield from walk(inner, (*path, name))

for path in walk(get_command(app)):
    told = CliRunner().invoke(app, [*path, "--help"])
    print(" ".join(path) or "chiron", told.exit_code, "Usage" in told.output, sep="|")
heavy = {"torch", "transformers", "pandas", "datasets", "aiohttp", "jinja2", "numpy", "pydicom", "scipy"}
print(sorted(heavy & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True)
    *told, heavy = done.stdout.splitlines()
    assert {"search", "status", "doctor", "build text", "eval contamination", "cases import"} <= {line.split("|")[0] for line in told}
    assert all(line.endswith("|0|True") for line in told), told
    assert heavy == "[]"


def test_the_version_is_told() -> None:
    assert chiron_process("--version").stdout.startswith("chiron 0.")


@pytest.mark.parametrize("command", ["status", "report"])
def test_a_folder_that_contains_runs_is_answered_with_their_names(tmp_path: Path, command: str) -> None:
    (tmp_path / "demo" / "run-24").mkdir(parents=True)
    (tmp_path / "demo" / "run-24" / "run.json").write_text("{}")
    done = chiron(command, "demo", cwd=tmp_path)
    assert done.returncode == 2
    assert "demo is not a run directory (it has no run.json): choose a run in it, such as demo/run-24" in done.stderr
