"""``chiron cases import`` and ``coverage`` as a person types them."""

import json
from pathlib import Path

import pytest

from tests.support.cases import write_cases, write_png
from tests.support.command import chiron

pytestmark = pytest.mark.slow


def a_table(folder: Path) -> Path:
    for n in range(3):
        write_png(folder / f"{n}.png", seed=n)
    rows = [
        "Nr;Frage;Antwort;Bild;Modality;History",
        "a;Was?;Zyste.;0.png;CT;Pain in the liver.",
        "b;Wo?;Links.;1.png;MRI;Seen by Dr Oakshott.",
        "c;Wo?;Rechts.;none.png;;",
    ]
    path = folder / "cases.csv"
    path.write_text("\n".join(rows), "utf-8")
    return path


def test_import_says_what_it_took_and_what_it_left(tmp_path: Path) -> None:
    source = a_table(tmp_path)
    args = ("cases", "import", source, "--out", tmp_path / "out", "--map", "id=Nr")
    done = chiron(*args, "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["cases"], summary["left_out"]) == (1, {"identifying": 1, "image": 1})
    assert "1 cases with 1 images" in done.stderr
    assert "columns: id=Nr, question=Frage, answer=Antwort, images=Bild, history=History, modality=Modality" in done.stderr
    assert "1 identifying, 1 image" in done.stderr
    assert "not-imported.jsonl" in done.stderr
    assert "Oakshott" not in done.stdout + done.stderr + (tmp_path / "out" / "not-imported.jsonl").read_text()
    assert "unchanged" in chiron(*args).stderr
    assert chiron("cases", "check", tmp_path / "out" / "cases.jsonl").returncode == 0
    assert json.loads(chiron(*args, "--allow-identifying", "--json").stdout)["cases"] == 2


def test_coverage_prints_the_map_and_draws_it(tmp_path: Path) -> None:
    chiron("cases", "import", a_table(tmp_path), "--out", tmp_path / "out", "--map", "id=Nr")
    done = chiron("cases", "coverage", tmp_path / "out" / "cases.jsonl", "--figure", tmp_path / "map.svg")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 14
    assert lines[2].split()[0] == "CT"
    assert lines[2].split().count("1") == 1
    assert lines[13] == "1 cases, 1 placed"
    assert (tmp_path / "map.svg").is_file()
    record = json.loads(chiron("cases", "coverage", tmp_path / "out" / "cases.jsonl", "--json").stdout)
    assert record["map"]["CT"]["Hepatobiliary"] == 1


def test_cases_without_a_question_are_said_and_checked_as_such(tmp_path: Path) -> None:
    source = a_table(tmp_path)
    source.write_text("id;image;findings\na;0.png;A cyst.\n", "utf-8")
    done = chiron("cases", "import", source, "--out", tmp_path / "out")
    assert "1 cases (1 without a question)" in done.stderr
    checked = chiron("cases", "check", tmp_path / "out" / "cases.jsonl")
    assert checked.returncode == 2
    assert "chiron build questions" in checked.stderr
    assert "--unlabeled" in checked.stderr
    assert "fix the lines" not in checked.stderr
    assert chiron("cases", "check", tmp_path / "out" / "cases.jsonl", "--unlabeled").returncode == 0


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("none", "--out", "o"), "does not exist"),
        (("c/cases.jsonl", "--out", "c"), "is the source: name another folder"),
        (("c/cases.jsonl", "--out", "o", "--map", "anser=x"), "did you mean 'answer'"),
        (("c/cases.jsonl", "--out", "o", "--images", "none"), "--images"),
        (("c/cases.jsonl", "--out", "c/cases.jsonl"), "--out"),
        (("c/cases.jsonl", "--out", "c/cases.jsonl/o"), "cannot be created"),
        (("c/cases.jsonl", "--out", "n" * 300), "cannot"),
        (("n" * 300, "--out", "o"), "cannot be reached"),
        (("c/empty.jsonl", "--out", "o"), "no case"),
        (("c/words.docx", "--out", "o"), "--from"),
        (("c/cases.jsonl", "--out", "o", "--salt", "c/words.docx"), "does not contain a salt"),
        (("c/cases.jsonl", "--out", "o", "--from", "table"), "is not a readable spreadsheet"),
        (("c/cases.jsonl", "--out", "o", "--from", "dicom"), "no case"),
        (("c/cases.jsonl", "--out", "o", "--from", "nifti", "--questions", "none.csv"), "--questions"),
    ],
)
def test_what_a_person_got_wrong_is_one_clear_line(tmp_path: Path, args: tuple[str, ...], words: str) -> None:
    write_cases(tmp_path / "c", 1)
    (tmp_path / "c" / "empty.jsonl").write_text("")
    (tmp_path / "c" / "words.docx").write_text("words")
    done = chiron("cases", "import", *args, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
