"""Results for other tools, read back by huggingface_hub's own parser, and with the keys of lm-evaluation-harness."""

import json
import statistics
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard, ModelCardData

from chiron.evaluation.items import ItemResult, Verdict
from tests.support.command import Cli
from tests.support.evaluations import an_item, with_verdict, write_evaluation


def some(benchmark: str, *verdicts: Verdict) -> list[ItemResult]:
    return [with_verdict(an_item(number, benchmark=benchmark), verdict) for number, verdict in enumerate(verdicts)]


def run(folder: Path, name: str = "org/Model-8B") -> Path:
    """Three of four right on one benchmark of a shared data set, one of two on another; a text benchmark; a control, which is left out."""
    verdicts = (Verdict.RIGHT, Verdict.RIGHT, Verdict.RIGHT, Verdict.UNPARSED)
    rad = [
        replace(with_verdict(an_item(n, benchmark="huatuo_vqa_rad"), verdict), scores={"judge:j": 1.0})
        for n, verdict in enumerate(verdicts)
    ]
    slake = [with_verdict(an_item(n, benchmark="huatuo_slake"), verdict) for n, verdict in enumerate((Verdict.RIGHT, Verdict.WRONG))]
    text: list[ItemResult] = [
        an_item(0, benchmark="medqa", images=()),
        with_verdict(an_item(1, benchmark="medqa", images=()), Verdict.PENDING),
    ]
    group = {"benchmark": "huatuo_vqa_rad", "control": "none", "protocol": "huatuo_closed", "n_of_benchmark": 251, "limit": 4}
    groups: list[Mapping[str, object]] = [{**group, "data": {"fingerprint": "f" * 64, "images": None}}]
    return write_evaluation(folder / "run", name, [*rad, *slake, *text, an_item(0, benchmark="huatuo_vqa_rad", control="blank")], groups)


def test_a_model_index_is_read_back_by_the_hubs_own_parser(tmp_path: Path, cli: Cli) -> None:
    ended = cli(["compare", str(run(tmp_path)), "--format", "model-index"])
    assert ended.returncode == 0, ended.stderr
    card = ModelCard(f"---\nlicense: mit\n{ended.stdout}---\n# A model\n")
    assert isinstance(card.data, ModelCardData)
    assert card.data.model_name == "org/Model-8B"
    results = {(r.dataset_config, r.metric_type): r for r in card.data.eval_results or []}
    assert sorted(results) == [
        ("huatuo_slake", "accuracy"),
        ("huatuo_vqa_rad", "accuracy"),
        ("huatuo_vqa_rad", "judge:j"),
        ("medqa", "accuracy"),
    ]
    rad = results["huatuo_vqa_rad", "accuracy"]
    assert (rad.metric_value, rad.dataset_type) == (0.75, "FreedomIntelligence/Medical_Multimodal_Evaluation_Data")
    assert (rad.task_type, rad.dataset_name) == ("visual-question-answering", "VQA-RAD_test in HuatuoGPT-Vision's bundle")
    about = rad.metric_args or {}
    assert {k: v for k, v in about.items() if k != "interval_95"} == {
        "protocol": "huatuo_closed",
        "n": 4,
        "n_of_benchmark": 251,
        "unparsed": 1,
    }
    assert about["interval_95"][0] < 0.75 < about["interval_95"][1]
    medqa = results["medqa", "accuracy"]
    assert (medqa.task_type, medqa.metric_value, (medqa.metric_args or {})["pending"]) == ("question-answering", 0.5, 1)


def test_the_results_file_of_lm_eval(tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "results.json"
    ended = cli(["compare", str(run(tmp_path)), "--format", "lm-eval", "--out", str(out)])
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(out.read_text())
    rad = found["results"]["huatuo_vqa_rad"]
    assert (rad["alias"], rad["sample_len"], rad["acc,none"]) == ("huatuo_vqa_rad", 4, 0.75)
    assert rad["acc_stderr,none"] == pytest.approx(statistics.stdev([1, 1, 1, 0]) / 4**0.5)  # as lm-eval's mean_stderr
    assert (rad["judge:j,none"], found["higher_is_better"]["huatuo_vqa_rad"]) == (1.0, {"acc": True, "judge:j": True})
    assert found["n-samples"]["huatuo_vqa_rad"] == {"original": 251, "effective": 4}
    tasks = ["huatuo_vqa_rad", "huatuo_slake", "medqa"]
    assert [list(found[key]) for key in ("results", "configs", "versions", "n-shot", "n-samples")] == [tasks] * 5
    assert found["configs"]["medqa"]["dataset_path"] == "GBaker/MedQA-USMLE-4-options"
    assert (found["model_name"], found["model_name_sanitized"]) == ("org/Model-8B", "org__Model-8B")
    assert found["task_hashes"] == {"huatuo_vqa_rad": "f" * 64}


@pytest.mark.parametrize("form", ["model-index", "lm-eval"])
def test_two_models_are_refused(tmp_path: Path, cli: Cli, form: str) -> None:
    runs = [str(run(tmp_path / name, name)) for name in ("A", "B")]
    ended = cli(["compare", *runs, "--format", form])
    assert (ended.returncode, f"--format {form} is for one model, but these runs have 2 (A, B)" in " ".join(ended.stderr.split())) == (
        2,
        True,
    )
