"""JSON as the field writes it: taken as it is, or with --map, or refused with a reason that names the fields found."""

import json
from pathlib import Path
from typing import Any

import pytest

from chiron.cases.check import check_cases
from chiron.errors import InputError
from chiron.importing.columns import parse_map
from chiron.importing.importer import import_cases
from tests.importing.support import imported, jsonl
from tests.support.cases import write_png

SAID = ("What is shown?", "A cyst of the liver.")
SHAPES: dict[str, Any] = {
    "vqa": {"qid": 1, "image_name": "a.png", "question": SAID[0], "answer": SAID[1], "answer_type": "OPEN"},
    "llava": {
        "id": "a",
        "image": "a.png",
        "conversations": [{"from": "human", "value": f"<image>\n{SAID[0]}"}, {"from": "gpt", "value": SAID[1]}],
    },
    "llama-factory": {
        "messages": [
            {"role": "system", "content": "You are kind."},
            {"role": "user", "content": f"<image>{SAID[0]}"},
            {"role": "assistant", "content": SAID[1]},
        ],
        "images": ["a.png"],
    },
    "parts": {
        "messages": [
            {"role": "user", "content": [{"type": "image", "image": "a.png"}, {"type": "text", "text": SAID[0]}]},
            {"role": "assistant", "content": [{"type": "text", "text": SAID[1]}]},
        ]
    },
    "alpaca": {"instruction": "What is", "input": "shown?", "output": SAID[1], "images": ["a.png"]},
    "mmrp": {"id": 7, "img_name": "a.png", "question": SAID[0], "answer": SAID[1]},
    "mmrp list": {"id": 7, "img_name": ["images/a.png"], "question": SAID[0], "answer": SAID[1]},
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["array", "lines", "object"])
def test_the_shapes_of_the_field_are_imported_as_they_are(tmp_path: Path, shape: str, kind: str) -> None:
    write_png(tmp_path / "images" / "a.png")
    path = tmp_path / ("x.jsonl" if kind == "lines" else "x.json")
    record = SHAPES[shape]
    path.write_text(json.dumps([record] if kind == "array" else {"version": 1, "data": [record]} if kind == "object" else record))
    (case,), left = imported(path, tmp_path / "out")
    assert not left
    assert case.question.replace("\n", " ") == SAID[0]
    assert (case.answer, len(case.images)) == (SAID[1], 1)
    assert (tmp_path / "out" / "images" / case.images[0]).is_file()


def test_a_number_is_an_answer_and_unused_fields_are_named(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png")
    source = jsonl(tmp_path / "x.jsonl", {**SHAPES["vqa"], "answer": 2})
    summary = import_cases(source, tmp_path / "out")
    assert any(note.endswith("not used: answer_type") for note in summary.notes)
    assert json.loads((tmp_path / "out" / "cases.jsonl").read_text())["answer"] == "2"


def test_only_the_first_exchange_is_taken_and_a_note_says_so(tmp_path: Path) -> None:
    write_png(tmp_path / "images" / "a.png")
    record = {**SHAPES["llava"], "conversations": [*SHAPES["llava"]["conversations"], {"from": "human", "value": "And?"}]}
    summary = import_cases(jsonl(tmp_path / "x.jsonl", record), tmp_path / "out")
    assert any("only the first was imported" in note for note in summary.notes)


def test_a_question_with_marks_within_it_keeps_them_all(tmp_path: Path) -> None:
    write_png(tmp_path / "images" / "a.png")
    write_png(tmp_path / "images" / "b.png", seed=1)
    record = {**SHAPES["mmrp"], "question": "<image> before, <image> after: what changed?", "img_name": ["a.png", "b.png"]}
    (case,), _ = imported(jsonl(tmp_path / "x.jsonl", record), tmp_path / "out")
    assert case.question.count("<image>") == 2


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"scan": "a.png", "text": "What?", "truth": "A cyst."}, "it has 'scan', 'text', 'truth', and --map"),
        ({"conversations": ["What?"], "image": "a.png"}, "list of turns"),
        ({"conversations": [{"from": "tool", "value": "x"}], "image": "a.png"}, "not of a user, an assistant or a system"),
        ({"image": "a.png", "question": "What?", "answer": ["Cyst", "Hepatic cyst"]}, "list of 2 texts"),
        ({"image": "a.png", "question": "What?", "answer": {"text": "Cyst"}}, "field 'answer' is not text"),
        ({"image": "a.png", "question": "What?", "answer": "['Cyst', 'Hepatic cyst']"}, "a list written as text"),
        ({"image": "a.png", "question": "nan", "answer": "Cyst"}, "no question"),
        ({"id": "1", "images": ["a.png"], "question": "What?", "answer": "N/A"}, "no answer"),
    ],
)
def test_what_cannot_be_taken_says_why(tmp_path: Path, record: dict[str, object], words: str) -> None:
    write_png(tmp_path / "a.png")
    _, (left,) = imported(jsonl(tmp_path / "x.jsonl", record), tmp_path / "out")
    assert words in left.reason


def test_map_works_on_json_and_is_never_ignored(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png")
    source = jsonl(tmp_path / "x.jsonl", {"scan": "a.png", "text": SAID[0], "truth": SAID[1]})
    (case,), _ = imported(source, tmp_path / "out", columns=parse_map(["images=scan,question=text,answer=truth"]))
    assert (case.question, case.answer) == SAID
    with pytest.raises(InputError, match=r"no column 'words' \(there are scan, text, truth\)"):
        imported(source, tmp_path / "other", columns=parse_map(["question=words"]))


def test_map_wins_over_the_names_of_a_case(tmp_path: Path) -> None:
    write_png(tmp_path / "images" / "a.png")
    source = jsonl(tmp_path / "x.jsonl", {"id": "1", "images": ["a.png"], "question": "What?", "answer": "Cyst.", "deep": "Why?"})
    (case,), _ = imported(source, tmp_path / "out", columns=parse_map(["question=deep"]))
    assert case.question == "Why?"


def test_check_names_the_fields_it_found(tmp_path: Path) -> None:
    write_png(tmp_path / "images" / "a.png")
    problems = [remark.problem or "" for remark in check_cases(jsonl(tmp_path / "x.jsonl", SHAPES["vqa"], SHAPES["llava"]))]
    assert "'qid', 'image_name'" in problems[0]
    assert "it has 'id', 'image', 'conversations'; a case needs 'images'" in problems[1]


def test_a_long_text_is_warned_of_and_a_huge_one_refused(tmp_path: Path) -> None:
    write_png(tmp_path / "images" / "a.png")
    case = {"images": ["a.png"], "question": "What?", "answer": "Cyst."}
    texts = ("word " * 12_000, "word " * 200_001)
    source = jsonl(tmp_path / "x.jsonl", *({**case, "id": str(n), "history": text} for n, text in enumerate(texts)))
    long, huge = check_cases(source)
    assert (long.usable, "60,000 characters" in (long.problem or "").replace("59,999", "60,000")) == (True, True)
    assert (huge.usable, "more than 1,000,000" in (huge.problem or "")) == (False, True)
    summary = import_cases(source, tmp_path / "out")
    assert summary.cases == 1
    assert any("50,000 characters" in note for note in summary.notes)


def test_a_windows_path_is_read(tmp_path: Path) -> None:
    write_png(tmp_path / "scans" / "a.png")
    (tmp_path / "t.csv").write_text("id,image,question,answer\n1,scans\\a.png,What?,Cyst\n", "utf-8")
    (case,), _ = imported(tmp_path / "t.csv", tmp_path / "out")
    assert case.answer == "Cyst"
