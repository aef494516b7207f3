"""What a person sees while a search runs: a panel on a terminal, plain lines without one, and never the end of the run."""

import asyncio
import io
import os
import pty
import re
import subprocess
import threading
from pathlib import Path

import pytest
from rich.console import Console

from chiron.cli import live
from chiron.cli.live import duration, watching
from tests.support.cases import known_answers, write_cases
from tests.support.command import CHIRON, chiron, environment
from tests.support.endpoint import Endpoint
from tests.support.runs import config_of, make_run, team, write_config
from tests.support.simulation import Simulation
from tests.support.waiting import PATIENCE


def on_a_terminal(command: list[str], **env: str) -> tuple[int, str]:
    """Exit code, and everything that the command wrote on the terminal behind its standard error."""
    master, slave = pty.openpty()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=slave, env=environment(TERM="xterm-256color", LINES="40", **env))
    os.close(slave)
    seen: list[bytes] = []

    def read() -> None:
        try:
            while piece := os.read(master, 65536):
                seen.append(piece)
        except OSError:
            pass  # Linux's way to say that nobody holds the other end any more

    reader = threading.Thread(target=read)
    reader.start()
    code = process.wait(PATIENCE)
    reader.join(10)
    os.close(master)
    return code, b"".join(seen).decode()


@pytest.mark.slow
def test_a_terminal_shows_a_panel_that_moves_and_leaves(tmp_path: Path) -> None:
    cases = write_cases(tmp_path / "c", 6)
    with Endpoint(Simulation(known_answers(cases)).reply, latency=lambda _: 0.15) as endpoint:
        data = team(endpoint.base_url)
        data["models"]["[/x]"] = data["models"].pop("judge")
        config = write_config(tmp_path / "c.yaml", {**data, "search": {**data["search"], "judge": "[/x]"}})
        code, seen = on_a_terminal([*CHIRON, "search", str(cases), "--config", str(config), "--run", str(tmp_path / "r")])
    assert code == 0, seen
    assert "Traceback" not in seen
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen)
    for words in ("from ledger", "allowed", "mentor-a", "intern-c", "[/x]", "mean MICS-Score", "cost $0.0000"):
        assert words in text
    assert len(set(re.findall(r"(\d)/6", text))) > 1  # it moved
    assert "\x1b[?25l" in seen  # the cursor was hidden,
    assert seen.rindex("\x1b[?25h") > seen.rindex("\x1b[?25l")  # and came back
    assert "6 cases selected" in text
    assert not re.search(r"\d\d:\d\d:\d\d cases", text)  # no plain lines beside it


@pytest.mark.slow
def test_a_narrow_terminal_is_told_in_words(tmp_path: Path) -> None:
    cases = write_cases(tmp_path / "c", 2)
    with Endpoint(Simulation(known_answers(cases)).reply, latency=lambda _: 0.1) as endpoint:
        config = write_config(tmp_path / "c.yaml", team(endpoint.base_url))
        code, seen = on_a_terminal([*CHIRON, "search", str(cases), "--config", str(config), "--run", str(tmp_path / "r")], COLUMNS="40")
    assert code == 0, seen
    shown, told = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "\n", seen).split("cases selected")
    assert "\u2026" not in shown  # nothing but dots
    assert all(len(line) <= 40 for line in shown.splitlines() if "in this run directory" not in line)
    assert "mean MICS-Score" in " ".join(shown.split())
    assert "mentor-a" in told


@pytest.mark.slow
def test_without_a_terminal_there_are_plain_lines_and_nothing_else(tmp_path: Path) -> None:
    cases = write_cases(tmp_path / "c", 3)
    with Endpoint(Simulation(known_answers(cases)).reply) as endpoint:
        config = write_config(tmp_path / "c.yaml", team(endpoint.base_url))
        done = chiron("search", cases, "--config", config, "--run", tmp_path / "r")
    assert done.returncode == 0
    assert "\x1b" not in done.stderr
    assert re.search(r"^\d\d:\d\d:\d\d cases 3/3: \d retained, .* 0 in flight; calls mentor \d+ \(\+0 known\)", done.stderr, re.MULTILINE)


def test_a_plain_line_comes_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "PLAIN_EVERY", 0.01)
    out = io.StringIO()
    run = make_run(write_cases(tmp_path / "c", 2), config_of(team("http://127.0.0.1:9/v1")), tmp_path / "r")
    run.progress.total = 2

    async def look_on() -> None:
        async with watching(run, Console(file=out, width=300)):
            while out.getvalue().count("\n") < 3:
                await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(look_on(), PATIENCE))
    assert "cases 0/2: 0 retained" in out.getvalue().splitlines()[0]


@pytest.mark.parametrize(("terminal", "every"), [(True, 0.01), (False, 0.01), (False, 60.0)])
def test_a_view_that_breaks_is_said_and_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, terminal: bool, every: float) -> None:
    def broken(*_: object) -> str:
        raise ZeroDivisionError("in the\x1b view")

    monkeypatch.setattr(live, "PLAIN_EVERY", every)
    monkeypatch.setattr(live, "plain_line", broken)
    monkeypatch.setattr(live, "panel", broken)
    out = io.StringIO()
    run = make_run(write_cases(tmp_path / "c", 2), config_of(team("http://127.0.0.1:9/v1")), tmp_path / "r")
    run.progress.total = 2

    async def look_on() -> str:
        async with watching(run, Console(file=out, width=300, highlight=False, force_terminal=terminal)):
            await asyncio.sleep(0.1)
            return "the run's result"

    assert asyncio.run(look_on()) == "the run's result"
    assert "the progress display failed (ZeroDivisionError" in out.getvalue()


@pytest.mark.parametrize(("seconds", "words"), [(3.2, "3 s"), (125, "2 min 05 s"), (15_000, "4 h 10 min")])
def test_how_long_it_takes_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words
