"""Several samples of each item: votes, pass@k, best of k, calibration; from answers, over HTTP and on the command line."""

import itertools
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from chiron.evaluation.api import compare_runs
from chiron.evaluation.items import ItemResult, Verdict
from chiron.evaluation.samples import CalibrationRecord, calibration_of, pass_at, sample_scores, vote, votes
from tests.evaluation import published
from tests.evaluation.test_running import run
from tests.support.cases import write_png
from tests.support.command import chiron
from tests.support.endpoint import Endpoint
from tests.support.simulation import prompt_of


def answer(item: str, seed: int, given: str | None, *, right: bool = False, **scores: float | None) -> ItemResult:
    verdict = Verdict.UNPARSED if given is None else Verdict.RIGHT if right else Verdict.WRONG
    return ItemResult("b", item, verdict, "exact", seed=seed, given=given, scores={name.replace("_", ":"): v for name, v in scores.items()})


def calibration(results: Sequence[ItemResult]) -> CalibrationRecord | None:
    return calibration_of(votes(results))


def means(results: Sequence[ItemResult]) -> dict[str, float]:
    return {name: sum(value for value, _ in scored) / len(scored) for name, scored in sample_scores(results).items()}


def test_the_most_frequent_answer_is_elected_and_unread_samples_lower_its_share() -> None:
    elected = vote([answer("1", 0, "heart"), answer("1", 1, None), answer("1", 2, "Left lung", right=True), answer("1", 3, "lung, left")])
    assert (elected.chosen.seed, elected.chosen.right, elected.share) == (2, True, 0.5)


def test_of_equally_frequent_answers_the_first_one_given_wins() -> None:
    assert vote([answer("1", n, given) for n, given in enumerate(["b", "a", "a", "b"])]).chosen.given == "b"


def test_samples_without_any_answer_elect_nothing() -> None:
    elected = vote([answer("1", 0, None), answer("1", 1, None)])
    assert (elected.chosen.given, elected.share) == (None, 0.0)


@given(st.integers(1, 7).flatmap(lambda of: st.tuples(st.just(of), st.integers(0, of), st.integers(1, of))))
def test_pass_at_k_is_the_share_of_k_subsets_with_a_right_sample(case: tuple[int, int, int]) -> None:
    of, right, k = case
    subsets = list(itertools.combinations([n < right for n in range(of)], k))
    assert pass_at(k, right, of) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_one_sample_has_no_such_scores() -> None:
    assert sample_scores([answer("1", 0, "a"), answer("2", 0, "b")]) == {}
    assert calibration([answer("1", 0, "a")]) is None


def test_the_scores_count_items_and_not_samples() -> None:
    results = [
        *(answer("1", n, "a", right=True, rank_m=0.2) for n in range(2)),
        answer("1", 2, "b", rank_m=0.9),
        *(answer("2", n, "b", rank_m=0.1) for n in range(2)),
        answer("2", 2, "a", right=True, rank_m=None),
    ]
    assert means(results) == pytest.approx({"vote": 0.5, "pass@2": (1 + 2 / 3) / 2, "pass@3": 1.0, "best of 3 by rank:m": 0.0})


def test_scores_that_know_the_answer_choose_no_sample() -> None:
    results = [answer("1", n, "a", right=bool(n), judge_m=float(n)) for n in range(2)]
    assert not any(name.startswith("best") for name in sample_scores(results))


def test_pending_samples_are_left_out() -> None:
    results = [answer("1", 0, "a"), answer("1", 1, "b", right=True), ItemResult("b", "1", Verdict.PENDING, "exact", seed=2)]
    assert sorted(sample_scores(results)) == ["pass@2", "vote"]


def test_calibration_is_perfect_where_the_share_of_votes_is_the_share_of_right_answers() -> None:
    """Of ten items with a confidence of .6 each, six are right."""
    results = [
        answer(str(item), n, "x" if n < 3 else f"other {n}", right=(n < 3) == (item < 6) and n < 3) for item in range(10) for n in range(5)
    ]
    found = calibration(results)
    assert found is not None
    assert found["ece"] == pytest.approx(0.0)
    assert found["brier"] == pytest.approx(0.24)
    assert found["bins"] == [{"confidence": pytest.approx(0.6), "accuracy": pytest.approx(0.6), "n": 10}]


def test_abstaining_leaves_fewer_and_surer_answers() -> None:
    results = [
        *(answer("sure", n, "a", right=True) for n in range(4)),
        *(answer("unsure", n, given) for n, given in enumerate(["a", "b", "a", "c"])),
    ]
    found = calibration(results)
    assert found is not None
    assert [(p["threshold"], p["coverage"], p["accuracy"]) for p in found["abstention"]] == [(0.5, 1.0, 0.5), (1.0, 0.5, 1.0)]


def sampled(body: dict[str, Any]) -> str:
    """Answers left lung in three of five replies; the ranker and the reward model prefer exactly these."""
    prompt = prompt_of(body)
    if body["model"] == "ranker":
        return "The number is 95." if "left lung" in prompt else "5"
    if body["model"] == "rewarder":
        return "+" if "dark" in prompt.rpartition("### Step")[2] or "Solution Process" in prompt else "-"
    if body.get("seed", 0) % 5 in {0, 3, 4}:
        return "### Step 1: A film.\n### Step 2: Black.\n### Step 3: The image is dark.\n### The final answer is: left lung"
    return "### Step 1: A film.\n### Step 2: Bright.\n### Step 3: It is bright.\n### The final answer is: heart"


def configured(folder: Path, url: str) -> Path:
    path = folder / "c.yaml"
    common = {"provider": "openai", "base_url": url, "timeout": 10.0}
    path.write_text(yaml.safe_dump({"models": {n: {**common, "model": n} for n in ("m", "ranker", "rewarder")}}))
    return path


@pytest.mark.slow
def test_an_evaluation_with_samples_reports_votes_and_reranked_answers(tmp_path: Path) -> None:
    published.vqa_rad(tmp_path / "d")
    choices = random.Random(0)
    with Endpoint(lambda body: sampled({**body, "seed": choices.randrange(5)})) as endpoint:
        config = configured(tmp_path, endpoint.base_url)
        found = run(tmp_path, config, seeds=5, protocol="medevalkit_full", judge="ranker", ranker="ranker", reward_model="rewarder")
        asked = endpoint.seen.requests
        again = run(tmp_path, config, seeds=5, protocol="medevalkit_full", judge="ranker", ranker="ranker", reward_model="rewarder")
        assert endpoint.seen.requests == asked
    (group,) = found.groups
    assert group["scores"] == again.groups[0]["scores"]
    assert {"vote", "pass@2", "pass@4", "pass@5", "best of 5 by rank:ranker", "best of 5 by reward:rewarder"} <= group["scores"].keys()
    assert group["scores"]["vote"]["n"] == group["n"]
    assert group["calibration"] is not None
    (comparison,) = compare_runs([tmp_path / "run"])
    (cell,) = comparison.cells.values()
    assert cell.scores["pass@5"].value == pytest.approx(group["scores"]["pass@5"]["mean"])
    assert cell.scores["vote"].interval is not None


@pytest.mark.slow
def test_the_reward_model_is_asked_as_it_was_trained(tmp_path: Path) -> None:
    published.vqa_rad(tmp_path / "d")
    with Endpoint(lambda body: sampled({**body, "seed": 0})) as endpoint:
        run(tmp_path, configured(tmp_path, endpoint.base_url), reward_model="rewarder", limit=1)
        bodies = [body for body in endpoint.seen.bodies if body["model"] == "rewarder"]
    turns = [(m["role"], m["content"] if isinstance(m["content"], str) else m["content"][-1]["text"]) for m in bodies[-1]["messages"]]
    (_, first), *rest = turns
    assert first.startswith("### Question:\n")
    assert first.endswith("\n\n### Solution Process:\n### Step 1: A film.\n### Step 2: Black.")
    assert rest == [("assistant", "+"), ("user", "### Step 3: The image is dark.")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("reply", "score"), [("80", 0.8), ("80/100", 0.8), ("<think>7</think> 80 %", 0.8), ("80 or 90", None), ("101", None)]
)
def test_a_rating_is_one_number_from_0_to_100(tmp_path: Path, reply: str, score: float | None) -> None:
    published.vqa_rad(tmp_path / "d")
    with Endpoint(lambda body: reply if body["model"] == "ranker" else "A") as endpoint:
        run(tmp_path, configured(tmp_path, endpoint.base_url), ranker="ranker", limit=1)
    (line,) = (tmp_path / "run" / "items.jsonl").read_text().splitlines()
    assert json.loads(line)["scores"]["rank:ranker"] == score


@pytest.mark.slow
def test_ask_prints_the_reply_that_most_samples_agree_with(tmp_path: Path) -> None:
    image, numbers = write_png(tmp_path / "0.png"), itertools.count()
    with Endpoint(lambda body: sampled({**body, "seed": next(numbers)})) as endpoint:
        ended = chiron("ask", image, "Where?", "--model", "m", "--config", configured(tmp_path, endpoint.base_url), "--samples", "5")
        assert [body["temperature"] for body in endpoint.seen.bodies] == [0.7] * 5
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.endswith("### The final answer is: left lung\n")
    assert "3 of 5 samples give this answer; others: heart (2)" in ended.stderr
