"""DICOM studies become cases; nothing of the patient but an allow-list comes along."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from chiron.cases.reader import read_cases
from chiron.importing.dicom_pixels import window
from chiron.importing.importer import import_cases
from chiron.importing.source import ImportOptions, SourceKind, Why
from tests.importing.dicoms import MR, SC, US, axial, write_dicom
from tests.importing.support import everything, imported, jsonl, left_out, pixels

REAL = Path(pydicom.__file__).parent / "data"
REFUSED = {
    "JPEG-lossy.dcm": "cannot be decoded",
    "JPEG2000-embedded-sequence-delimiter.dcm": "cannot be decoded",
    "MR_truncated.dcm": "truncated",
    "no_meta.dcm": "beginning is missing",
    "badVR.dcm": "RTDOSE",
    "liver_1frame.dcm": "SEG",
    "liver_expb_1frame.dcm": "SEG",
    "reportsi.dcm": "structured report",
    "reportsi_with_empty_number_tags.dcm": "structured report",
    "test-SR.dcm": "structured report",
    "rtstruct.dcm": "structure set",
    "rtplan.dcm": "plan",
    "rtplan_truncated.dcm": "plan",
    "ExplVR_BigEndNoMeta.dcm": "plan",
    "ExplVR_LitEndNoMeta.dcm": "plan",
    "waveform_ecg.dcm": "waveform",
    **dict.fromkeys(["UN_sequence", "empty_charset_LEI", "meta_missing_tsyntax", "nested_priv_SQ", "no_meta_group_length", "priv_SQ"], ""),
}
NO_PIXELS = {
    "UN_sequence.dcm",
    "empty_charset_LEI.dcm",
    "meta_missing_tsyntax.dcm",
    "nested_priv_SQ.dcm",
    "no_meta_group_length.dcm",
    "priv_SQ.dcm",
}


@pytest.mark.parametrize("path", sorted((REAL / "test_files").glob("*.dcm")), ids=lambda p: p.name)
def test_every_file_that_pydicom_carries_is_read_or_refused_with_its_reason(path: Path, tmp_path: Path) -> None:
    cases, left = imported(path, tmp_path / "out", kind=SourceKind.DICOM)
    words = "no pixels" if path.name in NO_PIXELS else "RTDOSE" if path.name.startswith("rtdose") else REFUSED.get(path.name)
    if words is None:
        assert len(cases) == 1, left
        assert not left
        assert cases[0].images
        assert all(pixels(tmp_path / "out" / "images" / name).size for name in cases[0].images)
    else:
        assert not cases
        assert [words in record.reason for record in left] == [True], left


def test_a_dicomdir_is_followed(tmp_path: Path) -> None:
    cases, left = imported(REAL / "test_files" / "dicomdirtests" / "DICOMDIR", tmp_path / "out")
    assert len(cases) == 6
    assert not left
    assert {case.modality for case in cases} == {"X-ray", "CT", "MRI"}
    assert len({case.meta["patient"] for case in cases}) == 2


def test_files_that_a_dicomdir_names_and_are_not_there_are_said(tmp_path: Path) -> None:
    shutil.copy(REAL / "test_files" / "dicomdirtests" / "DICOMDIR", tmp_path / "DICOMDIR")
    cases, left = imported(tmp_path / "DICOMDIR", tmp_path / "out")
    assert not cases
    assert len(left) == 31
    assert all("copy the whole medium" in record.reason for record in left)


def test_nothing_of_the_patient_comes_along(tmp_path: Path) -> None:
    write_dicom(
        tmp_path / "Featherstone" / "a.dcm",
        StudyDescription="CT chest for Featherstone",
        SeriesDescription="Thin 1 mm",
        BodyPartExamined="CHEST",
    )
    cases, _ = imported(tmp_path / "Featherstone", tmp_path / "out")
    (case,) = cases
    assert (case.age, case.sex, case.modality, case.body_system, case.title) == ("63 years", "Female", "CT", "Chest", None)
    assert case.meta["series"] == [
        {"group": "ct_group1", "modality": "CT", "body_part": "chest", "description": "Thin 1 mm", "slices": 1, "images": 1}
    ]
    said = everything(tmp_path / "out").casefold()
    for secret in ("featherstone", "agatha", "998877", "1956", "2019", "554433", "quigley", "elsewhere", "1.2.3.4", "private"):
        assert secret not in said
    assert case.unlabeled


@pytest.mark.parametrize(
    ("name", "description"),
    [
        ("Li^Wu", "Wu Li thin"),
        ("O'Brien^Sean", "O'Brien axial"),
        ("O'Brien^Sean", "OBRIEN axial"),
        ("Mueller-Schmidt^Anne", "Schmidt CT"),
        ("KIM^Sam", "KIM_SAM_thin"),
        ("Smith^John", "smith's chest"),
    ],
)
def test_a_name_is_known_however_it_is_written_in_a_description(tmp_path: Path, name: str, description: str) -> None:
    write_dicom(tmp_path / "a.dcm", PatientName=name, SeriesDescription=description, StudyDescription="CT of the chest, do not thin")
    (case,), _ = imported(tmp_path / "a.dcm", tmp_path / "out")
    assert "description" not in case.meta["series"][0]
    assert case.title == "CT of the chest, do not thin"


def test_a_body_part_that_is_a_name_is_left_behind(tmp_path: Path) -> None:
    write_dicom(tmp_path / "a.dcm", PatientName="Li^Wu", BodyPartExamined="LI WU")
    (case,), _ = imported(tmp_path / "a.dcm", tmp_path / "out")
    assert "body_part" not in case.meta
    assert "body_part" not in case.meta["series"][0]


def test_pseudonyms_hold_over_imports_with_one_salt_and_no_other(tmp_path: Path) -> None:
    write_dicom(tmp_path / "s" / "a.dcm")
    first, _ = imported(tmp_path / "s", tmp_path / "1")
    again, _ = imported(tmp_path / "s", tmp_path / "2", salt=tmp_path / "1" / ".salt")
    other, _ = imported(tmp_path / "s", tmp_path / "3")
    assert first[0].id == again[0].id != other[0].id
    assert first[0].meta["patient"] == again[0].meta["patient"] != other[0].meta["patient"]
    assert (tmp_path / "1" / ".salt").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "1" / ".salt").read_text().strip() not in everything(tmp_path / "1") + (tmp_path / "1" / "import.json").read_text()
    kept, _ = imported(tmp_path / "s", tmp_path / "4", keep_ids=True)
    assert (kept[0].id, kept[0].meta["patient"]) == ("1.2.3.4.5", "PAT-998877")


@pytest.mark.parametrize(
    ("elements", "age"),
    [
        ({"PatientAge": "093Y"}, "90+"),
        ({"PatientAge": "018M"}, "1 year"),
        ({"PatientAge": "002W"}, "under 1 year"),
        ({"PatientAge": None}, "63 years"),
        ({"PatientAge": None, "PatientBirthDate": "19200101"}, "90+"),
        ({"PatientAge": None, "PatientBirthDate": None}, None),
    ],
)
def test_ages_are_told_in_years_and_high_ones_in_a_band(tmp_path: Path, elements: dict[str, Any], age: str | None) -> None:
    write_dicom(tmp_path / "a.dcm", **elements)
    cases, _ = imported(tmp_path / "a.dcm", tmp_path / "out")
    assert cases[0].age == age


def drawn(tmp_path: Path, array: Any, **elements: Any) -> Any:
    write_dicom(tmp_path / "a.dcm", array, **elements)
    cases, left = imported(tmp_path / "a.dcm", tmp_path / "out")
    assert not left
    return pixels(tmp_path / "out" / "images" / cases[0].images[0])


def test_the_first_window_of_the_header_counts_after_the_rescaling(tmp_path: Path) -> None:
    stored = np.array([[0, 984, 1024, 1064, 1104, 4000]] * 2, np.int16)
    grey = drawn(tmp_path, stored, RescaleSlope=1, RescaleIntercept=-1024, WindowCenter=[40, 600], WindowWidth=[80, 1600])
    assert grey[0, 0] == 0
    assert grey[0, 1] == 0
    assert grey[0, 5] == 255
    assert grey[0, 4] == 255
    # PS3.3 C.11.2.1.2: ((0 - 39.5) / 79 + 0.5) * 255 and ((40 - 39.5) / 79 + 0.5) * 255
    assert list(grey[0, 2:4]) == [0, 129]


def test_windows_follow_their_function() -> None:
    values = np.array([-100.0, 0.0, 50.0, 100.0, 300.0])
    assert window(values, 50, 100, "LINEAR_EXACT").tolist() == [0, 0, 0.5, 1, 1]
    assert window(values, 50, 100, "SIGMOID")[2] == 0.5
    assert window(values, 50, 1).tolist() == [0, 0, 1, 1, 1]
    assert window(values, 50.5, 101)[2] == 0.5


def test_monochrome1_is_a_negative(tmp_path: Path) -> None:
    stored = np.array([[0, 100, 200, 255]] * 2, np.uint8)
    assert drawn(tmp_path, stored, PhotometricInterpretation="MONOCHROME1").tolist() == (255 - stored).tolist()


def test_colour_stays_colour(tmp_path: Path) -> None:
    stored = np.zeros((4, 4, 3), np.uint8)
    stored[..., 0] = 200
    assert drawn(tmp_path, stored, SOPClassUID=US, Modality="US").tolist() == stored.tolist()


def test_a_lookup_table_comes_before_a_window(tmp_path: Path) -> None:
    table = Dataset()
    table.add_new("LUTDescriptor", "US", [4, 0, 8])
    table.add_new("LUTData", "US", [255, 0, 128, 64])
    stored = np.array([[0, 1, 2, 3]] * 2, np.uint16)
    grey = drawn(tmp_path, stored, VOILUTSequence=Sequence([table]), WindowCenter=2, WindowWidth=4)
    assert grey[0].tolist() == [255, 0, 128, 64]


def test_without_a_window_the_padding_does_not_count(tmp_path: Path) -> None:
    stored = np.full((20, 20), -2000, np.int16)
    stored[5:15, 5:15] = np.linspace(100, 300, 100).reshape(10, 10)
    grey = drawn(tmp_path, stored, PixelPaddingValue=-2000)
    assert grey[0, 0] == 0
    assert 100 < grey[10, 10] < 160


def test_pixels_that_are_not_square_are_drawn_out(tmp_path: Path) -> None:
    assert drawn(tmp_path, np.zeros((10, 20), np.int16), PixelSpacing=[2.0, 1.0]).shape == (20, 20)


def test_slices_stand_in_the_order_of_space_and_not_of_names(tmp_path: Path) -> None:
    heights = [30.0, -10.0, 20.0, 0.0, 10.0]
    for number, height in enumerate(heights):
        write_dicom(tmp_path / "s" / f"{number}.dcm", np.full((4, 4), int(height) + 100, np.uint8), **axial(height, number))
    cases, _ = imported(tmp_path / "s", tmp_path / "out")
    seen = [int(pixels(tmp_path / "out" / "images" / name)[0, 0]) for name in cases[0].images]
    assert seen == sorted(int(h) + 100 for h in heights)


def test_slices_are_every_nth_or_at_most_eight(tmp_path: Path) -> None:
    write_dicom(tmp_path / "a.dcm", np.repeat(np.arange(40, dtype=np.uint8), 16).reshape(40, 4, 4), Modality="MR", SOPClassUID=MR)
    few, _ = imported(tmp_path / "a.dcm", tmp_path / "few")
    assert [int(pixels(tmp_path / "few" / "images" / n)[0, 0]) for n in few[0].images] == [2, 7, 12, 17, 22, 27, 32, 37]
    every, _ = imported(tmp_path / "a.dcm", tmp_path / "every", slices=10)
    assert [int(pixels(tmp_path / "every" / "images" / n)[0, 0]) for n in every[0].images] == [4, 14, 24, 34]
    assert few[0].images[0].split("/")[1] == "mri_group1"


def test_key_images_come_before_evenly_spaced_ones(tmp_path: Path) -> None:
    files = [write_dicom(tmp_path / "s" / f"{n}.dcm", np.full((4, 4), n, np.uint8), **axial(n, n)) for n in range(20)]
    item, series, study = Dataset(), Dataset(), Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = files[3].SOPClassUID, files[3].SOPInstanceUID
    series.ReferencedSOPSequence, series.SeriesInstanceUID = Sequence([item]), "1.2.3.4.5.1"
    study.ReferencedSeriesSequence, study.StudyInstanceUID = Sequence([series]), "1.2.3.4.5"
    write_dicom(tmp_path / "s" / "key.dcm", Modality="KO", CurrentRequestedProcedureEvidenceSequence=Sequence([study]))
    cases, left = imported(tmp_path / "s", tmp_path / "out")
    assert [int(pixels(tmp_path / "out" / "images" / n)[0, 0]) for n in cases[0].images] == [3]
    assert not left


def test_series_are_groups_and_one_that_fails_leaves_the_others(tmp_path: Path) -> None:
    write_dicom(tmp_path / "s" / "1.dcm", SeriesInstanceUID="1.1", SeriesNumber=2)
    write_dicom(tmp_path / "s" / "2.dcm", SeriesInstanceUID="1.2", SeriesNumber=1, Modality="PT", SOPClassUID=MR)
    write_dicom(tmp_path / "s" / "3.dcm", SeriesInstanceUID="1.3", SeriesNumber=3, PixelData=b"\0\0")
    cases, left = imported(tmp_path / "s", tmp_path / "out")
    (case,) = cases
    assert [name.split("/")[1] for name in case.images] == ["pet_group1", "ct_group1"]
    assert case.modality == "PET, CT"
    assert [(record.place, record.id) for record in left] == [("3.dcm", case.id)]
    assert "truncated" in left[0].reason


def test_text_burned_into_pixels_is_held_back_and_captures_are_warned_of(tmp_path: Path) -> None:
    write_dicom(tmp_path / "s" / "1.dcm", StudyInstanceUID="1.1", SOPClassUID=US, Modality="US", BurnedInAnnotation="YES")
    write_dicom(tmp_path / "s" / "2.dcm", StudyInstanceUID="1.2", SeriesInstanceUID="2", SOPClassUID=SC, Modality="OT")
    summary = import_cases(tmp_path / "s", tmp_path / "out")
    (held,) = left_out(tmp_path / "out")
    assert held.why is Why.IDENTIFYING
    assert "--allow-burned-in" in held.reason
    assert any("check them" in note for note in summary.notes)
    assert len(imported(tmp_path / "s", tmp_path / "all", allow_burned_in=True)[0]) == 2


def test_a_compression_that_nothing_decodes_names_the_package_to_add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pydicom.pixels.decoders.base import Decoder

    monkeypatch.setattr(Decoder, "is_available", property(lambda self: False))
    _, (left,) = imported(REAL / "test_files" / "MR_small_jp2klossless.dcm", tmp_path / "out")
    assert left.why is Why.COMPRESSION
    assert "JPEG 2000" in left.reason
    assert "pylibjpeg-openjpeg" in left.reason
    _, (left,) = imported(REAL / "test_files" / "JPGExtended.dcm", tmp_path / "out2")
    assert "pylibjpeg-libjpeg" in left.reason


def test_claims_of_giant_images_are_not_believed(tmp_path: Path) -> None:
    write_dicom(tmp_path / "a.dcm", Rows=60_000, Columns=60_000)
    _, (left,) = imported(tmp_path / "a.dcm", tmp_path / "out")
    assert "3,600,000,000 pixels" in left.reason


def test_damaged_files_and_strangers_stop_nothing(tmp_path: Path) -> None:
    write_dicom(tmp_path / "s" / "good.dcm")
    (tmp_path / "s" / "cut.dcm").write_bytes((tmp_path / "s" / "good.dcm").read_bytes()[:300])
    (tmp_path / "s" / "noise.dcm").write_bytes(os.urandom(3000))
    (tmp_path / "s" / "readme.txt").write_text("hello")
    cases, left = imported(tmp_path / "s", tmp_path / "out")
    assert len(cases) == 1
    assert {record.place for record in left} <= {"cut.dcm", "noise.dcm"}
    assert len(left) == 2


def test_questions_are_put_to_studies_by_what_names_them(tmp_path: Path) -> None:
    for n, accession in enumerate(("ACC1", "ACC2", "ACC3"), start=1):
        write_dicom(
            tmp_path / "s" / f"study{n}" / "a.dcm", StudyInstanceUID=f"1.{n}", SeriesInstanceUID=f"1.{n}.1", AccessionNumber=accession
        )
    table = tmp_path / "q.csv"
    table.write_text(
        "accession,folder,question,answer,history,findings\n"
        "ACC1,,What is it?,A cyst.,Pain.,A cyst of 3 cm.\n"
        ",study2,Which side?,Left.,Seen by Dr Featherby on 3/4/2019.,None.\n"
        "NOWHERE,,What?,That.,,\n",
        "utf-8",
    )
    cases, left = imported(tmp_path / "s", tmp_path / "out", questions=table)
    asked = {case.question: case for case in cases}
    assert asked["What is it?"].findings == ("A cyst of 3 cm.",)
    assert (asked["What is it?"].age, asked["What is it?"].modality) == ("63 years", "CT")
    assert sorted(asked) == ["", "What is it?"]
    reasons = {record.place: record.reason for record in left}
    assert "no study of the source" in reasons["q.csv, line 4"]
    held = next(reason for place, reason in reasons.items() if "q.csv, line 3" in place)
    assert "name in history, line 1" in held
    assert "date in history, line 1" in held
    assert "Featherby" not in everything(tmp_path / "out")


def test_questions_in_jsonl_may_put_several_to_one_study(tmp_path: Path) -> None:
    write_dicom(tmp_path / "s" / "a.dcm")
    asked = [{"study": "1.2.3.4.5", "question": q, "answer": "Yes."} for q in ("One?", "Two?")]
    cases, left = imported(tmp_path / "s", tmp_path / "out", questions=jsonl(tmp_path / "q.jsonl", *asked, [1], {"question": "x"}))
    assert [case.question for case in cases] == ["One?", "Two?"]
    assert cases[0].images == cases[1].images
    assert len({case.id for case in cases}) == 2
    assert len(left) == 2


def test_a_case_without_a_question_is_material_and_no_case_for_a_search(tmp_path: Path) -> None:
    write_dicom(tmp_path / "a.dcm")
    summary = import_cases(tmp_path / "a.dcm", tmp_path / "out", ImportOptions())
    assert (summary.cases, summary.unlabeled) == (1, 1)
    (bad,) = read_cases(tmp_path / "out" / "cases.jsonl")
    assert "no question" in getattr(bad, "problem", "")


def test_a_question_whose_key_fits_several_studies_is_left_out(tmp_path: Path) -> None:
    for n, patient in enumerate(("P0001", "P0002", "P0002")):
        write_dicom(tmp_path / "s" / f"{n}" / "CT" / "a.dcm", StudyInstanceUID=f"1.{n}", SeriesInstanceUID=f"1.{n}.1", PatientID=patient)
    rows = [
        {"folder": "CT", "question": "Whose?", "answer": "Nobody's."},
        {"id": "CT", "question": "Whose?", "answer": "Nobody's."},
        {"folder": "0/CT", "question": "First?", "answer": "Yes."},
        {"patient": "P0002", "question": "Both?", "answer": "Yes."},
    ]
    cases, left = imported(tmp_path / "s", tmp_path / "out", questions=jsonl(tmp_path / "q.jsonl", *rows))
    assert sorted(case.question for case in cases) == ["Both?", "Both?", "First?"]
    assert [(record.place, "matches 3 studies" in record.reason) for record in left] == [
        ("q.jsonl, line 1", True),
        ("q.jsonl, line 2", True),
    ]


def test_two_patients_under_one_study_uid_are_two_cases(tmp_path: Path) -> None:
    for n, (patient, age) in enumerate([("P0001", "030Y"), ("P0002", "080Y"), (None, "050Y")]):
        write_dicom(tmp_path / "s" / f"{n}.dcm", PatientID=patient, PatientAge=age)
    summary = import_cases(tmp_path / "s", tmp_path / "out")
    assert summary.notes["studies of several patients with one study UID: one case for each patient"] == 3
    for keep in (None, True):
        cases, _ = imported(tmp_path / "s", tmp_path / f"out{keep}", keep_ids=keep)
        assert sorted(case.age or "" for case in cases) == ["30 years", "50 years", "80 years"]
        assert [len(case.images) for case in cases] == [1, 1, 1]
        assert len({case.meta.get("patient") for case in cases}) == 3


def test_a_window_of_no_width_is_passed_over_and_said(tmp_path: Path) -> None:
    stored = np.arange(400, dtype=np.int16).reshape(20, 20)
    assert len(np.unique(drawn(tmp_path, stored, WindowCenter=0, WindowWidth=0))) > 100
    summary = import_cases(tmp_path / "a.dcm", tmp_path / "again")
    assert summary.notes["series whose window has no width: displayed with the range of their values"] == 1


def test_a_file_of_many_frames_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dicom(tmp_path / "a.dcm", np.zeros((30, 4, 4), np.uint8), Modality="MR", SOPClassUID=MR)
    whole: list[Any] = []
    read = pydicom.dcmread

    def counted(path: Any, *args: Any, **options: Any) -> Any:
        if not options.get("stop_before_pixels"):
            whole.append(path)
        return read(path, *args, **options)

    monkeypatch.setattr(pydicom, "dcmread", counted)
    cases, _ = imported(tmp_path / "a.dcm", tmp_path / "out", slices=1)
    assert len(cases[0].images) == 30
    assert len(whole) == 1
