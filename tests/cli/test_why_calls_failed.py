"""Why calls failed is told by every command, in the server's words and without the patient's; and what helps is told with it."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from chiron.client.call import Reply
from chiron.client.ledger import Ledger
from tests.support.calls import Scripted, a_call, desk_over, endpoint_of, run
from tests.support.cases import known_answers, write_cases
from tests.support.command import chiron
from tests.support.endpoint import Endpoint, completion
from tests.support.runs import team, write_config
from tests.support.simulation import Simulation, prompt_of

pytestmark = pytest.mark.slow


def echoing(case: str, status: int, *, model: str | None = None) -> Any:
    """Refuses what concerns one case, and quotes the whole prompt while doing so."""

    def override(body: dict[str, Any], _: int) -> web.StreamResponse | None:
        prompt = prompt_of(body)
        if case not in prompt or (model is not None and body["model"] != model):
            return None
        return web.json_response({"error": {"message": f"the picture is too odd, in: {prompt}", "code": "odd_input"}}, status=status)

    return override


def searched(tmp_path: Path, override: Any, **search: Any) -> tuple[Path, Path, Any]:
    cases = write_cases(tmp_path / "cases", 3)
    with Endpoint(Simulation(known_answers(cases), skill=1.0).reply, override=override) as endpoint:
        config = write_config(tmp_path / "c.yaml", team(endpoint.base_url, model={"attempts": 1, "outage": 5}, **search))
        ended = chiron("search", cases, "--config", config, "--run", tmp_path / "run")
    return cases, tmp_path / "run", ended


def private_words(cases: Path, number: int) -> list[str]:
    case = json.loads(cases.read_text().splitlines()[number])
    return [case["question"], *case.get("findings", ()), *filter(None, [case.get("history")])]


def test_search_status_and_report_say_why_a_case_is_refused_and_do_not_advise_to_run_again(tmp_path: Path) -> None:
    cases = write_cases(tmp_path / "cases", 3)
    question = json.loads(cases.read_text().splitlines()[1])["question"]
    cases, where, ended = searched(tmp_path, echoing(question, 400))
    assert ended.returncode == 2, ended.stderr
    assert "1 pending" in ended.stderr
    assert "HTTP 400 (odd_input): the picture is too odd" in " ".join(ended.stderr.split())
    assert "run the same command again" not in ended.stderr
    assert "will be refused again" in ended.stderr
    status = chiron("status", where, "--failures")
    assert "HTTP 400 (odd_input): the picture is too odd" in status.stdout
    page = (where / "report.html").read_text()
    assert "the picture is too odd" in page
    rejected = (where / "rejected.jsonl").read_text()
    assert json.loads(rejected)["reason"] == "calls_refused"
    for words in private_words(cases, 1):
        assert words not in ended.stderr + status.stdout
        assert words not in json.loads(rejected)["detail"]


def test_what_may_change_is_run_again(tmp_path: Path) -> None:
    cases = write_cases(tmp_path / "cases", 3)
    question = json.loads(cases.read_text().splitlines()[1])["question"]
    ended = searched(tmp_path, echoing(question, 503))[2]
    assert ended.returncode == 3
    assert "run the same command again" in ended.stderr
    assert "the picture is too odd" in ended.stderr


def test_build_prints_no_words_of_the_case(tmp_path: Path) -> None:
    cases = write_cases(tmp_path / "cases", 2)
    with Endpoint(lambda _: "", override=echoing("", 400)) as endpoint:
        common = {"provider": "openai", "base_url": endpoint.base_url, "attempts": 1}
        config = tmp_path / "b.yaml"
        models = {name: {**common, "model": name} for name in ("author", "reader")}
        config.write_text(yaml.safe_dump({"models": models, "build": {"author": "author", "reader": "reader"}}))
        ended = chiron("build", "text", cases, "--config", config, "--out", tmp_path / "out")
    assert ended.returncode == 2
    assert "the picture is too odd" in ended.stderr
    said = ended.stderr + ended.stdout + (tmp_path / "out" / "dropped.jsonl").read_text()
    for line in cases.read_text().splitlines():
        case = json.loads(line)
        for words in [*case.get("findings", ()), *filter(None, [case.get("history")])]:
            assert words not in said


def test_a_judge_that_gives_no_verdict_makes_cases_unjudged_and_not_pending(tmp_path: Path) -> None:
    def override(body: dict[str, Any], _: int) -> web.StreamResponse | None:
        return web.json_response(completion("Perhaps.")) if body["model"] == "judge" else None

    _, where, ended = searched(tmp_path, override)
    assert ended.returncode == 2
    assert "3 unjudged, 0 pending" in ended.stderr
    assert "choose another judge" in " ".join(ended.stderr.split())
    assert {json.loads(line)["reason"] for line in (where / "rejected.jsonl").read_text().splitlines()} == {"no_verdict"}
    assert "3 unjudged" in chiron("status", where).stdout
    page = (where / "report.html").read_text()
    assert "the judge gave no verdict" in page


def test_replies_of_thinking_alone_are_counted_and_the_setting_is_named(tmp_path: Path) -> None:
    thought = completion(None)
    thought["choices"][0]["message"]["reasoning_content"] = "Let me see."

    def override(body: dict[str, Any], _: int) -> web.StreamResponse | None:
        return web.json_response(thought) if body["model"] == "intern-a" else None

    _, where, ended = searched(tmp_path, override)
    told = " ".join(ended.stderr.split())
    assert "replies of model 'intern-a' contain only thinking" in told
    assert "raise max_tokens" in told
    assert "only thinking" in chiron("status", where).stdout
    with Ledger.read(where / "ledger.sqlite") as ledger:
        (row,) = [s for s in ledger.spending() if s.model == "intern-a"]
    assert row.only_thinking == row.calls > 0
    assert row.retries == 0


def test_money_is_told_in_the_same_words_by_search_status_and_report(tmp_path: Path) -> None:
    thrown: list[int] = []

    def once_too_late(body: dict[str, Any], _: int) -> web.StreamResponse | None:
        if body["model"] == "judge" and not thrown:
            thrown.append(1)
            return web.Response(status=504, text="too late")
        return None

    cases = write_cases(tmp_path / "cases", 1)
    with Endpoint(Simulation(known_answers(cases), skill=1.0).reply, override=once_too_late) as endpoint:
        priced = {"price": {"input": 1.0, "output": 1.0}}
        config = write_config(tmp_path / "c.yaml", team(endpoint.base_url, model=priced))
        ended = chiron("search", cases, "--config", config, "--run", tmp_path / "run")
    spent = next(line for line in ended.stderr.splitlines() if line.startswith("spent $"))
    assert ", of which $" in spent
    assert spent in chiron("status", tmp_path / "run").stdout
    page = (tmp_path / "run" / "report.html").read_text()
    assert "possibly (calls without a reply)" in page


def test_words_that_an_earlier_version_recorded_are_not_shown(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "ledger.sqlite") as ledger:
        ledger.note_failure(a_call(), "transient", "m: HTTP 400: the prompt was: Ms Example", final=True)
    desk = desk_over(tmp_path, m=endpoint_of(Scripted(lambda *_: Reply("ok"))))

    async def work() -> None:
        desk.ledger.note_failure(a_call(), "caller", "m: HTTP 400: too odd 12", final=True)
        desk.ledger.note_failure(a_call(), "caller", "m: HTTP 400: too odd 13", final=True)
        reasons = [(reason.words, reason.count) for reason in desk.ledger.failure_reasons()]
        assert reasons == [("m: HTTP 400: too odd 13", 2), ("transient (recorded by an earlier version, without words)", 1)]

    run(desk, work)


@pytest.mark.parametrize(("finish", "told"), [("ran_into_the_wall", True), ("stop", False)])
def test_an_unknown_finish_reason_is_a_note(finish: str, *, told: bool, tmp_path: Path) -> None:
    cases = write_cases(tmp_path / "cases", 1)
    with Endpoint(Simulation(known_answers(cases), skill=1.0).reply, finish=lambda _: finish) as endpoint:
        config = write_config(tmp_path / "c.yaml", team(endpoint.base_url))
        ended = chiron("search", cases, "--config", config, "--run", tmp_path / "run")
    assert ended.returncode == 0, ended.stderr
    assert ("ended for a reason not known here ('ran_into_the_wall')" in " ".join(ended.stderr.split())) is told
