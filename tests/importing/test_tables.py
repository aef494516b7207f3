"""Tables become cases, whatever their dialect, encoding or kind; a bad row is named and stops nothing."""

import re
import sys
import zipfile
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chiron.errors import InputError
from chiron.importing import spreadsheets
from chiron.importing.columns import FIELDS, map_columns, parse_map
from chiron.importing.importer import import_cases
from chiron.importing.source import ID_TELLS, ImportOptions, Why, decode
from chiron.importing.spreadsheets import sheets_of
from tests.cases.test_images import png_header
from tests.importing.support import everything, imported
from tests.support.cases import write_png

openpyxl = pytest.importorskip("openpyxl")
HEADER = "id,question,answer,images,history,findings,age,sex"


def table(folder: Path, *rows: str, header: str = HEADER, name: str = "cases.csv", encoding: str = "utf-8") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(3):
        write_png(folder / f"{n}.png", seed=n)
    path = folder / name
    path.write_bytes("\n".join([header, *rows, ""]).encode(encoding))
    return path


def test_rows_become_cases_with_their_images(tmp_path: Path) -> None:
    source = table(
        tmp_path / "s", 'a,What?,A cyst.,0.png; 1.png,Pain.,"A cyst,\nround.\n\nNo stone.",54,F', "b,Which?,None.,images/2.png,,,93,M"
    )
    write_png(tmp_path / "s" / "images" / "2.png")
    cases, left = imported(source, tmp_path / "out")
    assert not left
    first, second = cases
    assert (first.question, first.answer, first.history, first.age, first.sex) == ("What?", "A cyst.", "Pain.", "54 years", "F")
    assert first.findings == ("A cyst,\nround.", "No stone.")
    assert first.images == ("a/0.png", "a/1.png")
    assert (tmp_path / "out" / "images" / "a" / "1.png").read_bytes() == (tmp_path / "s" / "1.png").read_bytes()
    assert second.age == "90+"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_every_usual_dialect_and_encoding_is_read(tmp_path: Path, encoding: str, delimiter: str) -> None:
    header = delimiter.join(["Fall", "Frage", "Antwort", "Bild", "Vorgeschichte"])
    row = delimiter.join(["7", "Was ist größer?", "Zyste links", "0.png", "Fieber"])
    cases, left = imported(table(tmp_path / "s", row, header=header, encoding=encoding), tmp_path / "out")
    assert not left
    assert (cases[0].id, cases[0].question, cases[0].answer) == ("7", "Was ist größer?", "Zyste links")


def test_a_file_in_two_encodings_is_read_line_by_line_and_said(tmp_path: Path) -> None:
    source = table(tmp_path / "s")
    lines = [HEADER.encode(), "a,größer?,ja,0.png".encode(), "b,größer?,ja,1.png".encode("cp1252"), b"c,\x81\xff?,ja,2.png"]
    source.write_bytes(b"\n".join(lines))
    summary = import_cases(source, tmp_path / "out")
    assert any("cp1252 in 2 of 4 lines" in note for note in summary.notes)
    cases, left = imported(source, tmp_path / "out")
    assert [case.question for case in cases] == ["größer?", "größer?"]
    assert [(r.place, "no known encoding" in r.reason) for r in left] == [("cases.csv, line 4", True)]


@given(st.text(st.characters(codec="utf-8", exclude_characters="\ufffd"), max_size=60))
def test_utf8_is_always_read_as_it_is(text: str) -> None:
    if "\0" not in text:
        assert decode(text.encode())[0] == text.removeprefix("\ufeff")


@given(st.binary(max_size=200))
def test_any_bytes_are_read_as_something(data: bytes) -> None:
    text, name = decode(data)
    assert isinstance(text, str)
    assert name


def test_columns_are_mapped_by_request_and_by_habit(tmp_path: Path) -> None:
    source = table(tmp_path / "s", "a,x,What?,Cyst,0.png,1.png,secret", header='Nr,foo,"Frage, kurz",Diagnose,image1,image2,Notes')
    with pytest.raises(InputError, match="did you mean 'Diagnose'"):
        imported(source, tmp_path / "no", columns=parse_map(["answer=Diagnosis"]))
    cases, _ = imported(source, tmp_path / "out", columns=parse_map(["id=Nr,question=Frage, kurz", "answer=Diagnose"]))
    assert (cases[0].id, cases[0].question, cases[0].answer, len(cases[0].images)) == ("a", "What?", "Cyst", 2)
    assert "secret" not in everything(tmp_path / "out")
    for wrong in ("answr=x", "answer", "answer="):
        with pytest.raises(InputError, match="--map"):
            parse_map([wrong])


@given(st.lists(st.sampled_from(FIELDS), unique=True, min_size=1))
def test_every_field_is_known_by_its_own_name(fields: list[str]) -> None:
    assert list(map_columns(fields, {}, "t").places) == [f for f in FIELDS if f in fields]
    assert parse_map([",".join(f"{f}=Column, {f}" for f in fields)]) == {f: (f"Column, {f}",) for f in fields}


def test_the_header_need_not_be_in_the_first_row(tmp_path: Path) -> None:
    source = table(tmp_path / "s", "exported for teaching,,,", ",,,", HEADER, "a,What?,Cyst.,0.png,,,,", header="A list of cases,,,")
    assert len(imported(source, tmp_path / "out")[0]) == 1
    with pytest.raises(InputError, match="no header in the first 20 rows"):
        imported(table(tmp_path / "t", "1,2,3", header="foo,bar,baz"), tmp_path / "out2")


def test_bad_rows_are_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    source = table(
        tmp_path / "s",
        "good,What?,Cyst.,0.png,,,,",
        "escape,What?,Cyst.,../../secret.png,,,,",
        "absolute,What?,Cyst.,/etc/passwd,,,,",
        "missing,What?,Cyst.,none.png,,,,",
        "bomb,What?,Cyst.,bomb.png,,,,",
        "text,What?,Cyst.,text.png,,,,",
        "half,What?,,0.png,,,,",
        "good,Other?,Cyst.,1.png,,,,",
        "nothing,What?,Cyst.,,,,,",
        ",,,,,,,",
        f'long,What?,Cyst.,2.png,,"{"x" * 10_000}",,',
        f'longer,What?,Cyst.,2.png,,"{"x" * 250_000}",,',
    )
    write_png(tmp_path / "secret.png")
    (source.parent / "bomb.png").write_bytes(png_header(30_000, 30_000))
    (source.parent / "text.png").write_text("no image")
    cases, left = imported(source, tmp_path / "out")
    assert [case.id for case in cases] == ["good", "long"]
    assert len(cases[1].findings[0]) == 10_000
    said = {record.id or record.place: record for record in left}
    for name, words in {
        "escape": "leaves the image folder",
        "absolute": "leaves the image folder",
        "missing": "is missing",
        "bomb": "megapixels",
        "text": "not an image",
        "half": "no answer",
        "nothing": "no image",
    }.items():
        assert words in said[name].reason
    assert said["good"].why is Why.DUPLICATE
    assert "line 2" in said["good"].reason
    assert "field larger than field limit" in said["cases.csv, line 13"].reason
    assert sorted(p.name for p in (tmp_path / "out" / "images").iterdir()) == ["good", "long"]


def test_images_may_lie_in_a_folder_called_as_the_case(tmp_path: Path) -> None:
    source = table(tmp_path / "s", "a,What?,Cyst.", header="id,question,answer")
    for n in (10, 2, 1):
        write_png(tmp_path / "s" / "images" / "a" / "ct_group1" / f"{n}.png", seed=n)
    cases, _ = imported(source, tmp_path / "out")
    assert cases[0].images == ("a/ct_group1/0.png", "a/ct_group1/1.png", "a/ct_group1/2.png")
    assert (tmp_path / "out/images/a/ct_group1/2.png").read_bytes() == (tmp_path / "s/images/a/ct_group1/10.png").read_bytes()


def test_rows_of_one_case_are_one_case(tmp_path: Path) -> None:
    source = table(tmp_path / "s", "a,What?,Cyst.,0.png,,,,", "a,,,1.png,,,,", "b,What?,Cyst.,2.png,,,,")
    cases, left = imported(source, tmp_path / "out")
    assert [(case.id, len(case.images)) for case in cases] == [("a", 2), ("b", 1)]
    assert not left


def test_identifying_text_is_held_back_and_not_repeated(tmp_path: Path) -> None:
    header = "id,patient name,patient id,question,answer,images,history"
    rows = ["a,Wilhelmina Trent,P77321,What?,Cyst.,0.png,Mass seen by trent.", "b,Amos Pell,P88,What?,Cyst.,1.png,Pain for 3 days."]
    source = table(tmp_path / "s", *rows, header=header)
    cases, (held,) = imported(source, tmp_path / "out")
    assert [case.id for case in cases] == ["b"]
    assert held.why is Why.IDENTIFYING
    assert held.place == "cases.csv, line 2"
    assert "name in history, line 1" in held.reason
    said = everything(tmp_path / "out").casefold()
    assert not any(secret in said for secret in ("trent", "wilhelmina", "p77321", "amos", "pell", "p88"))
    assert cases[0].meta["patient"].startswith("patient-")
    cases, left = imported(source, tmp_path / "all", allow_identifying=True)
    assert len(cases) == 2
    assert not left


def workbook(path: Path, rows: list[list[Any]], *merged: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    for n in range(5):
        write_png(path.parent / f"{n}.png", seed=n)
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    for row in rows:
        sheet.append(row)
    for area in merged:
        sheet.merge_cells(area)
    book.save(path)
    book.close()
    return path


def test_spreadsheets_with_merged_cells_formulas_and_dates(tmp_path: Path) -> None:
    rows: list[list[Any]] = [
        ["Teaching file"],
        [],
        ["id", "question", "answer", "images", "history", "age"],
        ["a", "What?", "Cyst.", "0.png", "Shared history.", 54],
        ["b", "What?", "Cyst.", "1.png", None, 55.0],
        [None] * 6,
        ["c", "What?", "=A1&B1", "2.png", "x", 56],
        ["d", "What?", date(2019, 1, 2), "3.png", "x", 57],
        [12, "What?", "Cyst.", "4.png", "x", 58],
    ]
    cases, left = imported(workbook(tmp_path / "s" / "t.xlsx", rows, "A1:F1", "E4:E5"), tmp_path / "out")
    assert [(case.id, case.history, case.age) for case in cases] == [
        ("a", "Shared history.", "54 years"),
        ("b", "Shared history.", "55 years"),
        ("12", "x", "58 years"),
    ]
    assert [record.id for record in left] == ["c", "d"]
    assert "cell C7 holds a formula that was never calculated" in left[0].reason
    assert "cell C8 contains a date" in left[1].reason
    assert "2019" not in everything(tmp_path / "out")
    assert "row 8" in left[1].place


def test_a_stray_cell_far_away_costs_nothing(tmp_path: Path) -> None:
    rows = [["id", "question", "answer", "images"], ["a", "What?", "Cyst.", "0.png"]]
    path = workbook(tmp_path / "s" / "t.xlsx", rows)
    book = openpyxl.load_workbook(path)
    sheet = book.active
    assert sheet is not None
    sheet["XFD20000"] = "x"
    book.save(path)
    book.close()
    found, *rest = list(sheets_of(path))
    assert not rest
    read = list(found.rows)
    assert [len(row.cells) for row in read if row.cells] == [4, 4, 16_384]


def test_a_large_sheet_is_read_in_one_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from openpyxl.worksheet.worksheet import Worksheet

    path = workbook(tmp_path / "s" / "t.xlsx", [["id", "question", "answer", "images"], *[[f"{n}", "q", "a", "0.png"] for n in range(200)]])
    asked: list[int] = []

    def width(sheet: Any) -> int:
        asked.append(1)
        return 4

    monkeypatch.setattr(Worksheet, "max_column", property(width))
    assert sum(1 for sheet in sheets_of(path) for _ in sheet.rows) == 201
    assert len(asked) <= 2


@pytest.mark.parametrize("area", ["A1:XFD1048576", "F1:F5000009"])
def test_giant_merged_areas_are_refused_before_they_are_unpacked(tmp_path: Path, area: str) -> None:
    path = workbook(tmp_path / "s" / "t.xlsx", [["id", "question", "answer", "images"]], "A3:B4")
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data.replace(b'ref="A3:B4"', f'ref="{area}"'.encode()))
    with pytest.raises(InputError, match="merges more than"):
        imported(path, tmp_path / "out")


def test_giant_workbooks_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = workbook(tmp_path / "s" / "t.xlsx", [["id", "question", "answer", "images"], ["a", "What?", "Cyst.", "0.png"]])
    monkeypatch.setattr(spreadsheets, "_MAX_CELLS", 7)
    with pytest.raises(InputError, match="more than 7 cells"):
        imported(path, tmp_path / "out")
    monkeypatch.setattr(spreadsheets, "_MAX_XML", 100)
    with pytest.raises(InputError, match="MiB of cells"):
        imported(path, tmp_path / "out")


@pytest.mark.parametrize("closed_at", [None, 7, 25])
def test_an_open_quotation_mark_costs_its_own_row_only(tmp_path: Path, closed_at: int | None) -> None:
    rows = [f"{n},What is it?,Cyst.,0.png" for n in range(30)]
    rows[5] = '5,"What is it?,Cyst.,0.png'
    if closed_at is not None:
        rows[closed_at] = f'{closed_at},What is it?",Cyst.,0.png'
    cases, left = imported(table(tmp_path / "s", *rows, header="id,question,answer,images"), tmp_path / "out")
    assert [case.id for case in cases] == [str(n) for n in range(30) if n != 5]
    (open_row,) = left
    assert open_row.place == "cases.csv, line 7"
    assert "quotation mark" in open_row.reason


@pytest.mark.parametrize(
    "rows",
    [
        ['1,What?,"Cyst.,0.png', '2,Which?,Stone.",1.png'],
        ['1,What?,Cyst.,"0.png', '2,Which?,Stone.,1.png"'],
        ['1, What?,"Cyst., 0.png', '2, Which?, Stone.",1.png'],
    ],
)
def test_two_rows_that_an_open_quotation_mark_made_one_are_held_back(tmp_path: Path, rows: list[str]) -> None:
    source = table(tmp_path / "s", *rows, "3,What?,Cyst.,2.png", header="id,question,answer,images")
    cases, left = imported(source, tmp_path / "out")
    assert [case.id for case in cases] == ["3"]
    assert {reason.place for reason in left} <= {"cases.csv, lines 2 and 3", "cases.csv, line 2", "cases.csv, line 3"}
    assert any("quotation mark" in reason.reason for reason in left)


def test_prose_of_two_lines_with_as_many_commas_as_a_row_is_one_cell(tmp_path: Path) -> None:
    source = table(tmp_path / "s", 'a,What?,"A cyst,\nno stone, no mass, no node",0.png', header="id,question,answer,images")
    cases, left = imported(source, tmp_path / "out")
    assert not left
    assert cases[0].answer == "A cyst,\nno stone, no mass, no node"


def test_numbers_of_the_patient_in_an_id_are_told(tmp_path: Path) -> None:
    source = table(tmp_path / "s", "4455667-1,What?,Cyst.,0.png,4455667", header="id,question,answer,images,mrn")
    assert ID_TELLS in import_cases(source, tmp_path / "kept").notes
    assert ID_TELLS not in import_cases(source, tmp_path / "hashed", ImportOptions(keep_ids=False)).notes


def ods(path: Path, *rows: list[tuple[str, str]]) -> Path:
    """A spreadsheet of OpenDocument, of cells by kind and value."""
    cells = {
        "text": '<table:table-cell office:value-type="string"><text:p>{0}</text:p></table:table-cell>',
        "number": '<table:table-cell office:value-type="float" office:value="{0}"><text:p>{0}</text:p></table:table-cell>',
        "date": '<table:table-cell office:value-type="date" office:date-value="{0}"><text:p>{0}</text:p></table:table-cell>',
        "flag": '<table:table-cell office:value-type="boolean" office:boolean-value="{0}"><text:p>{0}</text:p></table:table-cell>',
        "gap": '<table:table-cell table:number-columns-repeated="{0}"/>',
    }
    body = "".join(f"<table:table-row>{''.join(cells[kind].format(value) for kind, value in row)}</table:table-row>" for row in rows)
    spaces = " ".join(f'xmlns:{name}="urn:oasis:names:tc:opendocument:xmlns:{name}:1.0"' for name in ("office", "table", "text"))
    kind = "application/vnd.oasis.opendocument.spreadsheet"
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mimetype", kind)
        archive.writestr(
            "META-INF/manifest.xml",
            '<manifest:manifest xmlns:manifest="urn:oasis:names:tc:opendocument:xmlns:manifest:1.0">'
            f'<manifest:file-entry manifest:full-path="/" manifest:media-type="{kind}"/></manifest:manifest>',
        )
        archive.writestr(
            "content.xml",
            f'<office:document-content {spaces} office:version="1.2"><office:body><office:spreadsheet>'
            f'<table:table table:name="Cases">{body}</table:table></office:spreadsheet></office:body></office:document-content>',
        )
    return path


def test_open_document_spreadsheets_are_read(tmp_path: Path) -> None:
    write_png(tmp_path / "s" / "0.png")
    text = [("text", name) for name in ("id", "question", "answer", "image", "history", "age")]
    path = ods(
        tmp_path / "s" / "cases.ods",
        [("text", "Our cases")],
        [("gap", "1")],
        text,
        [("number", "7"), ("text", "What?"), ("flag", "true"), ("text", "0.png"), ("text", "Größe &lt;x&gt;"), ("number", "54")],
        [("number", "8"), ("text", "What?"), ("text", "Cyst."), ("text", "0.png"), ("date", "2020-01-02")],
        [("number", "9"), ("text", "What?"), ("text", "Cyst."), ("gap", "3")],
    )
    cases, left = imported(path, tmp_path / "out")
    assert [(case.id, case.answer, case.history, case.age) for case in cases] == [("7", "true", "Größe <x>", "54 years")]
    assert [reason.place for reason in left] == ["cases.ods, sheet 'Cases', row 5", "cases.ods, sheet 'Cases', row 6"]
    assert "E5 contains a date" in left[0].reason
    assert "no image" in left[1].reason


@pytest.mark.parametrize("suffix", [".ods", ".xls"])
def test_damaged_spreadsheets_of_other_kinds_are_said(tmp_path: Path, suffix: str) -> None:
    whole = ods(tmp_path / "s" / f"a{suffix}", [("text", "id"), ("text", "question")])
    whole.write_bytes(whole.read_bytes()[:200])
    with pytest.raises(InputError, match="not a readable spreadsheet"):
        imported(whole, tmp_path / "out")


def test_prose_of_many_lines_with_commas_is_one_cell(tmp_path: Path) -> None:
    rows = ['a,What?,"A cyst,\nno stone, no mass, no node.\nAs before.",0.png', "b,What?,Cyst.,1.png"]
    cases, left = imported(table(tmp_path / "s", *rows, header="id,question,answer,images"), tmp_path / "out")
    assert not left
    assert cases[0].answer.count("\n") == 2


def test_the_sheet_can_be_named(tmp_path: Path) -> None:
    path = workbook(tmp_path / "s" / "t.xlsx", [["nothing", "here"]])
    book = openpyxl.load_workbook(path)
    sheet = book.create_sheet("Cases")
    for row in (["id", "question", "answer", "image"], ["a", "What?", "Cyst.", "0.png"]):
        sheet.append(row)
    book.save(path)
    book.close()
    assert len(imported(path, tmp_path / "out")[0]) == 1
    assert len(imported(path, tmp_path / "out2", sheet="Cases")[0]) == 1
    with pytest.raises(InputError, match="there are Sheet, Cases"):
        imported(path, tmp_path / "out3", sheet="Casis")


def test_damaged_spreadsheets_and_missing_packages_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("t.xlsx", "t.xls", "t.ods"):
        (tmp_path / name).write_bytes(b"PK\x03\x04 this is no workbook")
        with pytest.raises(InputError, match="not a readable spreadsheet"):
            imported(tmp_path / name, tmp_path / "out")
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    # The pip of the user's shell may belong to another Python.
    with pytest.raises(InputError, match=rf"{re.escape(sys.executable)} -m pip install 'chiron-med\[import\]'"):
        imported(tmp_path / "t.xlsx", tmp_path / "out")


def test_the_modality_of_a_row_names_its_image_group(tmp_path: Path) -> None:
    source = table(
        tmp_path / "s", "a,What?,Cyst.,0.png,CT of the chest", "b,What?,Cyst.,1.png,", header="id,question,answer,images,modality"
    )
    cases, _ = imported(source, tmp_path / "out", modality="MRI")
    assert [case.images[0] for case in cases] == ["a/ct_group1/0.png", "b/mri_group1/0.png"]
    assert cases[1].modality == "MRI"


def test_ids_can_be_hashed(tmp_path: Path) -> None:
    import_cases(table(tmp_path / "s", "KH-4711,What?,Cyst.,0.png,,,,"), tmp_path / "out", ImportOptions(keep_ids=False))
    assert "4711" not in everything(tmp_path / "out")
