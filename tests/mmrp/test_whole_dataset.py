"""From what a group has, ten published cases and a folder of DICOM files, to a dataset that loads and trains: every command, as typed."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.command import chiron

pytestmark = pytest.mark.slow

pydicom = pytest.importorskip("pydicom")

# Made up: what is said of the test files is no reading of them.
REPORTS = {
    "98892003/MR700": ("Which sequence is this?", "Localizer of the carotids", "The carotid arteries run on both sides of the trachea."),
    "77654033/CR1": (
        "Which injury is feared?",
        "Fracture of the dens",
        "The cervical vertebrae are shown from the side; the dens is long.",
    ),
    "77654033/CT2": ("What explains the headache?", "Sinusitis", "Fluid levels in both maxillary sinuses, as in sinusitis."),
}
BUILD = {
    "models": {"author": {"provider": "offline", "model": "author/rules"}, "reader": {"provider": "offline", "model": "reader/rules"}},
    "build": {"author": "author", "reader": "reader"},
}
LIMITS = ("--limit", "near_duplicates=1", "--limit", "given_away=1", "--limit", "steps=0.1")
"""Of fifty rows one is two in a hundred: shares mean little."""


def done(*arguments: object) -> str:
    """What a command says on standard output; it must end well."""
    ended = chiron(*arguments)
    assert ended.returncode == 0, f"{arguments}: {ended.stderr}"
    return ended.stdout


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def write_reports(path: Path) -> Path:
    found = []
    for folder, (question, answer, findings) in REPORTS.items():
        found.append({"folder": f"dicomdirtests/{folder}", "question": question, "answer": answer, "findings": findings})
    path.write_text("".join(json.dumps(record) + "\n" for record in found))
    return path


def test_published_cases_and_dicom_files_become_one_dataset(published: Path, tmp_path: Path) -> None:
    work = tmp_path
    studies = Path(pydicom.__file__).parent / "data" / "test_files"
    done("cases", "import", published.parent, "--out", work / "demo")
    done("cases", "import", studies, "--from", "dicom", "--questions", write_reports(work / "reports.jsonl"), "--out", work / "dicom")
    dicom = records(work / "dicom" / "cases.jsonl")
    assert {case["question"] for case in dicom if case["question"]} == {question for question, _, _ in REPORTS.values()}
    (work / "build.yaml").write_text(yaml.safe_dump(BUILD))
    done("init", "offline", "--out", work / "team.yaml")

    parts = []
    for source in ("demo", "dicom"):
        cases = work / source / "cases.jsonl"
        done("build", "questions", cases, "--config", work / "build.yaml", "--out", work / f"questions-{source}")
        done("build", "text", cases, "--config", work / "build.yaml", "--out", work / f"text-{source}")
        done("build", "alignment", cases, "--out", work / f"alignment-{source}")
        asked = work / f"questions-{source}" / "cases.jsonl"
        done("search", asked, "--images", work / source / "images", "--config", work / "team.yaml", "--run", work / f"run-{source}")
        done("build", "cot", work / f"run-{source}", "--out", work / f"cot-{source}")
        parts += [work / f"{part}-{source}" for part in ("text", "alignment", "cot")]

    # Of studies without a report nothing is asked, and it is said of each why.
    bare = {case["id"] for case in dicom if not case["question"]}
    for part, reason in (("questions", "no text"), ("text", "no text"), ("alignment", "no findings")):
        assert {line["case_id"] for line in records(work / f"{part}-dicom" / "dropped.jsonl") if line["reason"] == reason} == bare

    done("build", "check", *parts, *LIMITS, "--out", work / "checked")
    told = json.loads(done("build", "release", *parts, *LIMITS, "--out", work / "mmrp", "--ratios", "0.8,0.1,0.1", "--json"))
    _is_whole(work, told, dicom)
    _trains(work)


def _is_whole(work: Path, told: dict[str, Any], dicom: list[dict[str, Any]]) -> None:
    from datasets import load_dataset

    rows = load_dataset(str(work / "mmrp"), cache_dir=str(work / "cache"))
    loaded = [row for split in rows.values() for row in split]
    assert len(loaded) == sum(told["rows"].values()) >= 30
    assert {row["part"] for row in loaded} == {"text", "alignment", "cot"}
    shown = {row["case_id"] for row in loaded if row["images"]}
    reported = {case["id"] for case in dicom if case["question"]}
    assert reported <= shown  # images of the two folders stand in one release
    assert len(shown - reported) >= 10
    assert all(image.size for row in loaded for image in row["images"])
    card = (work / "mmrp" / "README.md").read_text()
    assert "![The map](map.png)" in card
    assert all(case["patient"] not in card for case in dicom if "patient" in case)


def _trains(work: Path) -> None:
    from tests.training.tiny import tiny_model, tiny_tokenizer

    tiny_model().save_pretrained(work / "base")
    tiny_tokenizer().save_pretrained(work / "base")
    recipe = yaml.safe_load((work / "mmrp" / "recipe.yaml").read_text())
    last = {key: value for key, value in recipe["stages"][-1].items() if key != "epochs"}
    stages = [{**last, "steps": 2, "batch": {"rows": 2}}]
    tiny = {"tile": 32, "max_tiles": 6, "thumbnail": True}
    changes = {"base": str(work / "base"), "images": tiny, "max_seq_length": 4096, "precision": "fp32", "gradient_checkpointing": False}
    (work / "tiny.yaml").write_text(yaml.safe_dump({**recipe, **changes, "stages": stages}))
    done("train", work / "tiny.yaml", "--data", work / "mmrp", "--out", work / "trained")
    assert list((work / "trained").rglob("model.safetensors"))
