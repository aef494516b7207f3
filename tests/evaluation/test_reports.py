"""Report generation: benchmarks on made-up records of the published schemas, the protocol, and the scores of reports."""

import asyncio
import csv
import json
from pathlib import Path
from typing import Any

import pytest

from chiron.evaluation.config import load_evaluation
from chiron.evaluation.evaluation import EvaluationSummary, prepare_evaluation
from chiron.evaluation.items import read_results
from tests.evaluation import published
from tests.evaluation.test_benchmarks import good, loaded
from tests.support.command import chiron
from tests.support.endpoint import Endpoint

FINDINGS = "The heart size is normal. No pleural effusion is seen."


def r2gen(folder: Path, *, mimic: bool = False) -> Path:
    """Write ``annotation.json`` and images as R2Gen's downloads have them."""
    splits: dict[str, list[dict[str, Any]]] = {}
    for number, split in enumerate(("train", "val", "test", "test")):
        name = f"{'p10/p100/s5' if mimic else 'CXR'}{number}"
        images = [f"{name}/0.png"] if mimic else [f"{name}/0.png", f"{name}/1.png"]
        row = {"id": f"{name}-{number}", "report": f"{FINDINGS} {number}.", "image_path": images, "split": split}
        splits.setdefault(split, []).append({**row, **({"study_id": 7, "subject_id": 1} if mimic else {})})
        for image in images:
            (folder / "images" / image).parent.mkdir(parents=True, exist_ok=True)
            (folder / "images" / image).write_bytes(published.png(number))
    (folder / "annotation.json").write_text(json.dumps(splits))
    return folder


def chexpert_plus(folder: Path) -> Path:
    """Write the CSV and PNG files of CheXpert Plus: one row per image."""
    head = ["path_to_image", "frontal_lateral", "ap_pa", "sex", "split", "section_findings", "section_impression"]
    rows = [
        ("train/patient1/study1/view1_frontal.jpg", "Frontal", "AP", "Male", "train", FINDINGS, "1. Normal"),
        ("valid/patient2/study1/view1_frontal.jpg", "Frontal", "PA", "Female", "valid", FINDINGS, "1. No acute\nabnormality"),
        ("valid/patient2/study1/view2_lateral.jpg", "Lateral", "", "Female", "valid", FINDINGS, "1. No acute\nabnormality"),
        ("valid/patient3/study1/view1_frontal.jpg", "Frontal", "AP", "Male", "valid", "", "1. Edema"),
    ]
    folder.mkdir(parents=True)
    with (folder / "df_chexpert_plus_240401.csv").open("w", newline="") as file:
        csv.writer(file).writerows([head, *rows])
    for path, *_ in rows:
        image = (folder / "PNG" / path).with_suffix(".png")
        image.parent.mkdir(parents=True, exist_ok=True)
        image.write_bytes(published.png())
    return folder


def test_iu_xray_is_the_test_split_with_two_images_an_item(tmp_path: Path) -> None:
    items = good(loaded("iu_xray", r2gen(tmp_path / "iu_xray").parent))
    assert [item.answer for item in items] == [f"{FINDINGS} 2.", f"{FINDINGS} 3."]
    assert items[0].images == ("images/CXR2/0.png", "images/CXR2/1.png")
    assert items[0].group != items[1].group


def test_images_of_one_mimic_study_depend_on_each_other(tmp_path: Path) -> None:
    items = good(loaded("mimic_cxr", r2gen(tmp_path / "mimic_cxr", mimic=True).parent))
    assert [len(item.images) for item in items] == [1, 1]
    assert items[0].group == items[1].group == "study 7"


def test_chexpert_plus_is_the_frontal_views_of_its_validation_split_with_the_section(tmp_path: Path) -> None:
    data = chexpert_plus(tmp_path / "d")
    (findings,) = good(loaded("chexpert_plus_findings", data))
    assert (findings.answer, findings.images) == (FINDINGS, ("PNG/valid/patient2/study1/view1_frontal.png",))
    assert findings.labels == {"view": "Frontal", "ap_pa": "PA", "sex": "Female"}
    impressions = good(loaded("chexpert_plus_impression", data))
    assert [item.answer for item in impressions] == ["1. No acute\nabnormality", "1. Edema"]
    assert impressions[0].group == "valid/patient2/study1"


def measured(folder: Path, *replies: str) -> EvaluationSummary:
    """Measure a model on two items of IU X-Ray."""
    r2gen(folder / "d" / "iu_xray")
    left = list(replies)
    with Endpoint(lambda body: left.pop(0)) as endpoint:
        models = {"m": {"provider": "openai", "base_url": endpoint.base_url, "model": "m", "concurrency": 1}}
        (folder / "models.yaml").write_text(json.dumps({"models": models}))
        chosen = load_evaluation(folder / "models.yaml", "m")
        return asyncio.run(prepare_evaluation("m", ["iu_xray"], folder / "run", chosen, data=folder / "d").execute())


@pytest.mark.slow
def test_a_report_has_scores_and_no_accuracy(tmp_path: Path) -> None:
    pytest.importorskip("sacrebleu")
    reply = f"<think>Which heart?</think>{FINDINGS} 2."
    summary = measured(tmp_path, reply, f"### Step 1: The heart.\n### The final answer is: {FINDINGS}")
    lines = list(read_results(tmp_path / "run" / "items.jsonl"))
    assert [(line.verdict, line.protocol) for line in lines] == [("scored", "report")] * 2
    assert {line.given for line in lines} == {f"{FINDINGS} 2.", FINDINGS}
    (group,) = summary.groups
    assert (group["accuracy"], group["interval"], group["verdicts"]["scored"]) == (None, None, 2)
    shown = chiron("compare", str(tmp_path / "run"), "--scores", "bleu,rouge_l", "--format", "json")
    assert shown.returncode == 0, shown.stderr
    (table,) = json.loads(shown.stdout)
    assert table["title"] == "Other metrics, protocol report"
    assert {"m, bleu", "m, rouge_l", "m, token_recall"} == {name for name, _ in table["rows"]}
    for form in ("model-index", "lm-eval"):
        exported = chiron("compare", str(tmp_path / "run"), "--format", form)
        assert exported.returncode == 0, exported.stderr
        assert "acc,none" not in exported.stdout
        assert "accuracy" not in exported.stdout
        assert "token_recall" in exported.stdout
