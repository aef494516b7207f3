"""Claims of a reply's steps, checked by a judge against findings or a report."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from chiron.client.prompts import read_section
from chiron.errors import InputError
from chiron.evaluation.claims import read_claims
from chiron.evaluation.config import load_evaluation
from chiron.evaluation.evaluation import EvaluationSummary
from chiron.evaluation.figures import scores
from chiron.evaluation.item_page import write_item_page
from chiron.evaluation.items import ItemResult, read_results
from chiron.evaluation.preparation import prepare_evaluation
from chiron.evaluation.read_runs import read_evaluations
from tests.evaluation import published
from tests.evaluation.test_reports import FINDINGS, r2gen
from tests.support.command import chiron
from tests.support.endpoint import Endpoint
from tests.support.simulation import prompt_of

STEPS = "### Step 1: There is an effusion.\n### Step 2: A mass is seen. The heart is large.\n### The final answer is: left lung"
CHECKED = "1 | supported | There is an effusion.\n2 | contradicted | A mass is seen.\nStep 2 | not_mentioned | The heart is large."


@pytest.mark.parametrize(
    ("reply", "verdicts"),
    [
        (CHECKED, [(1, "supported"), (2, "contradicted"), (2, "not mentioned")]),
        ("Here they are:\n- 1 | **Supported** | x\n", [(1, "supported")]),
        ("| Step | Verdict | Claim |\n|---|---|---|\n| 2 | not mentioned | a mass |", [(2, "not mentioned")]),
        ("<think>1 | contradicted | x</think>1 | supported | x", [(1, "supported")]),
        ("1 | contradicted | The verdict is a mass\n1 | supported | x", [(1, "contradicted"), (1, "supported")]),
        ("No claims.", []),
        ("1 | unclear | x", None),
        ("3 | supported | there are two steps", None),
        ("0 | supported | x", None),
        ("1 | supported |", None),
        ("All of it is supported.", None),
        ("", None),
    ],
)
def test_claims_are_read_only_if_every_line_is_in_the_form(reply: str, verdicts: list[tuple[int, str]] | None) -> None:
    found = read_claims(reply, 2)
    assert (None if found is None else [(claim["step"], claim["verdict"]) for claim in found]) == verdicts


def write(folder: Path, url: str, **evaluation: Any) -> Path:
    models = {name: {"provider": "openai", "base_url": url, "model": name} for name in ("m", "strict")}
    (folder / "c.yaml").write_text(json.dumps({"models": models, "evaluation": {"checkers": ["strict"], **evaluation}}))
    return folder / "c.yaml"


def references(folder: Path, *lines: dict[str, Any]) -> Path:
    return published.jsonl(folder / "references.jsonl", [{"benchmark": "vqa_rad", **line} for line in lines])


def run(folder: Path, config: Path, benchmark: str = "vqa_rad", file: Path | None = None) -> EvaluationSummary:
    chosen = load_evaluation(config, "m")
    return asyncio.run(prepare_evaluation("m", [benchmark], folder / "run", chosen, data=folder / "d", references=file).execute())


def lines(folder: Path) -> list[ItemResult]:
    return list(read_results(folder / "run" / "items.jsonl"))


def answers(checks: dict[str, str]) -> Any:
    def reply(body: dict[str, Any]) -> str:
        return STEPS if body["model"] == "m" else checks[read_section(prompt_of(body), "reference") or ""]

    return reply


@pytest.mark.slow
def test_claims_of_steps_are_counted_by_verdict_and_step_and_replayed_without_calls(tmp_path: Path) -> None:
    published.vqa_rad(tmp_path / "d")
    ids = [f"vqa_rad-{n:05d}" for n in (1, 3, 5, 7)]
    checks = {"Effusion.": CHECKED, "Mass.": "1 | supported | x", "Nothing.": "No claims", "Hm.": "I cannot say."}
    file = references(tmp_path, *({"id": id_, "reference": text} for id_, text in zip(ids, checks, strict=True)))
    with Endpoint(answers(checks)) as endpoint:
        config = write(tmp_path, endpoint.base_url, protocol="exact")
        summary = run(tmp_path, config, file=file)
        asked = [prompt_of(body) for body in endpoint.seen.bodies if body["model"] == "strict"]
        assert len(asked) == 5  # "I cannot say." was asked twice
        before = (tmp_path / "run" / "items.jsonl").read_bytes()
        run(tmp_path, config, file=file)
        assert len([body for body in endpoint.seen.bodies if body["model"] == "strict"]) == 5
    assert (tmp_path / "run" / "items.jsonl").read_bytes() == before
    assert all("### Step 2: A mass is seen." in prompt and "left lung" not in prompt for prompt in asked)
    found = {line.id: line for line in lines(tmp_path)}
    assert found[ids[0]].claims["strict"][1] == {"step": 2, "verdict": "contradicted", "claim": "A mass is seen."}
    assert found[ids[2]].claims == {"strict": []}
    assert found[ids[3]].claims == {}
    figures = scores([*found.values()])
    assert figures["claims_supported:strict"].value == pytest.approx(2 / 4)
    assert figures["claims_supported:strict@1"].value == 1.0
    assert figures["claims_contradicted:strict@2"].value == pytest.approx(1 / 2)
    assert figures["claims_not_mentioned:strict"].value == pytest.approx(1 / 4)
    assert figures["claims_supported:strict"].of == 3
    assert figures["claims_supported:strict"].interval is not None
    (group,) = summary.groups
    assert group["scores"]["claims_supported:strict"] == {"mean": 0.5, "n": 3}
    assert group["columns_by"]["checkers"] == ["strict"]
    assert len(group["columns_by"]["claims_rubric"]) == 64
    page = write_item_page(read_evaluations([tmp_path / "run"]), tmp_path / "items.html", {}).read_text()
    assert "step 2 contradicted (strict): A mass is seen." in page
    assert "/part" not in page
    shown = chiron("compare", str(tmp_path / "run"), "--format", "markdown")
    assert "claims\\_supported:strict" in shown.stdout
    assert "/part" not in shown.stdout


def test_a_report_is_checked_against_the_known_report(tmp_path: Path) -> None:
    r2gen(tmp_path / "d" / "iu_xray")
    with Endpoint(answers({f"{FINDINGS} {n}.": "1 | supported | x" for n in (2, 3)})) as endpoint:
        run(tmp_path, write(tmp_path, endpoint.base_url), "iu_xray")
        prompts = [prompt_of(body) for body in endpoint.seen.bodies if body["model"] == "strict"]
    assert len(prompts) == 2
    assert [line.scores["claims_supported:strict/part"] for line in lines(tmp_path)] == [1.0, 1.0]


def test_the_rubric_of_claims_may_be_ones_own(tmp_path: Path) -> None:
    r2gen(tmp_path / "d" / "iu_xray")
    (tmp_path / "rubric.txt").write_text("MY RUBRIC $question $reference $steps")
    with Endpoint(lambda body: STEPS if body["model"] == "m" else "No claims") as endpoint:
        run(tmp_path, write(tmp_path, endpoint.base_url, prompts={"claims": "rubric.txt"}), "iu_xray")
        assert all("MY RUBRIC" in prompt_of(body) for body in endpoint.seen.bodies if body["model"] == "strict")


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (None, "give a JSONL file of them with --references"),
        ([{"id": "vqa_rad-00001", "reference": " "}], "its reference is empty"),
        ([{"id": "vqa_rad-99999", "reference": "x"}], "'vqa_rad-99999' of vqa_rad does not exist"),
        ([{"id": "vqa_rad-00001", "reference": "x"}] * 2, "has two references"),
    ],
)
def test_unusable_references_are_rejected_before_a_call(tmp_path: Path, given: list[dict[str, Any]] | None, problem: str) -> None:
    published.vqa_rad(tmp_path / "d")
    file = None if given is None else references(tmp_path, *given)
    with pytest.raises(InputError, match=problem):
        run(tmp_path, write(tmp_path, "http://127.0.0.1:9", protocol="exact"), file=file)


def test_references_without_a_checker_are_rejected(tmp_path: Path) -> None:
    published.vqa_rad(tmp_path / "d")
    file = references(tmp_path, {"id": "vqa_rad-00001", "reference": "x"})
    with pytest.raises(InputError, match="name one with --checkers"):
        run(tmp_path, write(tmp_path, "http://127.0.0.1:9", protocol="exact", checkers=[]), file=file)
