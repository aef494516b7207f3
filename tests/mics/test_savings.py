"""Fewer and cheaper calls: forecasts of other policies, adaptive runs, images in two sizes, and prefixes that endpoints cache."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from PIL import Image

from chiron.client.call import cached_tokens
from chiron.client.config import Price
from chiron.errors import InputError
from chiron.mics.replay import forecast_overrides
from chiron.mics.run_directory import read_status
from chiron.mics.tree import read_tree
from chiron.reports.page import write_report
from experiments.adaptive import invented, table
from tests.support.cases import known_answers, write_cases
from tests.support.command import chiron
from tests.support.endpoint import Endpoint, completion
from tests.support.runs import config_of, execute, team
from tests.support.simulation import Simulation

PRICE = {"input": 2.0, "output": 8.0}


def search(tmp_path: Path, count: int = 12, name: str = "run", **how: Any) -> Path:
    cases = tmp_path / "cases.jsonl"
    if not cases.exists():
        write_cases(tmp_path, count)
    with Endpoint(Simulation(known_answers(cases)).reply) as endpoint:
        execute(cases, config_of(team(endpoint.base_url, model={"price": PRICE}, **how)), tmp_path / name)
    return tmp_path / name


def forecast(run: Path, *policy: str) -> dict[str, Any]:
    options = [word for one in policy for word in ("--forecast", one)]
    done = chiron("replay", run, *options, "--json")
    assert done.returncode == 0, done.stderr
    value: dict[str, Any] = json.loads(done.stdout)
    return value


@pytest.mark.slow
def test_a_forecast_of_adaptive_evaluation_is_what_an_adaptive_run_then_asks(tmp_path: Path) -> None:
    found = forecast(search(tmp_path), "adaptive")
    fewer = search(tmp_path, name="fewer", evaluation="adaptive")
    figures = {figure["name"]: figure for figure in found["figures"]}
    assert (found["cases"], found["priced"], found["unknown"], found["same_paths"]) == (12, 12, {}, 1.0)
    with_roles = {spent.role: 0 for spent in read_status(fewer).spending}
    for spent in read_status(fewer).spending:
        with_roles[spent.role] += spent.calls
    assert {role: figures[f"{role} calls"]["forecast"] for role in with_roles} == with_roles
    assert figures["USD"]["forecast"] == pytest.approx(read_status(fewer).spent_usd)
    assert figures["intern calls"]["forecast"] < figures["intern calls"]["recorded"]
    low, high = figures["calls"]["per_case_interval"]
    assert low <= figures["calls"]["per_case"] <= high


@pytest.mark.slow
def test_a_forecast_says_which_replies_the_ledger_lacks_and_prices_only_the_other_cases(tmp_path: Path) -> None:
    run = search(tmp_path)
    unknown = forecast(run, "temperatures=0.7")
    assert (unknown["priced"], unknown["unknown_share"], unknown["figures"], unknown["same_paths"]) == (0, 1.0, [], None)
    assert set(unknown["unknown"]) == {"intern intern-a at temperature 0.7"}
    known = forecast(run, "temperatures=0.2", "depth=1")
    assert known["priced"] + sum(known["unknown"].values()) == 12
    assert known["priced"] > 0


def test_a_forecast_needs_a_policy_that_exists(tmp_path: Path) -> None:
    assert forecast_overrides(["halving", "interns=a, b"]) == {"evaluation": "halving", "interns": ["a", "b"]}
    with pytest.raises(InputError, match="unknown policy 'racing'"):
        forecast_overrides(["racing"])
    done = chiron("replay", search(tmp_path, 1), "--forecast", "dept=2")
    assert done.returncode == 2
    assert "depth" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("evaluation", ["adaptive", "halving"])
def test_unfinished_candidates_are_bounded_and_never_full_scores_in_what_a_run_writes(tmp_path: Path, evaluation: str) -> None:
    run = search(tmp_path, evaluation=evaluation)
    unfinished = [
        c for tree in read_tree(run) for levels in tree["attempts"] for level in levels for c in level["candidates"] if c["not_asked"]
    ]
    assert unfinished
    for candidate in unfinished:
        possible = candidate["answered"] + candidate["not_asked"]
        assert candidate["mics_score"] is None
        assert candidate["highest"] == pytest.approx((candidate["correct"] + candidate["not_asked"]) / possible)
        assert not candidate["chosen"]
    assert json.loads((run / "run.json").read_text())["identity"]["evaluation"] == evaluation
    page = write_report(run).read_text()
    assert "at most" in page
    assert ("approximate" in page) == (evaluation == "halving")
    done = chiron("build", "rewards", run, "--out", tmp_path / "rewards")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "rewards" / "rows.jsonl").read_text().splitlines()]
    assert rows
    assert all(answered == 6 for row in rows for answered in row["signal"]["answered"])


def test_a_full_evaluation_keeps_its_identity_and_its_records(tmp_path: Path) -> None:
    run = search(tmp_path, 2)
    identity = json.loads((run / "run.json").read_text())["identity"]
    assert not {"evaluation", "mentor_image_side"} & set(identity)
    assert "not_asked" not in (run / "paths.jsonl").read_text()


def test_mentors_see_images_at_a_size_of_their_own(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 1)
    for path in (tmp_path / "images").rglob("*.png"):
        Image.new("RGB", (400, 200)).save(path)
    with Endpoint(Simulation(known_answers(cases)).reply) as endpoint:
        execute(cases, config_of(team(endpoint.base_url, image_side=300, mentor_image_side=100)), tmp_path / "run")
        sizes: dict[str, set[int]] = {"mentor": set(), "intern": set()}
        for body in endpoint.seen.bodies:
            for part in (part for message in body["messages"] if isinstance(message["content"], list) for part in message["content"]):
                if part["type"] == "image_url":
                    sizes[str(body["model"]).split("-")[0]].add(len(part["image_url"]["url"]))
    assert all(len(lengths) == 1 for lengths in sizes.values())
    assert sizes["mentor"].pop() < sizes["intern"].pop()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["identity"]["mentor_image_side"] == 100


def common_prefix(texts: Sequence[str]) -> str:
    first, last = min(texts), max(texts)
    return first[: next((at for at, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), len(first))]


class PrefixCache:
    """A server that counts a character as a token and caches the longest common prefix with earlier prompts of a model."""

    def __init__(self, answer: Any, form: str) -> None:
        self.answer, self.form = answer, form
        self.prompts: dict[str, list[str]] = {}
        self.reported = 0

    def __call__(self, body: dict[str, Any], _: int) -> web.Response:
        prompt, model = json.dumps(body["messages"]), str(body["model"])
        earlier = self.prompts.setdefault(model, [])
        cached = max((len(common_prefix([prompt, one])) for one in earlier), default=0)
        earlier.append(prompt)
        self.reported += cached
        reply = completion(self.answer(body), model=model, prompt_tokens=len(prompt))
        reply["usage"] |= {"prompt_tokens_details": {"cached_tokens": cached}} if self.form == "openai" else {self.form: cached}
        return web.json_response(reply)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["openai", "prompt_cache_hit_tokens", "cache_read_input_tokens"])
def test_reported_cached_tokens_are_kept_shown_and_priced(tmp_path: Path, form: str) -> None:
    cases = write_cases(tmp_path, 3)
    costs = {}
    for name, price in (("plain", PRICE), ("cached", {**PRICE, "cached_input": 0.5})):
        server = PrefixCache(Simulation(known_answers(cases)).reply, form)
        with Endpoint(lambda _: "", override=server) as endpoint:
            summary = execute(cases, config_of(team(endpoint.base_url, model={"price": price})), tmp_path / name)
        costs[name] = summary.spent_usd
        status = read_status(tmp_path / name)
        assert sum(row.cached_tokens for row in status.cached) == server.reported > 0
        saved = [row.saved_usd for row in status.cached]
        if name == "plain":
            assert saved == [None] * len(saved)
            continue
        prompts = sum(s.prompt_tokens for s in status.spending) * 2.0 + sum(s.completion_tokens for s in status.spending) * 8.0
        assert sum(filter(None, saved)) == pytest.approx(server.reported * 1.5 / 1e6)
        assert summary.spent_usd == pytest.approx(prompts / 1e6 - sum(filter(None, saved)))
        assert "prompt tokens were cached" in chiron("status", tmp_path / name).stdout
        assert "prompt tokens were cached" in write_report(tmp_path / name).read_text()


@pytest.mark.parametrize("system_role", ["system", "user"])
def test_a_request_begins_with_what_stays_the_same(tmp_path: Path, system_role: str) -> None:
    """System text, images and case come before the reasoning, which changes from call to call of a case."""
    cases = write_cases(tmp_path, 1)
    with Endpoint(Simulation(known_answers(cases), skill=0.0).reply) as endpoint:
        execute(cases, config_of(team(endpoint.base_url, model={"system_role": system_role})), tmp_path / "run")
        bodies = endpoint.seen.bodies
    for role in ("mentor-a", "intern-a"):
        prompts = sorted({json.dumps(body["messages"]) for body in bodies if body["model"] == role})
        assert any("<reasoning>" in prompt for prompt in prompts)
        assert len(prompts) > 1
        shared = common_prefix(prompts)
        assert "data:image" in shared
        assert ("</answer>" if role == "mentor-a" else "</history>") in shared


def test_only_counts_are_read_as_cached_tokens() -> None:
    assert cached_tokens({"prompt_tokens_details": {"cached_tokens": 7}}) == 7
    assert [cached_tokens(usage) for usage in (None, {}, {"cached_tokens": -1}, {"cached_tokens": True}, {"prompt_tokens_details": 3})] == [
        None
    ] * 5
    assert Price(input=2, output=3).cache_discount == 0


@pytest.mark.slow
def test_the_experiment_compares_ways_to_evaluate_on_the_same_cases() -> None:
    full, adaptive, halving = invented(12, 0, "verified")
    assert (adaptive.same, adaptive.retained, adaptive.true) == (12, full.retained, full.true)
    assert adaptive.calls < full.calls
    assert halving.calls < full.calls
    assert [line.split(" | ")[1] for line in list(table([[full, adaptive, halving]]))[2:]] == ["full", "adaptive", "halving"]
