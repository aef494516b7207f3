"""The output of the authors' search becomes rows, and their published rows become cases."""

import json
from pathlib import Path
from typing import Any

import pytest

from chiron.cases.case import Case
from chiron.cases.reader import read_cases
from chiron.errors import InputError
from chiron.importing.importer import import_cases
from chiron.mmrp.cot import build_cot
from tests.support.cases import write_png

REASONING = (
    "Let's think about how to solve this problem clearly and reasonably step by step.\n"
    "### Step 1: The coronary artery takes another way.\n\n### Step 2: It lies between the vessels.\n### The final answer is: Ischemia"
)
LINE: dict[str, Any] = {
    "rid": "169992",
    "images": ["169992/ct_group1/0.png"],
    "question": "What explains his symptoms?",
    "gt_answer": "Potential myocardial ischemia.",
    "reasoning": REASONING,
    "scores": {"gpt": [0.5, 1.0], "gemini": [0.67, 0.33], "qwen": [0.0, 0.5]},
    "final_depth": "2",
    "generated_by": ["gemini", "gpt"],
    "search_id": "1",
}
CASE = {
    "rid": "169992",
    "messages": [
        {"role": "user", "content": "**Question:** What explains his symptoms?"},
        {"role": "assistant", "content": "**Correct Answer:** Potential myocardial ischemia."},
    ],
    "images": ["169992/ct_group1/0.png"],
    "presentation": "Chest pain.",
    "age_label": "45 years",
    "gender_label": "Male",
    "caption": ["According to the <image>\n, no dissection."],
}


def results(folder: Path, *lines: dict[str, Any]) -> Path:
    path = folder / "result.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for line in lines:
        for image in line["images"]:
            write_png(folder / "images" / image)
    return path


def test_a_result_becomes_the_row_that_its_case_is_trained_as(tmp_path: Path) -> None:
    weak = {**LINE, "rid": "2", "images": ["2/ct_group1/0.png"], "scores": {"gpt": [0.2, 0.5]}, "generated_by": ["gpt", "gpt"]}
    found = results(tmp_path, LINE, weak)
    cases = tmp_path / "demo.jsonl"
    cases.write_text(json.dumps(CASE) + "\n" + json.dumps({**CASE, "rid": "2"}) + "\n")
    summary = build_cot([found], tmp_path / "cot", cases=cases)
    (row,) = [json.loads(line) for line in (tmp_path / "cot" / "rows.jsonl").read_text().splitlines()]
    assert row["messages"][0]["content"].startswith(
        "What explains his symptoms? (Supplementary information is as follows:\nGender: Male, Age: 45 years, Chief complaint: Chest pain.)"
    )
    assert "(Modality 1: <image>)" in row["messages"][0]["content"]
    assert row["messages"][1]["content"] == REASONING
    assert (row["depth"], row["answer"], row["images"]) == (2, "Potential myocardial ischemia.", LINE["images"])
    assert summary.dropped == {"low score": 1}


def test_without_the_cases_a_result_tells_its_own_question(tmp_path: Path) -> None:
    build_cot([results(tmp_path, LINE)], tmp_path / "cot")
    (row,) = [json.loads(line) for line in (tmp_path / "cot" / "rows.jsonl").read_text().splitlines()]
    assert row["messages"][0]["content"].startswith("What explains his symptoms?\nPlease base")


def test_a_file_that_holds_no_results_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "result.jsonl"
    path.write_text(json.dumps({"rid": "1", "error": "All mentor scores are zero."}) + "\n")
    with pytest.raises(InputError, match=r"result\.jsonl, line 1: not a result of the authors' search"):
        build_cot([path], tmp_path / "cot")


def test_published_rows_are_imported_with_their_marks(tmp_path: Path) -> None:
    question = "Why? (Modality 1: <image>\n<image>) Reason."
    rows = [
        {"id": 1, "img_name": ["images/1/ct_group1/0.png", "images/1/ct_group1/1.png"], "question": question, "answer": "**A cyst.**"},
        {"id": 2, "img_name": "images/2/x-ray_group1/0.png", "question": "What (<image>)?", "answer": "No.", "answer_type": "OPEN"},
    ]
    for image in ("1/ct_group1/0.png", "1/ct_group1/1.png", "2/x-ray_group1/0.png"):
        write_png(tmp_path / "eval" / "images" / image)
    (tmp_path / "eval" / "eval_data.json").write_text(json.dumps(rows))
    summary = import_cases(tmp_path / "eval", tmp_path / "mine")
    assert (summary.cases, summary.images, summary.left_out) == (2, 3, {})
    one, two = (case for case in read_cases(tmp_path / "mine" / "cases.jsonl") if isinstance(case, Case))
    assert (one.question, one.answer, one.images) == (question, "A cyst.", ("1/ct_group1/0.png", "1/ct_group1/1.png"))
    assert two.images == ("2/x-ray_group1/0.png",)


def test_a_question_that_marks_more_images_than_there_are_is_no_case(tmp_path: Path) -> None:
    path = tmp_path / "cases.jsonl"
    path.write_text(json.dumps({"id": "1", "question": "<image> <image>?", "answer": "x", "images": ["a.png"]}) + "\n")
    (bad,) = read_cases(path)
    assert "marks 2 images and the case has 1" in getattr(bad, "problem", "")
