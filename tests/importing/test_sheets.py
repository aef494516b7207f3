"""A radiologist's sheet put to studies: usual names are known, what was used is told, and no report is lost."""

from pathlib import Path

import pytest

from chiron.errors import InputError
from chiron.importing.columns import parse_map
from chiron.importing.importer import import_cases
from chiron.importing.source import ImportOptions
from tests.importing.dicoms import write_dicom
from tests.importing.support import imported, jsonl
from tests.support.cases import write_png

SHEET = (
    "Accession Number,Patient ID,Exam,Findings,Impression,Room\n"
    "0077,,CT abdomen,There is a mass of 2 cm.,Cyst of the liver.,4\n"
    "0078,,CT chest,Clear lungs.,No disease.,4\n"
    "9999,,CT chest,Clear lungs.,No disease.,4\n"
)


def studies(folder: Path) -> Path:
    for number, accession in enumerate(("0077", "0078", "0079")):
        write_dicom(
            folder / f"{accession}.dcm",
            AccessionNumber=accession,
            StudyInstanceUID=f"1.2.{number}",
            SeriesInstanceUID=f"1.2.{number}.1",
            PatientID=f"PAT-99887{number}",
        )
    return folder


def a_sheet(path: Path, text: str = SHEET) -> Path:
    path.write_text(text, "utf-8")
    return path


def test_columns_and_matches_are_told(tmp_path: Path) -> None:
    options = ImportOptions(questions=a_sheet(tmp_path / "q.csv"))
    notes = " ".join(import_cases(studies(tmp_path / "s"), tmp_path / "out", options).notes)
    assert "title=Exam" in notes
    assert "findings=Findings, impression=Impression" in notes
    assert "accession=Accession Number" in notes
    assert "not used: Room" in notes
    assert "2 of 3 rows match 2 of 3 studies" in notes


def test_without_a_question_the_report_is_kept(tmp_path: Path) -> None:
    cases, left = imported(studies(tmp_path / "s"), tmp_path / "out", questions=a_sheet(tmp_path / "q.csv"))
    assert [case.unlabeled for case in cases] == [True] * 3
    assert cases[0].findings == ("There is a mass of 2 cm.", "Impression: Cyst of the liver.")
    assert [record.place for record in left] == ["q.csv, line 4"]


def test_one_question_for_all_rows_is_answered_by_the_impression(tmp_path: Path) -> None:
    cases, _ = imported(studies(tmp_path / "s"), tmp_path / "out", questions=a_sheet(tmp_path / "q.csv"), question="What is the diagnosis?")
    assert [(case.question, case.answer) for case in cases[:2]] == [
        ("What is the diagnosis?", "Cyst of the liver."),
        ("What is the diagnosis?", "No disease."),
    ]
    assert cases[0].findings == ("There is a mass of 2 cm.",)
    assert cases[2].unlabeled


def test_a_report_without_a_question_names_the_option_that_asks_one(tmp_path: Path) -> None:
    summary = import_cases(studies(tmp_path / "s"), tmp_path / "out", ImportOptions(questions=a_sheet(tmp_path / "q.csv")))
    note = next(note for note in summary.notes if "--question TEXT" in note)
    assert summary.notes[note] == 2
    write_png(tmp_path / "0.png")
    table = a_sheet(tmp_path / "t.csv", "id,image,findings,impression\n1,0.png,A mass.,Cyst.\n")
    assert any("--question TEXT" in note for note in import_cases(table, tmp_path / "table").notes)


def test_the_diagnosis_is_the_answer(tmp_path: Path) -> None:
    sheet = a_sheet(tmp_path / "q.csv", "Accession,Report,Diagnosis\n0077,A mass.,Cyst of the liver.\n")
    cases, _ = imported(studies(tmp_path / "s"), tmp_path / "out", questions=sheet, question="What is it?")
    assert (cases[0].answer, cases[0].findings) == ("Cyst of the liver.", ("A mass.",))


def test_beside_an_impression_the_diagnosis_is_not_the_answer(tmp_path: Path) -> None:
    """It may be the referring physician's."""
    sheet = a_sheet(tmp_path / "q.csv", "Accession,Diagnosis,Report,Impression\n0077,Rule out stroke.,A mass.,Cyst of the liver.\n")
    cases, _ = imported(studies(tmp_path / "s"), tmp_path / "out", questions=sheet, question="What is it?")
    assert (cases[0].answer, cases[0].findings) == ("Cyst of the liver.", ("A mass.",))


def test_a_sheet_that_matches_nothing_is_told_how_to_name_its_studies(tmp_path: Path) -> None:
    sheet = a_sheet(tmp_path / "q.csv", "Study,Diagnosis\nfolder-1,Cyst.\n")
    notes = " ".join(import_cases(studies(tmp_path / "s"), tmp_path / "out", ImportOptions(questions=sheet)).notes)
    assert "0 of 1 rows match 0 of 3 studies: name the column that identifies a study with --map accession=..., study=...," in notes
    with pytest.raises(InputError, match=r"name the columns, as --map accession=\.\.\.,findings=\.\.\.,impression=\.\.\."):
        imported(studies(tmp_path / "s"), tmp_path / "no", questions=a_sheet(tmp_path / "no.csv", "Foo,Bar\n1,2\n"))


@pytest.mark.parametrize("column", ["question", "answer"])
def test_half_a_question_does_not_cost_the_report(tmp_path: Path, column: str) -> None:
    sheet = a_sheet(tmp_path / "q.csv", f"accession,findings,{column}\n77,A mass.,Something\n")
    summary = import_cases(studies(tmp_path / "s"), tmp_path / "out", ImportOptions(questions=sheet))
    assert (summary.cases, summary.unlabeled) == (3, 3)
    assert any("imported without" in note for note in summary.notes)
    kept = (tmp_path / "out" / "cases.jsonl").read_text("utf-8")
    assert "A mass." in kept
    assert ("Known answer: Something" in kept) == (column == "answer")


def test_leading_zeros_and_case_do_not_part_row_and_study(tmp_path: Path) -> None:
    cases, left = imported(
        studies(tmp_path / "s"), tmp_path / "out", questions=a_sheet(tmp_path / "q.csv", "accession,findings\n77,A mass.\n")
    )
    assert not left
    assert cases[0].findings == ("A mass.",)


def test_options_and_map_reach_the_sheet_in_every_format(tmp_path: Path) -> None:
    table = a_sheet(tmp_path / "q.csv", "acc,Ask,option a,option b,Truth\n77,What?,Cyst,Stone,B\n")
    lines = jsonl(tmp_path / "q.jsonl", {"acc": "77", "Ask": "What?", "options": ["Cyst", "Stone"], "Truth": "B"})
    for sheet in (table, lines):
        columns = parse_map(["question=Ask,answer=Truth"])
        cases, _ = imported(studies(tmp_path / "s"), tmp_path / sheet.suffix, questions=sheet, columns=columns)
        assert (cases[0].question, cases[0].answer) == ("What?\nA. Cyst\nB. Stone", "Stone")
    with pytest.raises(InputError, match="no column 'nope'"):
        imported(studies(tmp_path / "s"), tmp_path / "x", questions=lines, columns=parse_map(["question=nope"]))


def test_options_without_effect_are_refused(tmp_path: Path) -> None:
    source = studies(tmp_path / "s")
    for options in (ImportOptions(columns=parse_map(["question=x"])), ImportOptions(question="What?")):
        with pytest.raises(InputError, match="has no effect on dicom without a table"):
            import_cases(source, tmp_path / "out", options)
    table = a_sheet(tmp_path / "t.csv", "id,image\n1,a.png\n")
    with pytest.raises(InputError, match="--questions applies to DICOM and NIfTI"):
        import_cases(table, tmp_path / "out", ImportOptions(questions=table))
