"""What scanners and exports send that the standard did not foresee: each file fails alone, and what can be shown is shown right."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chiron.cases.case import dicom_age
from chiron.importing.importer import import_cases
from tests.importing.dicoms import write_dicom
from tests.importing.support import imported, pixels


@pytest.mark.parametrize("syntax", [b"1.2.3.4.5.6.7.8.9.10", b"nonsense, and no uid", b"1.2.840.10008.5.1.4\0"])
def test_a_private_or_invalid_transfer_syntax_costs_its_own_file_only(tmp_path: Path, syntax: bytes) -> None:
    good, bad = tmp_path / "s" / "good.dcm", tmp_path / "s" / "bad.dcm"
    write_dicom(good)
    write_dicom(bad, StudyInstanceUID="1.2.3.9", SeriesInstanceUID="1.2.3.9.1")
    data = bad.read_bytes()
    assert data.count(b"1.2.840.10008.1.2.1\0") == 1
    bad.write_bytes(data.replace(b"1.2.840.10008.1.2.1\0", syntax))
    cases, left = imported(tmp_path / "s", tmp_path / "out")
    assert len(cases) == 1
    assert [record.place for record in left] == ["bad.dcm"]
    assert "transfer syntax is private or invalid" in left[0].reason


def test_a_gzipped_file_is_read_and_a_broken_archive_is_left_out(tmp_path: Path) -> None:
    write_dicom(tmp_path / "plain.dcm")
    whole = gzip.compress((tmp_path / "plain.dcm").read_bytes())
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "whole.dcm.gz").write_bytes(whole)
    (tmp_path / "s" / "cut.dcm.gz").write_bytes(whole[:300])
    cases, left = imported(tmp_path / "s", tmp_path / "out")
    assert len(cases) == 1
    assert [(record.place, "damaged or truncated" in record.reason) for record in left] == [("cut.dcm.gz", True)]


def body() -> np.ndarray[tuple[int, int], np.dtype[np.int16]]:
    image = np.full((64, 64), -1000, np.int16)
    image[16:48, 16:48] = 40
    image[24:32, 24:32] = -850
    image[40:45, 40:45] = 300
    return image


@pytest.mark.parametrize("kind", ["no tag", "range", "lossy", "unsigned tag"])
def test_padding_outside_the_field_of_view_does_not_wash_the_body_out(tmp_path: Path, kind: str) -> None:
    image, padded = body(), body()
    edge = np.random.default_rng(0).integers(-2040, -1960, (64, 8)).astype(np.int16)
    padded[:, :8] = -3024 if kind == "no tag" else -2000 if kind == "unsigned tag" else edge
    write_dicom(tmp_path / "plain.dcm", image)
    file = write_dicom(tmp_path / "padded.dcm", padded)
    if kind == "range":
        file.add_new("PixelPaddingValue", "SS", -2100)
        file.add_new("PixelPaddingRangeLimit", "SS", -1900)
    if kind == "unsigned tag":
        file.add_new("PixelPaddingValue", "US", 2**16 - 2000)
    file.save_as(tmp_path / "padded.dcm")
    shown = []
    for name in ("plain", "padded"):
        (case,), _ = imported(tmp_path / f"{name}.dcm", tmp_path / name)
        drawn = pixels(tmp_path / name / "images" / case.images[0])
        shown.append([int(drawn[28, 28]), int(drawn[20, 20])])
    assert shown == [[29, 204], [29, 204]]


@pytest.mark.parametrize(
    ("elements", "age"),
    [
        ({"PatientAge": "000Y", "PatientBirthDate": None}, None),
        ({"PatientAge": "999Y", "PatientBirthDate": None}, None),
        ({"PatientAge": None, "PatientBirthDate": "20190312"}, None),
        ({"PatientAge": None, "PatientBirthDate": "19000101"}, None),
        ({"PatientAge": None, "PatientBirthDate": "20190301"}, "under 1 year"),
        ({"PatientAge": "010D"}, "under 1 year"),
        ({"PatientAge": None}, "63 years"),
    ],
)
def test_placeholders_are_not_ages(tmp_path: Path, elements: dict[str, Any], age: str | None) -> None:
    write_dicom(tmp_path / "x.dcm", **elements)
    (case,), _ = imported(tmp_path / "x.dcm", tmp_path / "out")
    assert case.age == age
    assert dicom_age("000Y") is None


@pytest.mark.parametrize(
    "elements",
    [
        {"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]},
        {"SeriesDescription": "Dose Report"},
        {"ImageType": ["DERIVED", "SECONDARY", "OTHER", "CT_SOM5 PROT"]},
        {"SeriesDescription": "Patient Protocol"},
    ],
)
def test_screenshots_and_dose_sheets_get_the_warning_of_text_in_pixels(tmp_path: Path, elements: dict[str, Any]) -> None:
    write_dicom(tmp_path / "sheet.dcm", **elements)
    write_dicom(tmp_path / "plain.dcm", ImageType=["ORIGINAL", "PRIMARY", "AXIAL"], SeriesDescription="Chest routine")
    assert any("names in its pixels" in note for note in import_cases(tmp_path / "sheet.dcm", tmp_path / "a").notes)
    assert not any("names in its pixels" in note for note in import_cases(tmp_path / "plain.dcm", tmp_path / "b").notes)


def test_whatever_a_decoder_raises_costs_its_own_image_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from chiron.importing import dicom_pixels

    write_dicom(tmp_path / "s" / "a.dcm")
    write_dicom(tmp_path / "s" / "b.dcm", StudyInstanceUID="1.2.3.9", SeriesInstanceUID="1.2.3.9.1")
    drawn, calls = dicom_pixels._decoded, []  # the fault is planted where decoders fail

    def fails_once(*args: object) -> object:
        calls.append(args)
        if len(calls) == 1:
            raise RuntimeError("a fault nobody foresaw")
        return drawn(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(dicom_pixels, "_decoded", fails_once)
    cases, left = imported(tmp_path / "s", tmp_path / "out")
    assert len(cases) == 1
    assert [record.reason for record in left] == ["it cannot be read (RuntimeError): the file is damaged, or its kind is not supported"]


@pytest.mark.parametrize(
    "elements",
    [
        {"PatientMotherBirthName": "Oakenshield^Berta"},
        {"PhysiciansOfRecord": "Oakenshield^Berta"},
        {"ConsultingPhysicianName": "Oakenshield^Berta"},
        {"ResponsiblePerson": "Oakenshield"},
    ],
)
def test_every_person_that_the_header_names_is_looked_for(tmp_path: Path, elements: dict[str, Any]) -> None:
    write_dicom(tmp_path / "x.dcm", StudyDescription="Oakenshield follow-up", **elements)
    (case,), _ = imported(tmp_path / "x.dcm", tmp_path / "out")
    assert case.title is None


def test_numbers_within_sequences_are_looked_for(tmp_path: Path) -> None:
    from pydicom.dataset import Dataset

    other = Dataset()
    other.PatientID = "QX-44771"
    write_dicom(tmp_path / "x.dcm", OtherPatientIDsSequence=[other], StudyDescription="control qx-44771")
    (case,), _ = imported(tmp_path / "x.dcm", tmp_path / "out")
    assert case.title is None
