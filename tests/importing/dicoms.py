"""DICOM files written on the spot."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

CT, MR, US, SC = (f"1.2.840.10008.5.1.4.1.1.{n}" for n in ("2", "4", "6.1", "7"))


def write_dicom(path: Path, array: NDArray[Any] | None = None, **elements: Any) -> FileDataset:
    """A file of an identifiable patient with whatever elements are given; ``None`` takes one away."""
    pixels = np.zeros((8, 8), np.int16) if array is None else array
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = elements.get("SOPClassUID", CT)
    meta.MediaStorageSOPInstanceUID = generate_uid()
    ds = FileDataset(str(path), Dataset(), file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.3.4.5", "1.2.3.4.5.1"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate = "Featherstone^Agatha", "PAT-998877", "19560214"
    ds.StudyDate, ds.AccessionNumber, ds.ReferringPhysicianName = "20190312", "ACC554433", "Quigley^Bernard"
    ds.InstitutionName, ds.PatientSex, ds.PatientAge, ds.Modality = "Saint Elsewhere", "F", "063Y", "CT"
    ds.add_new((0x0009, 0x0010), "LO", "PRIVATE")
    ds.add_new((0x0009, 0x1001), "LO", "Featherstone private")
    ds.Rows, ds.Columns = pixels.shape[:2] if pixels.ndim == 2 or pixels.shape[-1] == 3 else pixels.shape[1:3]
    if pixels.ndim == 3 and pixels.shape[-1] != 3:
        ds.NumberOfFrames = pixels.shape[0]
    ds.SamplesPerPixel = 3 if pixels.ndim == 3 and pixels.shape[-1] == 3 else 1
    if ds.SamplesPerPixel == 3:
        ds.PlanarConfiguration = 0
    ds.PhotometricInterpretation = "RGB" if ds.SamplesPerPixel == 3 else "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = pixels.dtype.itemsize * 8
    ds.HighBit, ds.PixelRepresentation = ds.BitsStored - 1, int(pixels.dtype.kind == "i")
    ds.PixelData = pixels.tobytes()
    for name, value in elements.items():
        if value is None:
            del ds[name]
        else:
            setattr(ds, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)
    return ds


def axial(height: float, number: int = 1) -> dict[str, Any]:
    """Where an axial slice lies."""
    return {"ImagePositionPatient": [0, 0, height], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "InstanceNumber": number}
