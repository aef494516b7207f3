"""NIfTI volumes are cut into axial slices that lie as radiologists look at them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chiron.cases.importing.records import SourceKind
from tests.cases.importing.support import everything, imported, pixels

nibabel = pytest.importorskip("nibabel")
REAL = Path(nibabel.__file__).parent / "tests" / "data"


def test_every_volume_that_nibabel_carries_is_read_or_refused_with_its_reason(tmp_path: Path) -> None:
    cases, left = imported(REAL, tmp_path / "out", kind=SourceKind.NIFTI)
    assert len(cases) == len(list(REAL.glob("*.nii*"))) - 1
    assert [record.place for record in left] == ["row_major.dconn.nii"]
    assert "no volume in space" in left[0].reason
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
    assert len(cases) == 1  # of nothing but missing values: grey
    reasons = {record.place: record.reason for record in left}
    assert "complex" in reasons["complex.nii"]
    assert "no NIfTI volume that can be read" in reasons["noise.nii.gz"]
    assert "truncated" in reasons["cut.nii"]
