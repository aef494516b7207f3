"""A forecast of a search or a build sends nothing, and what happens then lies within it."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web
from typer.testing import CliRunner

from chiron.cli.app import app
from chiron.jobs.forecast import student_quantile
from chiron.mics.prompts import template
from tests.support.batch_endpoint import BatchEndpoint
from tests.support.cases import known_answers, write_cases
from tests.support.command import Cli
from tests.support.endpoint import Endpoint, completion
from tests.support.runs import team, write_config
from tests.support.simulation import Simulation

PRICE = {"price": {"input": 1.0, "output": 2.0}}


def report(cli: Cli, *arguments: object) -> dict[str, Any]:
    ended = cli([*map(str, arguments), "--json"])
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def calls_of(spending: list[dict[str, Any]]) -> dict[tuple[str, str], int]:
    return {(spent["role"], spent["model"]): spent["calls"] for spent in spending}


def need_within(forecast: dict[str, Any], asked: dict[tuple[str, str], int]) -> None:
    for role in forecast["roles"]:
        added = asked.get((role["role"], role["model"]), 0) - role["known"]
        assert role["calls_at_least"] <= added <= role["calls_at_most"], role


@pytest.mark.slow
@pytest.mark.parametrize("freedom", [2, 3, 5, 9, 30, 1000])
def test_intervals_of_few_cases_are_as_wide_as_students(freedom: int) -> None:
    from scipy import stats

    assert student_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=0.01)


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    assert CliRunner().invoke(app, ["sample", str(tmp_path / "s"), "--count", "40", "--size", "64"]).exit_code == 0
    (tmp_path / "o.yaml").write_text(template("offline"))
    return tmp_path / "s" / "cases.jsonl"


@pytest.mark.slow
def test_an_offline_search_ends_within_its_forecast(sample: Path, tmp_path: Path, cli: Cli) -> None:
    start = ["search", sample, "--config", tmp_path / "o.yaml", "--run", tmp_path / "r"]
    before = report(cli, *start, "--dry-run")
    assert not (tmp_path / "r").exists()
    assert (before["items"], before["answered"]) == (40, 0)
    projected = report(cli, *start, "--dry-run", "--pilot", "12")
    assert projected["answered"] == 12
    done = calls_of(report(cli, *start)["spending"])
    need_within(before, done)
    need_within(projected, done)
    widths = [sum(role["calls_at_most"] - role["calls_at_least"] for role in found["roles"]) for found in (before, projected)]
    assert widths[1] < widths[0]
    assert {role["calls"] for role in report(cli, *start, "--dry-run")["roles"]} == {0}


@pytest.mark.slow
@pytest.mark.parametrize("part", ["text", "questions"])
def test_an_offline_build_ends_within_its_forecast(sample: Path, tmp_path: Path, cli: Cli, part: str) -> None:
    data = yaml.safe_load(template("offline"))
    data["build"]["read_questions"] = True
    config = write_config(tmp_path / "q.yaml", data)
    start = ["build", part, sample, "--config", config, "--out", tmp_path / part]
    before = report(cli, *start, "--dry-run")
    assert not (tmp_path / part).exists()
    projected = report(cli, *start, "--dry-run", "--pilot", "10")
    done = calls_of(report(cli, *start)["spending"])
    assert sum(done.values()) > 40
    need_within(before, done)
    need_within(projected, done)


@pytest.mark.slow
def test_a_pilot_is_paid_once_and_gives_the_costs_of_the_rest(tmp_path: Path, cli: Cli) -> None:
    cases = write_cases(tmp_path / "c", 30)
    with Endpoint(Simulation(known_answers(cases)).reply) as endpoint:
        config = write_config(tmp_path / "c.yaml", team(endpoint.base_url, model=PRICE))
        start = ["search", cases, "--config", config, "--run", tmp_path / "r"]
        before = report(cli, *start, "--dry-run")
        assert endpoint.seen.requests == 0
        after = report(cli, *start, "--dry-run", "--pilot", "8")
        asked = endpoint.seen.requests
        assert asked == sum(role["known"] for role in after["roles"])
        assert report(cli, *start, "--dry-run", "--pilot", "8") == after
        assert endpoint.seen.requests == asked
        spent = report(cli, "status", tmp_path / "r")["spent_usd"]
        done = report(cli, *start)
        assert endpoint.seen.requests == sum(calls_of(done["spending"]).values())
    assert before["usd_at_least"] is None
    assert 0 < spent < done["spent_usd"] < before["usd_at_most"]
    assert after["usd_at_least"] <= done["spent_usd"] - spent <= after["usd_at_most"] < before["usd_at_most"]


@pytest.mark.slow
def test_prompts_that_the_endpoint_caches_are_projected_at_what_they_cost(tmp_path: Path, cli: Cli) -> None:
    cases = write_cases(tmp_path / "c", 20)
    world = Simulation(known_answers(cases))

    def cached(body: dict[str, Any], _: int) -> web.Response:
        reply = completion(world.reply(body), model=body["model"], prompt_tokens=1000)
        reply["usage"]["prompt_tokens_details"] = {"cached_tokens": 900}
        return web.json_response(reply)

    with Endpoint(world.reply, override=cached) as endpoint:

        def start(**price: float) -> list[Any]:
            config = write_config(tmp_path / "c.yaml", team(endpoint.base_url, model={"price": {"output": 2.0, **price}}))
            return ["search", cases, "--config", config, "--run", tmp_path / "r"]

        found = report(cli, *start(input=1.0, cached_input=0.1), "--dry-run", "--pilot", "8")
        dearer = report(cli, *start(input=10.0, cached_input=10.0), "--dry-run")
        spent = report(cli, "status", tmp_path / "r")["spent_usd"]
        done = report(cli, *start(input=1.0, cached_input=0.1))
    assert found["usd_at_least"] <= done["spent_usd"] - spent <= found["usd_at_most"]
    for role in dearer["roles"]:  # what the pilot paid says nothing about another price
        assert role["usd"] == pytest.approx((role["prompt_tokens"] * 10.0 + role["completion_tokens"] * 2.0) / 1e6)


@pytest.mark.slow
def test_the_time_of_batches_is_not_projected(tmp_path: Path, cli: Cli) -> None:
    cases = write_cases(tmp_path / "c", 6)
    with BatchEndpoint(Simulation(known_answers(cases)).reply) as endpoint:
        config = write_config(tmp_path / "c.yaml", team(endpoint.base_url, model={"batch": {"quiet": 0.02, "poll": 0.01}}))
        start = ["search", str(cases), "--config", str(config), "--run", str(tmp_path / "r"), "--dry-run"]
        found = report(cli, *start, "--pilot", "3")
        shown = cli(start).stdout
    assert all(role["measured"] and role["seconds"] is None for role in found["roles"])
    assert found["seconds"] is None
    assert "time unknown (batches take as long as the provider wants)" in shown


@pytest.mark.slow
def test_the_forecast_says_what_its_ranges_are(sample: Path, tmp_path: Path, cli: Cli) -> None:
    start = ["search", str(sample), "--config", str(tmp_path / "o.yaml"), "--run", str(tmp_path / "r")]
    shown = cli([*start, "--dry-run"]).stdout
    assert "These are limits if all replies can be read" in shown
    assert "Nothing was sent." in shown
    shown = cli([*start, "--dry-run", "--pilot", "5"]).stdout
    assert "projected from 5 answered cases" in shown
    assert "Nothing else was sent." in shown
    refused = cli([*start, "--pilot", "5"])
    assert refused.returncode == 2
    assert "--pilot belongs to --dry-run" in refused.stderr
