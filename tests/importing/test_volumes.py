"""NIfTI volumes are cut into axial slices that lie as radiologists look at them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chiron.importing.drafts import SourceKind
from chiron.importing.importer import import_cases
from tests.importing.support import everything, imported, pixels

nibabel = pytest.importorskip("nibabel")
REAL = Path(nibabel.__file__).parent / "tests" / "data"


def test_every_volume_that_nibabel_carries_is_read_or_refused_with_its_reason(tmp_path: Path) -> None:
    cases, left = imported(REAL, tmp_path / "out", kind=SourceKind.NIFTI)
    reasons = {record.place: record.reason for record in left}
    assert set(reasons) == {"analyze.hdr", "nifti1.hdr", "nifti2.hdr", "row_major.dconn.nii", "standard.nii.gz"}
    assert len(cases) == len(list(REAL.glob("*.nii*"))) - 2
    assert "its voxels (analyze.img) are missing" in reasons["analyze.hdr"]
    assert "not a volume in space" in reasons["row_major.dconn.nii"]
    assert "label map" in reasons["standard.nii.gz"]
    for case in cases:
        assert all(pixels(tmp_path / "out" / "images" / name).std() >= 0 for name in case.images)


def planted(axes: str) -> Any:
    """One volume, stored in another order of axes: bright at the patient's right, front, and head."""
    data = np.zeros((10, 12, 6), np.float32)  # right-to-left is axis 0 in RAS+, whose index grows to the right
    data[8:, 10:, :] = 100
    data[:, :, 5] += 50
    image = nibabel.Nifti1Image(data, np.diag([1.0, 1.0, 2.0, 1.0]))
    return image.as_reoriented(
        nibabel.orientations.ornt_transform(nibabel.io_orientation(image.affine), nibabel.orientations.axcodes2ornt(axes))
    )


@pytest.mark.parametrize("axes", ["RAS", "LPS", "LAS", "ASR", "SLP", "IPR", "PIR", "RPI"])
def test_right_is_left_and_front_is_top_however_it_is_stored(tmp_path: Path, axes: str) -> None:
    nibabel.save(planted(axes), tmp_path / "v.nii.gz")
    cases, _ = imported(tmp_path / "v.nii.gz", tmp_path / "out")
    slices = [pixels(tmp_path / "out" / "images" / name) for name in cases[0].images]
    assert len(slices) == 6
    low = slices[0]
    assert low.shape == (12, 10)
    assert low[:2, :2].min() > low[:2, 2:].max()
    assert low[:2, :2].min() > low[2:].max()
    assert slices[5][6, 6] > slices[0][6, 6]


def test_volumes_of_a_file_are_groups_unless_they_are_a_time_series(tmp_path: Path) -> None:
    for count in (3, 20):
        nibabel.save(
            nibabel.Nifti1Image(np.random.default_rng(0).random((5, 5, 4, count)).astype(np.float32), np.eye(4)), tmp_path / f"{count}.nii"
        )
    (few,), _ = imported(tmp_path / "3.nii", tmp_path / "few")
    assert [s["group"] for s in few.meta["series"]] == ["image_group1", "image_group2", "image_group3"]
    (many,), _ = imported(tmp_path / "20.nii", tmp_path / "many", slices=2, modality="CT")
    assert [(s["group"], s["images"]) for s in many.meta["series"]] == [("ct_group1", 2)]
    assert many.modality == "CT"


def test_a_folder_is_a_case_and_names_of_files_tell_the_modality(tmp_path: Path) -> None:
    for name in ("sub-Hagen/anat/sub-Hagen_T1w.nii.gz", "sub-Hagen/ct/sub-Hagen_ct.nii", "top.nii"):
        (tmp_path / "s" / name).parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(np.arange(27, dtype=np.int16).reshape(3, 3, 3), np.eye(4)), tmp_path / "s" / name)
    cases, _ = imported(tmp_path / "s", tmp_path / "out")
    assert {case.modality for case in cases} == {"MRI, CT", None}
    assert "hagen" not in everything(tmp_path / "out").casefold().replace("sub-hagen/", "")


def test_what_is_no_grey_volume_is_refused_with_its_reason(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    folder.mkdir()
    nibabel.save(nibabel.Nifti1Image(np.zeros((3, 3, 3), np.complex64), np.eye(4)), folder / "complex.nii")
    nibabel.save(nibabel.Nifti1Image(np.full((3, 3, 3), np.nan, np.float32), np.eye(4)), folder / "nan.nii")
    (folder / "noise.nii.gz").write_bytes(b"\x1f\x8b this is no gzip file")
    whole = nibabel.Nifti1Image(np.random.default_rng(0).random((20, 20, 20)).astype(np.float32), np.eye(4)).to_bytes()
    (folder / "cut.nii").write_bytes(whole[:5000])
    cases, left = imported(folder, tmp_path / "out")
    assert not cases
    reasons = {record.place: record.reason for record in left}
    assert "complex" in reasons["complex.nii"]
    assert "not a readable NIfTI volume" in reasons["noise.nii.gz"]
    assert "truncated" in reasons["cut.nii"]
    assert "all voxels are NaN or infinite" in reasons["nan.nii"]


def a_volume(path: Path, data: Any = None, *, oriented: bool = True, pair: bool = False) -> Path:
    """A volume of a gradient, or of the given voxels."""
    voxels = np.arange(10 * 12 * 6, dtype=np.int16).reshape(10, 12, 6) if data is None else data
    image = (nibabel.Nifti1Pair if pair else nibabel.Nifti1Image)(voxels, np.eye(4))
    image.set_sform(np.eye(4), code=int(oriented))
    image.set_qform(np.eye(4), code=int(oriented))
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)
    return path


def test_without_an_orientation_code_a_note_says_that_sides_are_unknown(tmp_path: Path) -> None:
    told = import_cases(a_volume(tmp_path / "told.nii"), tmp_path / "a")
    untold = import_cases(a_volume(tmp_path / "untold.nii", oriented=False), tmp_path / "b")
    assert not any("left and right" in note for note in told.notes)
    assert any("left and right" in note for note in untold.notes)


def test_label_maps_are_left_out_by_name_folder_and_content(tmp_path: Path) -> None:
    labels = np.zeros((10, 12, 6), np.uint8)
    labels[2:5, 2:5, 2:4] = 4
    for name in ("p1/p1_flair.nii.gz", "p1/p1_seg.nii.gz", "labelsTr/x_001.nii.gz", "imagesTr/x_001_0000.nii.gz"):
        a_volume(tmp_path / "s" / name)
    a_volume(tmp_path / "s" / "p1" / "unnamed.nii", labels)
    cases, left = imported(tmp_path / "s", tmp_path / "out")
    assert len(cases) == 2
    assert {record.place: "label map" in record.reason for record in left} == {
        "p1/p1_seg.nii.gz": True,
        "labelsTr/x_001.nii.gz": True,
        "p1/unnamed.nii": True,
    }


@pytest.mark.parametrize("modality", ["CT", None])
def test_padding_below_air_does_not_wash_a_ct_out(tmp_path: Path, modality: str | None) -> None:
    body = np.full((20, 20, 8), -1000, np.int16)
    body[6:14, 6:14] = 40
    body[8:10, 8:10] = -850
    body[12, 12] = 300
    padded = body.copy()
    padded[:, :3] = -3024
    shown = []
    for name, data in (("plain", body), ("padded", padded)):
        (case,), _ = imported(a_volume(tmp_path / f"{name}.nii", data), tmp_path / name, modality=modality)
        image = pixels(tmp_path / name / "images" / case.images[4])
        shown.append((int(image[20 - 1 - 8, 20 - 1 - 8]), int(image[20 - 1 - 7, 20 - 1 - 7])))
    assert shown[0] == shown[1]
    assert shown[0][0] < 50
    assert shown[0][1] > 150


@pytest.mark.parametrize(
    ("names", "patients"),
    [
        (("imagesTr/liver_001.nii.gz", "imagesTr/liver_002.nii.gz"), 2),
        (("imagesTr/b_001_0000.nii.gz", "imagesTr/b_001_0001.nii.gz", "imagesTr/b_002_0000.nii.gz"), 2),
        (("T1/IXI002-Guys-0828-T1.nii.gz", "T1/IXI012-HH-1211-T1.nii.gz", "T2/IXI002-Guys-0828-T2.nii.gz"), 2),
        (("site/case_1/ct.nii", "site/case_2/ct.nii", "site/case_2/pet.nii"), 2),
        (("site/sub-01/anat/sub-01_T1w.nii", "site/sub-02/anat/sub-02_T1w.nii"), 2),
        (("Case_7/Case_7_flair.nii.gz", "Case_7/Case_7_t1ce.nii.gz"), 1),
        (("patient/3_t1_mprage.nii", "patient/5_flair.nii", "patient/7_dwi.nii"), 1),
        (("patient/2019-03-12/ct.nii", "patient/2020-01-01/ct.nii"), 1),
        (("a.nii", "b.nii"), 2),
    ],
)
def test_a_folder_of_many_patients_is_not_one_case(tmp_path: Path, names: tuple[str, ...], patients: int) -> None:
    for name in names:
        a_volume(tmp_path / "s" / name)
    cases, _ = imported(tmp_path / "s", tmp_path / "out")
    assert len({case.meta["patient"] for case in cases}) == len(cases) == patients


def test_a_pair_of_header_and_voxels_is_read_and_half_a_pair_is_named(tmp_path: Path) -> None:
    a_volume(tmp_path / "s" / "whole.img", pair=True)
    for name, gone in (("a", ".img"), ("b", ".hdr")):
        a_volume(tmp_path / "s" / f"{name}.img", pair=True)
        (tmp_path / "s" / f"{name}{gone}").unlink()
    cases, left = imported(tmp_path / "s", tmp_path / "out")
    assert len(cases) == 1
    assert {record.place: "missing: copy both" in record.reason for record in left} == {"a.hdr": True, "b.img": True}


def test_a_blank_volume_is_left_out(tmp_path: Path) -> None:
    a_volume(tmp_path / "s" / "blank.nii", np.full((5, 5, 5), 7, np.int16))
    a_volume(tmp_path / "s" / "other.nii")
    cases, left = imported(tmp_path / "s", tmp_path / "out")
    assert len(cases) == 1
    assert [(r.place, "blank" in r.reason) for r in left] == [("blank.nii", True)]
