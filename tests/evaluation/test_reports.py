"""Report generation: benchmarks on made-up records of the published schemas, the protocol, and the scores of reports."""

import asyncio
import csv
import json
from pathlib import Path
from typing import Any

import pytest

from chiron.errors import InputError
from chiron.evaluation.config import load_evaluation
from chiron.evaluation.evaluation import EvaluationSummary
from chiron.evaluation.figures import scores
from chiron.evaluation.items import read_results
from chiron.evaluation.preparation import prepare_evaluation
from chiron.evaluation.text_scores import scored, text_scores
from tests.evaluation import published
from tests.evaluation.test_benchmarks import good, loaded
from tests.support.command import chiron
from tests.support.endpoint import Endpoint
from tests.support.evaluations import an_item

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


# Made-up packages with the call signatures of radgraph 0.1.18, f1chexbert 0.0.2, RaTEScore 0.6.0 and green_score 0.0.12. A report has the
# words "edema" and "effusion" as its entities and labels.
PACKAGES = {
    "radgraph": """
print("Using device: cpu")
WORDS = {"edema", "effusion"}
class F1RadGraph:
    def __init__(self, reward_level, model_type=None, **kwargs):
        assert (reward_level, model_type) == ("all", "radgraph-xl")
    def __call__(self, refs, hyps):
        pairs = [(WORDS & set(r.split()), WORDS & set(h.split())) for r, h in zip(refs, hyps, strict=True)]
        f1 = [2 * len(r & h) / (len(r) + len(h)) if r | h else 0.0 for r, h in pairs]
        return (0, 0, 0), (f1, [v / 2 for v in f1], [v / 4 for v in f1]), [], []
""",
    "f1chexbert": """
import numpy as np
class F1CheXbert:
    def __init__(self, refs_filename=None, hyps_filename=None, device=None, **kwargs):
        self.target_names_5_index = np.array([1, 4, 5, 7, 9])
    def get_label(self, report, mode="rrg"):
        assert report
        return [int(n == 4 and "edema" in report or n == 9 and "effusion" in report or n == 3 and "nodule" in report) for n in range(14)]
""",
    "RaTEScore": """
class RaTEScore:
    def __init__(self, bert_model="a", eval_model="b", batch_size=1, use_gpu=True, visualization_path=None, affinity_matrix="long"):
        assert use_gpu is False
    def compute_score(self, candidate_list, reference_list):
        assert isinstance(candidate_list, list) and len(candidate_list) == len(reference_list) == 1 and candidate_list[0]
        return [0.75]
""",
    "green_score": """
class GREEN:
    def __init__(self, model_name=None, output_dir=".", cpu=False, compute_summary_stats=True):
        assert model_name == "StanfordAIMI/GREEN-radllama2-7b" and cpu and not compute_summary_stats
    def __call__(self, refs, hyps):
        assert all(refs) and all(hyps)
        return None, None, [None if "unclear" in h else 0.5 for h in hyps], None, None
""",
    "torch": """
class cuda:
    is_available = staticmethod(lambda: False)
""",
}
REPORTS = [("edema effusion", "edema"), ("edema nodule", "edema effusion"), ("", "edema"), ("unclear", "effusion nodule")]


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "packages"
    folder.mkdir()
    for name, code in PACKAGES.items():
        (folder / f"{name}.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return folder


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("radgraph", {"simple": (2 / 3, 2 / 3, 0.0, 0.0), "partial": (1 / 3, 1 / 3, 0.0, 0.0), "complete": (1 / 6, 1 / 6, 0.0, 0.0)}),
        ("chexbert", {"14/part": (2, 2, 0, 0), "14/whole": (3, 4, 1, 2), "5/part": (2, 2, 0, 0), "5/whole": (3, 3, 1, 1)}),
        ("ratescore", {"": (0.75, 0.75, 0.0, 0.75)}),
        ("green", {"": (0.5, 0.5, 0.0, None)}),
    ],
)
@pytest.mark.usefixtures("packages")
def test_scores_of_reports_are_those_of_their_packages(name: str, values: dict[str, tuple[float | None, ...]]) -> None:
    found = text_scores(REPORTS, [name])
    prefix = {"radgraph": "radgraph_", "chexbert": "chexbert_micro_f1_"}.get(name, name)
    assert found.values.keys() == {prefix + end for end in values}
    for end, expected in values.items():
        assert found.values[prefix + end] == pytest.approx(expected)
    assert "of unknown version" in found.signature


@pytest.mark.usefixtures("packages")
def test_chexbert_f1_counts_the_labels_of_all_reports_together() -> None:
    results = [an_item(n, kind="open", options=(), given=given, answer=known) for n, (given, known) in enumerate(REPORTS)]
    figures = scores(scored(results, ["chexbert"])[0])
    assert figures.keys() == {"chexbert_micro_f1_14", "chexbert_micro_f1_5"}
    assert figures["chexbert_micro_f1_14"].value == pytest.approx(4 / 10)
    assert figures["chexbert_micro_f1_5"].value == pytest.approx(4 / 8)
    interval = figures["chexbert_micro_f1_14"].interval
    assert interval is not None
    assert 0 <= interval[0] < 0.4 < interval[1] <= 1


def test_a_missing_package_of_a_score_names_package_and_remedy(packages: Path) -> None:
    (packages / "radgraph.py").write_text("import dotmap_of_radgraph")
    with pytest.raises(InputError, match=r"RadGraph F1 needs the package 'dotmap_of_radgraph'.*pip install radgraph.*--scores-python"):
        text_scores(REPORTS, ["radgraph"])


def test_a_package_may_print_bytes_that_are_not_text(packages: Path) -> None:
    (packages / "radgraph.py").write_text(PACKAGES["radgraph"] + "import sys\nsys.stderr.buffer.write(b'caf\\xe9\\n')\n")
    assert text_scores(REPORTS, ["radgraph"]).values["radgraph_simple"][0] == pytest.approx(2 / 3)


def test_missing_weights_of_a_score_are_named(packages: Path) -> None:
    (packages / "f1chexbert.py").write_text("class F1CheXbert:\n    def __init__(self):\n        raise OSError('chexbert.pth not found')")
    with pytest.raises(InputError, match=r"CheXbert F1 could not.*OSError: chexbert.pth not found.*weights chexbert.pth of StanfordAIMI"):
        text_scores(REPORTS, ["chexbert"])


def test_an_interpreter_that_cannot_be_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--scores-python .*nothing cannot be run"):
        text_scores(REPORTS, ["green"], tmp_path / "nothing")
