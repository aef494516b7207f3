"""An evaluation over real HTTP: N is kept, nothing is paid for twice, controls change what they say they change."""

import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from chiron.client.failures import ConfigurationError
from chiron.errors import InputError
from chiron.evaluation.api import compare_runs, evaluate
from chiron.evaluation.config import load_evaluation
from chiron.evaluation.controls import Control
from chiron.evaluation.evaluation import EvaluationSummary
from chiron.evaluation.items import ItemResult, Verdict, read_results
from chiron.evaluation.preparation import prepare_evaluation
from chiron.providers.baselines.models import match
from tests.evaluation import published
from tests.support.cases import write_png
from tests.support.command import CHIRON, chiron, environment, wait_for
from tests.support.endpoint import Endpoint, Faults, completion
from tests.support.simulation import prompt_of


def answers(body: dict[str, Any]) -> str:
    """Knows of vqa_rad that odd numbers are yes/no; chooses A of all of them."""
    prompt = prompt_of(body)
    if body["model"] == "judge":
        return match(prompt)
    if body["model"] == "intern":
        return f"### The final answer is: {'left lung' if 'dark' in prompt.partition('<reasoning>')[2] else 'heart'}"
    if "A. yes" in prompt or "A. no" in prompt:
        return "A"
    return "### Step 1: The image is dark.\n### Step 2: It is the left lung.\n### The final answer is: left lung"


def write(folder: Path, url: str, *, models: dict[str, Any] | None = None, **evaluation: Any) -> Path:
    common = {"provider": "openai", "base_url": url, "timeout": 10.0, **(models or {})}
    path = folder / "c.yaml"
    path.write_text(yaml.safe_dump({"models": {n: {**common, "model": n} for n in ("m", "judge", "intern")}, "evaluation": evaluation}))
    return path


def run(
    folder: Path,
    config: Path,
    *,
    benchmarks: tuple[str, ...] = ("vqa_rad",),
    control: Control = Control.NONE,
    into: str = "run",
    **more: Any,
) -> EvaluationSummary:
    chosen = load_evaluation(config, "m", **more)
    return asyncio.run(prepare_evaluation("m", benchmarks, folder / into, chosen, data=folder / "d", control=control).execute())


def lines(folder: Path, into: str = "run") -> list[ItemResult]:
    return list(read_results(folder / into / "items.jsonl"))


def images_of(body: dict[str, Any]) -> list[str]:
    content = body["messages"][-1]["content"]
    return [] if isinstance(content, str) else [part["image_url"]["url"] for part in content if part["type"] == "image_url"]


def test_only_closed_questions_are_asked_and_all_of_them_count(tmp_path: Path) -> None:
    published.vqa_rad(tmp_path / "d")
    with Endpoint(answers) as endpoint:
        summary = run(tmp_path, write(tmp_path, endpoint.base_url))
    (group,) = summary.groups
    assert (group["n"], group["right"], group["left_out"]) == (4, 2, {"open": 4})
    assert group["interval"] is not None
    assert group["accuracy"] == 0.5
    assert group["interval"][0] < 0.5 < group["interval"][1]
    assert [line.verdict for line in lines(tmp_path)] == [Verdict.RIGHT, Verdict.WRONG] * 2
    assert all(len(images_of(body)) == 1 for body in endpoint.seen.bodies)
    assert all(body["temperature"] == 0 for body in endpoint.seen.bodies)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert {"fingerprint", "revision", "images"} <= set(results["groups"][0]["data"])
    for name in ("protocol", "prompts", "parser", "answer_normalizer", "judge", "unparsed_rate", "seed", "n_of_benchmark"):
        assert name in group
    assert "chiron-med" in results["libraries"]


def test_run_again_it_asks_nothing_and_writes_the_same(tmp_path: Path) -> None:
    published.vqa_rad(tmp_path / "d")
    with Endpoint(answers) as endpoint:
        config = write(tmp_path, endpoint.base_url, protocol="exact")
        run(tmp_path, config)
        before, asked = (tmp_path / "run" / "items.jsonl").read_text(), endpoint.seen.requests
        (tmp_path / "run" / "items.jsonl").unlink()
        (tmp_path / "run" / "results.json").unlink()
        run(tmp_path, config)
        assert endpoint.seen.requests == asked == 8
    assert (tmp_path / "run" / "items.jsonl").read_text() == before


@pytest.mark.slow
def test_kill_nine_loses_only_what_was_under_way(tmp_path: Path) -> None:
    published.vqa_rad(tmp_path / "d", 80)
    with Endpoint(answers, latency=lambda _: 0.1) as endpoint:
        config = write(tmp_path, endpoint.base_url, models={"concurrency": 4})
        command = ["eval", "--model", "m", "--benchmarks", "vqa_rad", "--data", str(tmp_path / "d"), "--config", str(config)]
        full = [*command, "--protocol", "exact", "--run", str(tmp_path / "run")]
        process = subprocess.Popen([*CHIRON, *full], env=environment(), stderr=subprocess.DEVNULL, text=True)
        wait_for(endpoint, 24, process)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "run" / "items.jsonl").exists()
        ended = chiron(*full, "--json")
        assert ended.returncode == 0, ended.stderr
        paid_twice = sum(endpoint.seen.answered.values()) - len(endpoint.seen.answered)
        assert len(endpoint.seen.answered) == 80
        assert paid_twice <= 4
    assert json.loads(ended.stdout)["groups"][0]["n"] == 80
    assert len(lines(tmp_path)) == 80


def test_faults_leave_items_pending_and_a_second_run_mends_them(tmp_path: Path) -> None:
    published.vqa_rad(tmp_path / "d", 20)
    with Endpoint(answers, faults=Faults(http_500=0.5)) as endpoint:
        config = write(tmp_path, endpoint.base_url, models={"attempts": 1}, protocol="exact")
        first = run(tmp_path, config)
        assert first.pending > 0
        counted = Counter(line.verdict for line in lines(tmp_path))
        assert counted[Verdict.PENDING] == first.pending
        assert sum(counted.values()) == first.groups[0]["n"] == 20
        endpoint.faults = Faults()
        assert run(tmp_path, config).pending == 0
        assert len(lines(tmp_path)) == 20
        assert max(endpoint.seen.answered.values()) == 1


def test_an_endpoint_that_takes_no_images_is_told_of(tmp_path: Path) -> None:
    def refuse(body: dict[str, Any], _: int) -> web.Response | None:
        return web.json_response({"error": {"message": "no images", "code": "no_images"}}, status=400) if images_of(body) else None

    published.vqa_rad(tmp_path / "d", 40)
    with Endpoint(answers, override=refuse) as endpoint:
        config = write(tmp_path, endpoint.base_url, models={"concurrency": 1}, protocol="exact")
        summary = run(tmp_path, config)
        assert isinstance(summary.halted, ConfigurationError)
        assert any("does the model accept images?" in note for note in summary.notes)
        assert endpoint.seen.requests < 20
        assert len(lines(tmp_path)) == 40
        run(tmp_path, config, control=Control.NO_IMAGE)
    assert Counter((line.control, line.verdict == Verdict.PENDING) for line in lines(tmp_path)) == {
        ("none", True): 40,
        ("no-image", False): 40,
    }


def test_what_the_endpoint_refuses_of_one_item_is_that_items_fault(tmp_path: Path) -> None:
    def refuse(body: dict[str, Any], _: int) -> web.Response | None:
        if "number 3" not in prompt_of(body):
            return None
        return web.json_response({"error": {"message": "too long", "code": "context_length"}}, status=400)

    published.vqa_rad(tmp_path / "d")
    with Endpoint(answers, override=refuse) as endpoint:
        summary = run(tmp_path, write(tmp_path, endpoint.base_url, models={"concurrency": 1}))
    assert summary.pending == 0
    (bad,) = [line for line in lines(tmp_path) if line.verdict == Verdict.UNUSABLE]
    assert "context_length" in bad.problem
    assert summary.groups[0]["n"] == 4


def test_what_the_endpoint_refuses_of_all_items_is_not_theirs(tmp_path: Path) -> None:
    published.vqa_rad(tmp_path / "d")
    with Endpoint(answers, override=lambda _, __: web.json_response({"error": {"message": "no images"}}, status=400)) as endpoint:
        summary = run(tmp_path, write(tmp_path, endpoint.base_url))
        assert (summary.pending, summary.groups[0]["verdicts"]["pending"]) == (4, 4)
        endpoint.override = None
        assert run(tmp_path, write(tmp_path, endpoint.base_url)).pending == 0


def test_damaged_images_cost_nothing_and_the_items_between_them_are_asked(tmp_path: Path) -> None:
    rows = [{"image": [f"{n}.png"], "question": "is it?", "answer": "yes"} for n in range(30)]
    published.jsonl(tmp_path / "d" / "test.jsonl", rows)
    for number in range(30):
        whole = write_png(tmp_path / "d" / f"{number}.png", seed=number)
        if number % 3 == 0:
            whole.write_bytes(whole.read_bytes()[: -100 - number])
    with Endpoint(answers) as endpoint:
        run(tmp_path, write(tmp_path, endpoint.base_url))
    assert endpoint.seen.requests == 20
    assert [number for number, line in enumerate(lines(tmp_path)) if line.verdict == Verdict.UNUSABLE] == list(range(0, 30, 3))
    assert all(f"'{3 * n}.png' is truncated or damaged" in line.problem for n, line in enumerate(lines(tmp_path)[::3]))


def test_missing_images_and_too_many_are_unusable_and_stay_in_n(tmp_path: Path) -> None:
    rows = [{"image": name, "question": "is it?", "answer": "yes"} for name in (["a.png"], ["lost.png"], ["a.png"] * 33)]
    published.jsonl(tmp_path / "d" / "test.jsonl", rows)
    (tmp_path / "d" / "a.png").write_bytes(published.png())
    with Endpoint(answers) as endpoint:
        summary = run(tmp_path, write(tmp_path, endpoint.base_url, max_images=6))
    assert [line.verdict for line in lines(tmp_path)] == [Verdict.RIGHT, Verdict.UNUSABLE, Verdict.UNUSABLE]
    assert "lost.png' is missing" in lines(tmp_path)[1].problem
    assert "33 images, but the model takes at most 6" in lines(tmp_path)[2].problem
    assert (summary.groups[0]["n"], summary.groups[0]["accuracy"]) == (3, 1 / 3)


@pytest.mark.slow
def test_controls_add_up_in_one_directory(tmp_path: Path) -> None:
    published.vqa_rad(tmp_path / "d")
    with Endpoint(answers) as endpoint:
        config = write(tmp_path, endpoint.base_url)
        *_, summary = (run(tmp_path, config, control=control) for control in Control)
    assert [group["control"] for group in summary.groups] == [str(c) for c in Control]
    real, none, blank, swap, shuffled = ([line for line in lines(tmp_path) if line.control == c] for c in Control)
    assert all(line.images == () for line in none)
    assert all(a.images != b.images and b.images for a, b in zip(real, swap, strict=True))
    assert {line.images for line in swap} == {line.images for line in real}
    assert all(line.options == ("no", "yes") for line in shuffled)
    assert [line.verdict for line in shuffled] == [Verdict.WRONG, Verdict.RIGHT] * 2  # "A" is now "no"
    assert len({tuple(images_of(b)) for b in endpoint.seen.bodies}) == 4 + 1 + 1  # those there are, one grey, none
    assert [line.images for line in blank] == [line.images for line in real]


@pytest.mark.slow
def test_the_same_control_twice_takes_the_place_of_the_first_unless_it_is_smaller(tmp_path: Path) -> None:
    published.vqa_rad(tmp_path / "d")
    with Endpoint(answers) as endpoint:
        config = write(tmp_path, endpoint.base_url)
        summary = run(tmp_path, config, limit=2)
        assert (summary.groups[0]["n"], summary.groups[0]["n_of_benchmark"]) == (2, 4)
        (full,) = run(tmp_path, config).groups
        assert (full["n"], len(lines(tmp_path)), endpoint.seen.requests) == (4, 4, 4)
        with pytest.raises(InputError, match=r"has 4 answers to vqa_rad .*this run would replace them with 3"):
            run(tmp_path, config, limit=3)
        assert len(lines(tmp_path)) == 4
        published.vqa_rad(tmp_path / "d", 4)  # other data: what was measured on is gone
        assert run(tmp_path, config).groups[0]["n"] == len(lines(tmp_path)) == 2


def test_seeds_are_samples_or_orders(tmp_path: Path) -> None:
    published.vqa_rad(tmp_path / "d")
    with Endpoint(answers) as endpoint:
        config = write(tmp_path, endpoint.base_url)
        summary = run(tmp_path, config, seeds=3)
        assert endpoint.seen.requests == 12
        assert {body["temperature"] for body in endpoint.seen.bodies} == {0.7}
        assert any("temperature 0.7" in note for note in summary.notes)
        assert [s["of"] for s in summary.groups[0]["by_seed"]] == [4, 4, 4]
        assert (summary.groups[0]["n"], summary.groups[0]["seeds"]) == (4, 3)
        with pytest.raises(InputError, match=r"temperature: 0\.7 there, 0\.0 here"):
            run(tmp_path, config)
        with pytest.raises(InputError, match="several samples at temperature 0"):
            run(tmp_path, config, seeds=3, temperature=0.0, into="other")


@pytest.mark.slow
def test_the_interval_knows_of_shared_images_and_of_seeds(tmp_path: Path) -> None:
    """Ten times the answers about the same images are not ten times as sure; and both commands say the same."""
    published.vqa_rad(tmp_path / "d", 80)
    with Endpoint(answers) as endpoint:
        config = write(tmp_path, endpoint.base_url)
        (once,) = run(tmp_path, config).groups
        (often,) = run(tmp_path, config, into="often", seeds=10).groups
    assert once["interval"] is not None
    assert often["interval"] is not None
    low, high = once["interval"]
    assert (once["method"], often["method"]) == ("Wilson", "cluster t")
    assert often["of"] == 10 * once["of"]
    assert often["interval"][1] - often["interval"][0] > 0.9 * (high - low)
    (comparison,) = compare_runs([tmp_path / "often"])
    (cell,) = comparison.cells.values()
    assert list(cell.accuracy.share.interval or ()) == often["interval"]


def test_without_scipy_nothing_is_paid_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published.vqa_rad(tmp_path / "d")
    monkeypatch.setitem(sys.modules, "scipy", None)
    with Endpoint(answers) as endpoint:
        config = write(tmp_path, endpoint.base_url)
        with pytest.raises(InputError, match=r"need scipy .*chiron-med\[eval\]"):
            run(tmp_path, config)
        assert not endpoint.seen.answered


def test_a_directory_is_of_one_protocol(tmp_path: Path) -> None:
    published.vqa_rad(tmp_path / "d")
    with Endpoint(answers) as endpoint:
        config = write(tmp_path, endpoint.base_url)
        run(tmp_path, config)
        with pytest.raises(InputError, match=r"protocol: .*huatuo_closed.* there"):
            run(tmp_path, config, protocol="exact")


def test_the_full_protocol_judges_open_questions_and_wants_a_judge(tmp_path: Path) -> None:
    published.vqa_rad(tmp_path / "d")
    with Endpoint(answers) as endpoint:
        config = write(tmp_path, endpoint.base_url, protocol="medevalkit_full")
        with pytest.raises(InputError, match="needs a judge"):
            run(tmp_path, config)
        summary = run(tmp_path, config, judge="judge")
    assert summary.groups[0]["n"] == 8
    assert summary.groups[0]["judge"] == "judge"
    opened = [line for line in lines(tmp_path) if line.kind == "open"]
    assert all(line.verdict == Verdict.RIGHT and line.rule == "judge" and line.scores["token_recall"] == 1 for line in opened)
    assert endpoint.seen.most_in_flight["judge"] > 0


def test_a_judge_that_contradicts_itself_in_a_reply_is_asked_again_and_then_gives_no_verdict(tmp_path: Path) -> None:
    published.vqa_rad(tmp_path / "d")

    def reply(body: dict[str, Any]) -> str:
        if body["model"] != "judge":
            return answers(body)
        prompt = prompt_of(body)
        return "Yes and no." if "number 0" in prompt or len(seen(prompt)) == 1 else "No."

    def seen(prompt: str) -> list[str]:
        return [asked for body in endpoint.seen.bodies if body["model"] == "judge" and (asked := prompt_of(body)) == prompt]

    with Endpoint(reply) as endpoint:
        summary = run(tmp_path, write(tmp_path, endpoint.base_url, protocol="medevalkit_full", judge="judge"))
    opened = {line.question: line for line in lines(tmp_path) if line.kind == "open"}
    assert opened.pop("what is number 0?").verdict == Verdict.UNJUDGED
    assert {line.verdict for line in opened.values()} == {Verdict.WRONG}
    assert all(len(seen(prompt_of(body))) == 2 for body in endpoint.seen.bodies if body["model"] == "judge")
    assert any("gave no verdict on 1 of 8 items, which do not count as right" in note for note in summary.notes)


def test_a_judge_that_changes_its_mind_judges_equal_answers_once(tmp_path: Path) -> None:
    published.vqa_rad(tmp_path / "d")
    verdicts = ["yes", "no"] * 8

    def reply(body: dict[str, Any]) -> str:
        return verdicts.pop(0) if body["model"] == "judge" else "### The final answer is: yes"

    with Endpoint(reply) as endpoint:
        config = write(tmp_path, endpoint.base_url, protocol="chiron_judge", judge="judge")
        summary = run(tmp_path, config)
        first = (tmp_path / "run" / "items.jsonl").read_bytes()
        run(tmp_path, config)
        assert len([body for body in endpoint.seen.bodies if body["model"] == "judge"]) == 2  # against the known answers yes and no
    assert (tmp_path / "run" / "items.jsonl").read_bytes() == first
    by_known = {known: {line.verdict for line in lines(tmp_path) if line.answer == known} for known in ("yes", "no")}
    assert all(len(found) == 1 for found in by_known.values())
    assert summary.groups[0]["accuracy"] == 0.5


def test_a_text_only_model_is_sent_no_image_and_can_be_measured_without_images(tmp_path: Path) -> None:
    published.vqa_rad(tmp_path / "d")
    with Endpoint(answers) as endpoint:
        config = write(tmp_path, endpoint.base_url, max_images={"m": 0})
        summary = run(tmp_path, config)
        assert endpoint.seen.bodies == []
        assert (summary.groups[0]["n"], summary.groups[0]["verdicts"]["unusable"], summary.groups[0]["accuracy"]) == (4, 4, 0.0)
        assert "1 images, but the model takes at most 0" in lines(tmp_path)[0].problem
        blind = run(tmp_path, config, control=Control.NO_IMAGE, into="blind")
        assert "image_url" not in json.dumps(endpoint.seen.bodies)
    assert blind.groups[0]["verdicts"]["unusable"] == 0


def test_the_published_protocol_shows_both_counts(tmp_path: Path) -> None:
    published.vqa_rad(tmp_path / "d")

    def reply(body: dict[str, Any]) -> str:
        prompt = prompt_of(body)
        if body["model"] == "judge":
            return "Well, yes." if "\nyes\n" in prompt.partition("<known_answer>")[2].partition("</known_answer>")[0] else "They differ."
        return "I am not sure." if "number 1" in prompt else "### Step 1: x\n### The final answer is: yes"

    with Endpoint(reply) as endpoint:
        summary = run(tmp_path, write(tmp_path, endpoint.base_url, protocol="chiron_judge", judge="judge"))
    (group,) = summary.groups
    assert (group["verdicts"]["right"], group["verdicts"]["wrong"], group["verdicts"]["unparsed"]) == (1, 2, 1)
    assert group["accuracy"] == 1 / 4
    assert group["published_accuracy"] == 1 / 3
    judged = [body for body in endpoint.seen.bodies if body["model"] == "judge"]
    assert {body["temperature"] for body in judged} == {0.9}
    assert {body["max_tokens"] for body in endpoint.seen.bodies if body["model"] == "m"} == {1024}
    # As published: it compares two answers, and sees no question.
    assert [body["messages"][0]["role"] for body in judged] == ["user"] * len(judged)
    assert not any("is there a mass" in prompt_of(body) for body in judged)
    assert any("leaves out 4 of 8 items" in note for note in summary.notes)


def test_a_judge_beside_a_protocol_is_a_column_and_no_verdict(tmp_path: Path) -> None:
    published.vqa_rad(tmp_path / "d")
    with Endpoint(answers) as endpoint:
        config = write(tmp_path, endpoint.base_url)
        summary = run(tmp_path, config, judge="judge", extractor="judge")
    assert {name for line in lines(tmp_path) for name in line.scores} == {"judge:judge", "extractor:judge"}
    assert summary.groups[0]["scores"]["judge:judge"]["mean"] == summary.groups[0]["accuracy"] == 0.5


def test_the_mics_score_of_reasoning_stops_before_the_answer_is_named(tmp_path: Path) -> None:
    published.vqa_rad(tmp_path / "d", 4)
    with Endpoint(answers) as endpoint:
        config = write(tmp_path, endpoint.base_url, protocol="exact", judge="judge", interns=["intern"])
        run(tmp_path, config)
        asked = [prompt_of(b) for b in endpoint.seen.bodies if b["model"] == "intern"]
    opened = [line.scores for line in lines(tmp_path) if line.kind == "open"]
    # Step 2 names the answer: only the whole path shows it. Without a step the intern says heart, after the first one it knows.
    assert {tuple((n, v) for n, v in s.items() if n.startswith("mics")) for s in opened} == {
        (("mics_score", 1.0), ("mics_score_whole", 1.0), ("mics_score@0", 0.0), ("mics_score@1", 1.0))
    }
    shown = [prompt for prompt in asked if "what is number" in prompt]
    whole = [prompt for prompt in shown if "It is the left lung" in prompt]
    assert len(whole) == len(shown) / 3
    assert all("### Step 1: The image is dark.\n### Step 2: It is the left lung." in prompt for prompt in whole)
    assert all("known_answer" not in prompt for prompt in asked)


@pytest.mark.parametrize(("status", "score"), [(500, "pending"), (400, "refused"), (404, "refused")])
def test_a_missing_evaluation_leaves_the_score_pending_and_the_verdict_alone(tmp_path: Path, status: int, score: str) -> None:
    published.vqa_rad(tmp_path / "d", 2)

    def broken(body: dict[str, Any], _: int) -> web.Response | None:
        return web.json_response({}, status=status) if body["model"] == "intern" else web.json_response(completion(answers(body)))

    with Endpoint(answers, override=broken) as endpoint:
        config = write(tmp_path, endpoint.base_url, models={"attempts": 1}, protocol="exact", judge="judge", interns=["intern"])
        summary = run(tmp_path, config)
        assert summary.pending == 2
        # After a 404 the run stops, and an item that was not asked yet is pending: which one comes first is a matter of timing.
        because = str(summary.pending_because)
        assert f"a further score is {score}" in because or (status == 404 and "rejects every call" in because)
        assert summary.refused == (2 if status == 400 else summary.refused)
        assert any("2 of 2 items have a verdict but lack an extra score" in note for note in summary.notes)
        alone = [(line.verdict, line.reply) for line in lines(tmp_path)]
        assert Verdict.PENDING not in dict(alone)
        assert not any("mics_score" in line.scores for line in lines(tmp_path))
        endpoint.override = None
        assert run(tmp_path, config).pending == 0
    assert [(line.verdict, line.reply) for line in lines(tmp_path)] == alone
    assert all("mics_score" in line.scores and not line.problem for line in lines(tmp_path))


def test_the_budget_is_never_overshot(tmp_path: Path) -> None:
    published.vqa_rad(tmp_path / "d", 40)
    with Endpoint(answers) as endpoint:
        priced = {"price": {"input": 10.0, "output": 10.0}, "image_tokens": 100, "max_tokens": 50, "concurrency": 2}
        config = write(tmp_path, endpoint.base_url, models=priced, protocol="exact", budget_usd=0.03)
        summary = run(tmp_path, config)
        assert summary.halted is not None
        assert 0 < summary.spent_usd <= 0.03
        assert len(lines(tmp_path)) == 40
        with pytest.raises(InputError, match="a budget needs prices"):
            run(tmp_path, write(tmp_path, endpoint.base_url, budget_usd=1.0))


def test_from_python_also_where_a_loop_runs(tmp_path: Path) -> None:
    published.vqa_rad(tmp_path / "d")
    model = "offline:match/normalised"

    async def notebook() -> EvaluationSummary:
        return evaluate(model, ["vqa_rad"], tmp_path / "run", load_evaluation(None, model), data=tmp_path / "d", control="blank")

    (group,) = asyncio.run(notebook()).groups
    assert (group["control"], group["n"], group["verdicts"]["pending"]) == ("blank", 4, 0)


def test_two_runs_are_compared_from_python(tmp_path: Path) -> None:
    published.vqa_rad(tmp_path / "d")
    for model in ("match/normalised", "reader/rules"):
        evaluate(f"offline:{model}", ["vqa_rad"], tmp_path / model[:5], data=tmp_path / "d")
    (comparison,) = compare_runs([tmp_path / "match", str(tmp_path / "reade")], reference=tmp_path / "match")
    assert comparison.reference == "offline:match/normalised"
    assert comparison.tests == 1
    assert {cell.accuracy.asked for cell in comparison.cells.values()} == {4}


@pytest.mark.slow
def test_the_command_says_what_is_missing(tmp_path: Path) -> None:
    published.vqa_rad(tmp_path / "d")
    base = ("eval", "--model", "offline:match/normalised", "--run", tmp_path / "run", "--data", tmp_path / "d")
    for more, words in (
        (("--benchmarks", "vqa_rda"), "did you mean 'vqa_rad'?"),
        (("--benchmarks", "vqa_rad", "--control", "blanc"), "did you mean 'blank'?"),
        (("--benchmarks", "vqa_rad", "--protocol", "huatuo"), "unknown protocol"),
        (("--benchmarks", "slake"), "download test.json"),
        ((), "--benchmarks and --run are needed"),
    ):
        ended = chiron(*base, *more)
        assert ended.returncode == 2, ended.stderr
        assert words in " ".join(ended.stderr.split())
    ended = chiron(*base, "--benchmarks", "vqa_rad", "--json")
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["groups"][0]["n"] == 4
    listed = json.loads(chiron("eval", "--list", "--json").stdout)
    assert {"vqa_rad", "slake", "mmmu_health_test", "miniature_seen"} <= {b["name"] for b in listed["benchmarks"]}


@pytest.mark.slow
def test_the_command_says_which_items_are_unusable_and_why(tmp_path: Path) -> None:
    published.huatuo(tmp_path / "d", {"answer": "?"}, {"image": ["images/lost.png"]}, *({"answer": "Lymphoma"} for _ in range(2)))
    ended = chiron(
        "eval", "--model", "offline:reader/rules", "--benchmarks", "huatuo_omnimed", "--data", tmp_path / "d", "--run", tmp_path / "run"
    )
    assert ended.returncode == 0, ended.stderr
    said = " ".join(ended.stderr.split())
    assert "4 of 5 items are unusable and count as wrong (see items.jsonl)" in said
    assert "row 2: its answer is '?'" in said
    assert "is missing: it is not in" in said.replace("missing:it", "missing: it")
    assert "; and 1 more" in said


@pytest.mark.slow
def test_a_control_that_changes_nothing_costs_nothing(tmp_path: Path) -> None:
    published.vqa_rad(tmp_path / "d")
    more = ("--protocol", "exact", "--data", tmp_path / "d", "--run", tmp_path / "run", "--control", "shuffle-options")
    ended = chiron("eval", "--model", "offline:reader/rules", "--benchmarks", "vqa_rad", *more)
    assert ended.returncode == 2
    assert "changes nothing in vqa_rad" in " ".join(ended.stderr.split())
    assert not (tmp_path / "run").exists()


def test_an_image_is_read_once_and_sent_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published.huatuo(tmp_path / "d", *({"image": [f"images/own-{n}.png"]} for n in range(5)))
    files = [write_png(tmp_path / "d" / "images" / f"own-{n}.png", seed=n) for n in range(5)]
    contents = {path.read_bytes() for path in files}
    read: Counter[str] = Counter()
    real = Path.read_bytes

    def counted(path: Path) -> bytes:
        read[path.name] += 1
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", counted)
    with Endpoint(answers) as endpoint:
        run(tmp_path, write(tmp_path, endpoint.base_url), benchmarks=("huatuo_omnimed",))
        sent = {base64.b64decode(url.partition(",")[2]) for body in endpoint.seen.bodies for url in images_of(body)}
    assert contents <= sent
    assert [read[path.name] for path in files] == [1] * 5


@pytest.mark.slow
def test_a_command_imports_only_what_its_items_need(tmp_path: Path) -> None:
    published.huatuo(tmp_path / "d")
    heavy = {"numpy", "scipy", "torch", "transformers", "pandas", "datasets", "jinja2", "chiron.training.recipe", "chiron.phantom.world"}
    code = f"""
import sys
from chiron.__main__ import main
try:
    main()
finally:
    print(sorted({heavy!r} & sys.modules.keys()))
"""
    with Endpoint(answers) as endpoint:
        config = write(tmp_path, endpoint.base_url)
        more = (
            "eval",
            "--model",
            "m",
            "--benchmarks",
            "huatuo_omnimed",
            "--data",
            tmp_path / "d",
            "--run",
            tmp_path / "r",
            "--config",
            config,
        )
        ended = subprocess.run([sys.executable, "-c", code, *map(str, more)], capture_output=True, text=True, env=environment(), check=True)
    assert ended.stdout == "[]\n"
