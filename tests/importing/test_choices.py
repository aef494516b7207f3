"""Options and classes keep their words on the way in, from every kind of source."""

from pathlib import Path
from typing import Any

import pytest

from chiron.cases.check import check_cases
from chiron.cases.choices import answer_in_words, bare_options, read_options
from chiron.importing.importer import import_cases
from tests.importing.support import imported, jsonl
from tests.support.cases import write_png

QUESTION = "What is the spot?\nA. Cyst\nB. Stone"


def a_table(folder: Path, text: str) -> Path:
    write_png(folder / "a.png")
    (folder / "t.csv").write_text(text, "utf-8")
    return folder / "t.csv"


@pytest.mark.parametrize(
    "text",
    [
        "image,Question,Choice A,Choice B,Answer\na.png,What is the spot?, A:Cyst , B:Stone ,B\n",
        "image,question,option_1,option_2,answer\na.png,What is the spot?,Cyst,Stone,stone.\n",
        "image,question,options,answer\na.png,What is the spot?,\"['Cyst', 'Stone']\",B\n",
        'image,question,options,answer\na.png,What is the spot?,"{""A"": ""Cyst"", ""B"": ""Stone""}",(B)\n',
        "image,question,choices,answer\na.png,What is the spot?,A. Cyst; B. Stone,B. Stone\n",
    ],
)
def test_a_table_keeps_its_options_and_answers_in_words(tmp_path: Path, text: str) -> None:
    (case,), _ = imported(a_table(tmp_path, text), tmp_path / "out")
    assert (case.question, case.answer, case.meta["options"]) == (QUESTION, "Stone", ["Cyst", "Stone"])


@pytest.mark.parametrize("named", [{"id": "1", "images": ["a.png"]}, {"qid": 1, "image": "a.png"}])
def test_records_with_options_keep_them_and_may_be_imported_again(tmp_path: Path, named: dict[str, Any]) -> None:
    write_png(tmp_path / "images" / "a.png")
    record = {**named, "question": "What is the spot?", "options": {"A": "Cyst", "B": "Stone"}, "answer": "B"}
    first, _ = imported(jsonl(tmp_path / "c.jsonl", record), tmp_path / "one")
    again, _ = imported(tmp_path / "one" / "cases.jsonl", tmp_path / "two")
    for (case,) in (first, again):
        assert (case.question, case.answer, case.meta["options"]) == (QUESTION, "Stone", ["Cyst", "Stone"])


def test_an_answer_that_is_none_of_the_options_is_left_out_with_its_reason(tmp_path: Path) -> None:
    table = a_table(
        tmp_path, "image,question,option a,option b,answer\na.png,What?,Cyst,Stone,D\na.png,What?,Cyst,Stone,2\na.png,What?,Cyst,Stone,A\n"
    )
    cases, left = imported(table, tmp_path / "out")
    assert [case.answer for case in cases] == ["Cyst"]
    assert ["not one of its 2 options" in left[0].reason, "give the option's letter or text" in left[1].reason] == [True, True]


def test_a_letter_without_options_is_said_by_import_and_check(tmp_path: Path) -> None:
    summary = import_cases(a_table(tmp_path, "id,image,question,answer\nx,a.png,What?,A\n"), tmp_path / "out")
    assert any("only a letter" in note for note in summary.notes)
    (remark,) = check_cases(tmp_path / "out" / "cases.jsonl")
    assert "the letter 'A' alone" in (remark.problem or "")


@pytest.mark.parametrize("stored", ["parquet", "saved"])
def test_class_numbers_become_their_names_and_lists_of_options_are_read(tmp_path: Path, stored: str) -> None:
    datasets = pytest.importorskip("datasets")
    write_png(tmp_path / "a.png")
    picture = {"bytes": (tmp_path / "a.png").read_bytes(), "path": None}
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "question": datasets.Value("string"),
            "answer": datasets.ClassLabel(names=["benign", "malignant"]),
            "options": datasets.List(datasets.Value("string")),
        }
    )
    rows = {"image": [picture] * 3, "question": ["Is it benign?"] * 3, "answer": [0, 1, -1], "options": [["benign", "malignant"]] * 3}
    made = datasets.Dataset.from_dict(rows, features=features)
    if stored == "parquet":
        made.to_parquet(tmp_path / "s.parquet")
    else:
        made.save_to_disk(tmp_path / "s")
    cases, left = imported(tmp_path / ("s.parquet" if stored == "parquet" else "s"), tmp_path / "out")
    assert [case.answer for case in cases] == ["benign", "malignant"]
    assert all(case.meta["options"] == ["benign", "malignant"] for case in cases)
    assert ["no answer" in record.reason for record in left] == [True]


@pytest.mark.parametrize(
    ("answer", "options", "words"),
    [
        ("b", ("Cyst", "Stone"), "Stone"),
        ("Option B", ("Cyst", "Stone"), "Stone"),
        ("B) stone", ("Cyst", "Stone"), "Stone"),
        ("A", ("C", "A"), "A"),
        ("CYST.", ("Cyst", "Stone"), "Cyst"),
    ],
)
def test_an_answer_is_its_option_by_words_before_letters(answer: str, options: tuple[str, ...], words: str) -> None:
    assert answer_in_words(answer, options) == words


def test_options_are_data_and_never_run(tmp_path: Path) -> None:
    assert read_options("['a', 'b']") == ("a", "b")
    assert bare_options(("A: x", "B: y")) == ("x", "y")
    assert bare_options(("A: x", "C: y")) == ("A: x", "C: y")
    with pytest.raises(ValueError, match="not a list"):
        read_options(f"[open({str(tmp_path / 'x')!r}, 'w')]")
    assert not (tmp_path / "x").exists()
