"""What an embedding program learns from the log, and what never gets into it."""

import json
import logging
from pathlib import Path

import pytest
from aiohttp import web

from chiron import io
from chiron.io import new_folder
from tests.client.test_outages import ask_many, desk_with, on_a_virtual_clock
from tests.support.cases import known_answers, write_cases
from tests.support.command import chiron
from tests.support.endpoint import Endpoint, Faults
from tests.support.runs import config_of, execute, team, write_config
from tests.support.simulation import Simulation
from tests.support.traffic import Traffic

KEY = "sk-verysecret-0123456789"


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_an_outage_is_logged_when_it_begins_and_when_it_ends(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    desk = desk_with(tmp_path, Traffic(down=[(10.0, 310.0)]))

    async def work() -> None:
        await ask_many(desk, 400)

    with caplog.at_level(logging.INFO, "chiron"):
        on_a_virtual_clock(desk, work)
    assert warnings(caplog)[0] == "model 'm' does not answer: its calls wait, and one at a time is tried"
    assert warnings(caplog)[1].startswith("model 'm' answers again after 3")
    assert sum("a call of model 'm' failed (cause: " in record.getMessage() for record in caplog.records) > 10


@pytest.mark.slow
def test_retries_and_halts_are_logged_without_the_key_or_a_word_of_the_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SOME_KEY", KEY)
    cases = write_cases(tmp_path, 2)
    simulation = Simulation(known_answers(cases))

    def quote(body: dict[str, object], count: int) -> web.Response | None:
        """Fail every third request with a message that quotes the whole request and its key."""
        return (
            web.json_response({"error": {"message": f"{json.dumps(body)} {KEY}"}}, status=500 if count % 3 else 401) if count % 2 else None
        )

    caplog.set_level(logging.DEBUG, "chiron")
    with Endpoint(simulation.reply, override=quote) as endpoint:
        execute(cases, config_of(team(endpoint.base_url, model={"api_key_env": "SOME_KEY", "attempts": 3})), tmp_path / "run")
    text = caplog.text
    assert "a call of model " in text
    assert any("no more calls are sent: " in message for message in warnings(caplog))
    assert KEY not in text
    records = [json.loads(line) for line in cases.read_text().splitlines()]
    for piece in ("ladder", "seventh rib", "Rib fracture", *(record["id"] for record in records)):
        assert piece not in text


@pytest.mark.slow
@pytest.mark.usefixtures("short_waits")
def test_only_verbose_commands_print_retries(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 1)
    with Endpoint(Simulation(known_answers(cases)).reply, faults=Faults(http_500=0.2)) as endpoint:
        config = write_config(tmp_path / "c.yaml", team(endpoint.base_url))
        loud = chiron("--verbose", "search", cases, "--config", config, "--run", tmp_path / "a")
        quiet = chiron("search", cases, "--config", config, "--run", tmp_path / "b")
    assert loud.returncode == quiet.returncode == 0
    assert "info: a call of model " in loud.stderr
    assert "a call of model " not in quiet.stderr


@pytest.mark.slow
def test_a_command_prints_a_halt_once(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 1)
    config = write_config(tmp_path / "c.yaml", team("http://127.0.0.1:9/v1", model={"attempts": 1}))
    done = chiron("search", cases, "--config", config, "--run", tmp_path / "r")
    assert done.stderr.count("stopped: ") == 1
    assert "no more calls are sent" not in done.stderr


def test_a_model_that_has_not_answered_yet_is_reported_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    desk = desk_with(tmp_path, Traffic(down=[(0.0, 5.0)]))

    async def work() -> None:
        await ask_many(desk, 4)

    on_a_virtual_clock(desk, work)
    told = [message for message in warnings(caplog) if "has not answered yet, its calls are tried again: " in message]
    assert len(told) == 1
    assert told[0].startswith("model 'm' has")


def test_a_folder_restored_after_a_kill_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / ".out.old").mkdir()
    (tmp_path / ".out.old" / "mark").write_text("")
    with new_folder(tmp_path / "out", mark="mark", replace=True) as work:
        (work / "mark").write_text("")
    assert warnings(caplog) == [f"restored {tmp_path / 'out'}: a process was killed while it was replaced"]
    assert io.__name__ == caplog.records[0].name
