"""One import for all sources: what it writes, that it does nothing twice, and that it refuses what it cannot know."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from chiron.cases.images import ImageFolder
from chiron.cases.reader import read_cases
from chiron.errors import InputError
from chiron.importing.drafts import ImportOptions, SourceKind
from chiron.importing.importer import import_cases
from chiron.importing.source import kind_of
from tests.importing.dicoms import write_dicom
from tests.importing.support import everything, imported, jsonl
from tests.support.cases import a_case, write_cases, write_png


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {str(p.relative_to(folder)): (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}


def test_tidy_cases_come_through_as_they_are(tmp_path: Path) -> None:
    source = write_cases(tmp_path / "s", 3)
    cases, left = imported(source, tmp_path / "out")
    assert cases == list(read_cases(source))
    assert not left
    for case in cases:
        assert (tmp_path / "out" / "images" / case.images[0]).read_bytes() == (tmp_path / "s" / "images" / case.images[0]).read_bytes()


def test_published_cases_come_through_tidy(published: Path, tmp_path: Path) -> None:
    cases, left = imported(published, tmp_path / "out")
    assert len(cases) == 10
    assert not left
    folder = ImageFolder(tmp_path / "out" / "images")
    assert all(folder.check(name) for case in cases for name in case.images)


def test_again_changes_nothing_and_a_change_changes_what_it_must(tmp_path: Path) -> None:
    source = write_cases(tmp_path / "s", 3)
    first = import_cases(source, tmp_path / "out")
    before = snapshot(tmp_path / "out")
    again = import_cases(source, tmp_path / "out")
    assert again.unchanged
    assert not first.unchanged
    assert snapshot(tmp_path / "out") == before
    (tmp_path / "out" / "images" / "case-00001" / "0.png").unlink()
    assert not import_cases(source, tmp_path / "out").unchanged
    assert {k: v[0] for k, v in snapshot(tmp_path / "out").items()} == {k: v[0] for k, v in before.items()}
    records = [json.loads(line) for line in source.read_text().splitlines()]
    jsonl(source, *records[1:])
    assert import_cases(source, tmp_path / "out").cases == 2
    assert not (tmp_path / "out" / "images" / "case-00000" / "0.png").exists()


def test_an_import_that_was_broken_off_is_not_taken_for_whole(tmp_path: Path) -> None:
    class Broken(Exception):
        pass

    def break_off(number: int, total: int | None) -> None:
        raise Broken

    for n in range(2):
        frames = np.random.default_rng(n).integers(0, 255, (40, 4, 4), np.uint8)
        write_dicom(tmp_path / "s" / f"{n}.dcm", frames, StudyInstanceUID=f"1.{n}")
    first = import_cases(tmp_path / "s", tmp_path / "out")
    images = {k: v[0] for k, v in snapshot(tmp_path / "out" / "images").items()}
    with pytest.raises(Broken):
        import_cases(tmp_path / "s", tmp_path / "out", ImportOptions(slices=10), break_off)
    again = import_cases(tmp_path / "s", tmp_path / "out")
    assert not again.unchanged
    assert again.images == first.images
    assert {k: v[0] for k, v in snapshot(tmp_path / "out" / "images").items()} == images


def test_an_image_that_was_altered_is_written_again(tmp_path: Path) -> None:
    source = write_cases(tmp_path / "s", 1)
    import_cases(source, tmp_path / "out")
    image = tmp_path / "out" / "images" / "case-00000" / "0.png"
    before = image.read_bytes()
    write_png(image, seed=99)
    assert not import_cases(source, tmp_path / "out").unchanged
    assert image.read_bytes() == before


def test_two_imports_do_not_write_one_folder(tmp_path: Path) -> None:
    source = write_cases(tmp_path / "s", 1)

    def second(number: int, total: int | None) -> None:
        with pytest.raises(InputError, match="another import"):
            import_cases(source, tmp_path / "out")

    assert import_cases(source, tmp_path / "out", progress=second).cases == 1


def test_what_was_imported_can_be_imported(tmp_path: Path) -> None:
    write_dicom(tmp_path / "s" / "a.dcm")
    first, _ = imported(tmp_path / "s", tmp_path / "one")
    second, _ = imported(tmp_path / "one" / "cases.jsonl", tmp_path / "two")
    assert first == second


def test_identifying_text_of_any_field_is_held_back_by_line(tmp_path: Path) -> None:
    source = write_cases(tmp_path / "s", 2)
    records = [json.loads(line) for line in source.read_text().splitlines()]
    records[0]["findings"] = ["A cyst.", "No change\nsince 12/03/2019."]
    records[1]["comment"] = {"seen": ["by Dr Oakshott"]}
    cases, left = imported(jsonl(source, *records), tmp_path / "out")
    assert not cases
    assert [record.place for record in left] == ["cases.jsonl, line 1", "cases.jsonl, line 2"]
    assert "date in findings[2], line 2" in left[0].reason
    assert "name in comment.seen[1], line 1" in left[1].reason
    assert "2019" not in (tmp_path / "out" / "not-imported.jsonl").read_text()
    assert not list((tmp_path / "out" / "images").rglob("*.png"))


def test_an_id_that_names_somebody_is_not_repeated(tmp_path: Path) -> None:
    write_png(tmp_path / "images" / "0.png")
    source = jsonl(tmp_path / "c.jsonl", a_case("x", images=("0.png",)).to_record() | {"id": "Oakshott^Jane"})
    _, (left,) = imported(source, tmp_path / "out")
    assert left.id is None
    assert "Oakshott" not in (tmp_path / "out" / "not-imported.jsonl").read_text()


def test_fields_that_name_a_patient_stay_behind_and_are_looked_for(tmp_path: Path) -> None:
    source = write_cases(tmp_path / "s", 3)
    records = [json.loads(line) for line in source.read_text().splitlines()]
    records[0] |= {"patient": "KH-4711", "age": "93 years", "patient_name": "Erika Mustermann", "date of birth": 1950.5}
    records[1] |= {"MRN": 471199, "origin": {"ward": "7", "Referring Physician": "Oakshott"}, "history": "Pain."}
    records[2] |= {"patient": {"name": "Mustermann"}, "history": "Sent as Mustermann asked."}
    cases, (held,) = imported(jsonl(source, *records), tmp_path / "out")
    assert cases[0].age == "90+"
    assert all(case.meta["patient"].startswith("patient-") for case in cases)
    assert cases[1].meta["origin"] == {"ward": "7"}
    assert "name in history, line 1" in held.reason
    said = everything(tmp_path / "out").casefold()
    assert not any(word in said for word in ("4711", "93 years", "erika", "mustermann", "1950", "oakshott"))
    kept, _ = imported(source, tmp_path / "kept", keep_ids=True)
    assert kept[0].meta["patient"] == "KH-4711"
    again, _ = imported(tmp_path / "out" / "cases.jsonl", tmp_path / "again")
    assert [case.meta["patient"] for case in again] == [case.meta["patient"] for case in cases]


def test_what_lies_too_deep_to_be_looked_over_is_left_out(tmp_path: Path) -> None:
    source = write_cases(tmp_path / "s", 1)
    record = json.loads(source.read_text())
    for _ in range(30):
        record["more"] = {"in": record.get("more", "by Dr Oakshott")}
    cases, (left,) = imported(jsonl(source, record), tmp_path / "out")
    assert not cases
    assert "deep" in left.reason


def test_hashed_ids_are_not_told_by_what_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "s" / "images").mkdir(parents=True)
    good = {"id": "MRN00123456", "question": "What?", "answer": "Cyst.", "images": ["Oakshott_Jane/1.png"]}
    records = [good, good, {**good, "id": "MRN7777777", "answer": 5}]
    _, left = imported(jsonl(tmp_path / "s" / "c.jsonl", *records), tmp_path / "out", keep_ids=False)
    assert [(record.id or "").partition("-")[0] for record in left] == ["case"] * 3
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "c.csv").write_text("id,question,answer,image\nMRN00123456,What?,,1.png\nMRN7777777,What?,Cyst.,Oakshott_Jane.png\n")
    _, left = imported(tmp_path / "t", tmp_path / "out2", keep_ids=False)
    assert [(record.id or "").partition("-")[0] for record in left] == ["case"] * 2
    for out in ("out", "out2"):
        said = everything(tmp_path / out)
        assert not any(word in said for word in ("MRN", "Oakshott", "Jane"))


def test_another_source_or_a_strange_folder_is_refused(tmp_path: Path) -> None:
    one, two = write_cases(tmp_path / "1", 1), write_cases(tmp_path / "2", 1)
    import_cases(one, tmp_path / "out")
    with pytest.raises(InputError, match="contains an import of"):
        import_cases(two, tmp_path / "out")
    with pytest.raises(InputError, match="is the source: name"):
        import_cases(one, tmp_path / "1")
    with pytest.raises(InputError, match="another origin"):
        import_cases(one, tmp_path / "2")
    with pytest.raises(InputError, match="does not exist"):
        import_cases(tmp_path / "none", tmp_path / "out3")


def test_kinds_are_told_by_what_is_there(tmp_path: Path) -> None:
    write_dicom(tmp_path / "d" / "study" / "no-suffix")
    assert kind_of(tmp_path / "d") is SourceKind.DICOM
    assert kind_of(write_cases(tmp_path / "c", 1).parent) is SourceKind.JSONL
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "a.csv").write_text("x")
    write_png(tmp_path / "t" / "a.png")
    assert kind_of(tmp_path / "t") is SourceKind.TABLE
    (tmp_path / "t" / "b.jsonl").write_text("x")
    with pytest.raises(InputError, match=r"several kinds .*--from"):
        kind_of(tmp_path / "t")
    (tmp_path / "e").mkdir()
    with pytest.raises(InputError, match="contains no JSONL"):
        kind_of(tmp_path / "e")


def test_a_link_out_of_a_folder_is_not_followed(tmp_path: Path) -> None:
    write_dicom(tmp_path / "elsewhere.dcm", PatientAge="070Y")
    write_dicom(tmp_path / "s" / "a.dcm")
    (tmp_path / "s" / "b.dcm").symlink_to(tmp_path / "elsewhere.dcm")
    cases, _ = imported(tmp_path / "s", tmp_path / "out")
    assert len(cases[0].images) == 1
    assert cases[0].age == "63 years"


def test_a_missing_package_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name, kind in {"pydicom": SourceKind.DICOM, "nibabel": SourceKind.NIFTI}.items():
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(InputError, match=rf"'{name}'.*chiron-med\[import\]"):
            import_cases(tmp_path, tmp_path / "out", ImportOptions(kind=kind))


@pytest.mark.parametrize(
    ("image", "about"),
    [
        ("Zwackelmann_Hieronymus/0.png", {"patient_name": "Zwackelmann, Hieronymus"}),
        ("MRN4455667_19560304/0.png", {}),
        ("ct_group1/ACC778812.png", {"accession": "ACC778812"}),
        ("a/Dr. Zwackelmann.png", {}),
    ],
)
def test_image_names_that_may_say_who_the_patient_is_stay_behind(tmp_path: Path, image: str, about: dict[str, str]) -> None:
    write_png(tmp_path / "images" / image)
    source = jsonl(tmp_path / "c.jsonl", {"id": "1", "question": "What?", "answer": "Cyst.", "images": [image], **about})
    cases, left = imported(source, tmp_path / "out")
    assert not left
    assert cases[0].images in {("1/0.png",), ("1/ct_group1/0.png",)}
    assert not re.search("zwackelmann|hieronymus|4455667|778812|1956", everything(tmp_path / "out"), re.IGNORECASE)


def test_fields_called_as_people_and_their_addresses_stay_behind(tmp_path: Path) -> None:
    write_png(tmp_path / "images" / "0.png")
    names = ["PatientsName", "patientname", "full_name", "physicians", "radiologist_name", "reported_by", "phone_number", "email", "nhs_no"]
    record = {"id": "1", "question": "What?", "answer": "Cyst.", "images": ["0.png"], "file_name": "kept", "source": "kept"}
    source = jsonl(tmp_path / "c.jsonl", {**record, **dict.fromkeys(names, "Zwackelmann 17")})
    cases, left = imported(source, tmp_path / "out")
    assert not left
    assert dict(cases[0].meta) == {"file_name": "kept", "source": "kept"}


@pytest.mark.parametrize("value", [{"Dr. Zwackelmann": 1}, {"of Dr. Zwackelmann": {"seen": "04.03.1956"}}, 44556671.0, [44556671.0]])
def test_names_of_fields_and_numbers_are_looked_over_too(tmp_path: Path, value: object) -> None:
    write_png(tmp_path / "images" / "0.png")
    source = jsonl(tmp_path / "c.jsonl", {"id": "1", "question": "What?", "answer": "Cyst.", "images": ["0.png"], "more": value})
    assert import_cases(source, tmp_path / "out").left_out == {"identifying": 1}
    assert "Zwackelmann" not in everything(tmp_path / "out")
