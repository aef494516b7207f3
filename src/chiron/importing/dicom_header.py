"""Read the needed parts of a DICOM header, and define the few that may be kept.

Everything not in :class:`Kept` is discarded: names, ids, dates, UIDs, institutions, private elements.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chiron.cases.case import MAX_YEARS, dicom_age, years
from chiron.cases.modalities import modality_of
from chiron.importing.phi_filter import find_identifying, identifiers, names
from chiron.importing.source import open_unpacked

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_IDENTIFYING = (
    "PatientID OtherPatientIDs AccessionNumber StudyID InstitutionName PatientBirthDate StudyDate PatientTelephoneNumbers PatientAddress"
    " MedicalRecordLocator AdmissionID ServiceEpisodeID RequestedProcedureID PerformedProcedureStepID ScheduledProcedureStepID"
    " PlacerOrderNumberImagingServiceRequest FillerOrderNumberImagingServiceRequest".split()
)
_OF_THE_PATIENT = frozenset({"PatientName", "OtherPatientNames", "PatientBirthName", "PatientMotherBirthName", "ResponsiblePerson"})
"""Elements with patient or relative names, which are searched for from two letters on."""
_OF_FRAMES = frozenset({"PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"})
_NESTED = 3
"""Maximum depth of sequences, and maximum items of each, to search for names and numbers."""
_SEXES = {"M": "Male", "F": "Female", "O": "Other"}
_LATERALITIES = {"L": "left", "R": "right", "B": "both", "U": "unpaired"}
NO_IMAGE = {
    "SR": "a structured report",
    "RTSTRUCT": "a radiotherapy structure set",
    "RTPLAN": "a radiotherapy plan",
    "RTRECORD": "a radiotherapy record",
    "RTDOSE": "a grid of radiotherapy doses",
    "RTIMAGE": "a radiotherapy verification image",
    "KO": "a selection of key images",
    "PR": "a presentation state",
    "SEG": "a segmentation",
    "REG": "a registration",
    "ECG": "a waveform",
    "HD": "a waveform",
    "EPS": "a waveform",
    "AU": "sound",
    "DOC": "a document",
    "PLAN": "a plan",
    "FID": "fiducials",
    "RWV": "a map of real-world values",
}
"""Modalities of objects without an image, with a description of each."""


@dataclass(frozen=True, slots=True)
class Kept:
    """The only header data that is stored. Texts have passed the screening for identifying text."""

    modality: str | None
    body_part: str | None
    laterality: str | None
    age: str | None
    """In years; ``90+`` from 90 years."""
    sex: str | None
    study_description: str | None
    series_description: str | None
    withheld: int
    """Number of descriptions discarded because they may identify someone."""


def kept_of(header: "Dataset") -> Kept:
    """Extract the data that may be kept from a header."""
    known = known_of(header)
    study, series = text_of(header, "StudyDescription"), text_of(header, "SeriesDescription")
    withheld = [text for text in (study, series) if text and find_identifying(text, known)]
    part = text_of(header, "BodyPartExamined")
    plain = part is not None and re.fullmatch(r"[A-Za-z][A-Za-z _&/-]{1,31}", part) is not None and not find_identifying(part, known)
    return Kept(
        modality=modality_name(text_of(header, "Modality")),
        body_part=part.replace("_", " ").lower() if plain and part else None,
        laterality=_LATERALITIES.get((text_of(header, "ImageLaterality") or text_of(header, "Laterality") or "").upper()),
        age=_age(header),
        sex=_SEXES.get((text_of(header, "PatientSex") or "").upper()),
        study_description=None if study in withheld else study,
        series_description=None if series in withheld else series,
        withheld=len(withheld),
    )


def modality_name(code: str | None) -> str | None:
    """Return the name of a modality code, or None for codes outside the twelve modalities, such as ``OT``."""
    modality = modality_of(code) if code else None
    return modality.name if modality else None


def known_of(header: "Dataset") -> frozenset[str]:
    """Return names and numbers to search for in other text: all person names and the usual identifiers in the header."""
    numbering, others, patients = list[str](), list[str](), list[str]()
    for keyword, vr, text in _naming(header):
        kept = patients if keyword in _OF_THE_PATIENT else others if vr == "PN" else numbering
        kept.append(text)
    return identifiers(*numbering, *others) | names(*patients)


def _naming(header: "Dataset", depth: int = 0) -> "Iterator[tuple[str, str, str]]":
    """Yield identifying elements at any depth: keyword, value representation, text."""
    from pydicom.datadict import dictionary_keyword, dictionary_VR

    for tag in list(header.keys()):
        try:
            keyword, vr = dictionary_keyword(tag), dictionary_VR(tag)
        except KeyError:  # private or nonstandard element
            continue
        if vr == "PN" or keyword in _IDENTIFYING:
            if (text := text_of(header, keyword)) is not None:
                yield keyword, vr, text
        elif vr == "SQ" and keyword not in _OF_FRAMES and depth < _NESTED:
            for item in (_sequence(header, keyword))[:_NESTED]:
                yield from _naming(item, depth + 1)


def _sequence(header: "Dataset", name: str) -> "list[Dataset]":
    try:
        return list(header.get(name) or ())
    except Exception:  # noqa: BLE001 - as in text_of: treat a damaged sequence as missing
        return []


def _age(header: "Dataset") -> str | None:
    if (age := dicom_age(text_of(header, "PatientAge") or "")) is not None:
        return age
    born, seen = text_of(header, "PatientBirthDate") or "", text_of(header, "StudyDate") or ""
    # Scanners and de-identification tools fill an unknown birth date with the study date or a date in 1900.
    if re.fullmatch(r"\d{8}", born) and re.fullmatch(r"\d{8}", seen) and seen > born:
        number = (int(seen) - int(born)) // 10_000
        return years(number) if number <= MAX_YEARS else None
    return None


def text_of(header: "Dataset", name: str) -> str | None:
    """Return an element as text, or None if it is missing, empty or multi-valued."""
    try:
        value = header.get(name)
        text = str(value).replace("\x00", "").strip() if value is not None else ""
    except Exception:  # noqa: BLE001 - an element may be damaged in any way; treat it as missing
        return None
    return text or None


def numbers(header: "Dataset", name: str) -> list[float] | None:
    """Return an element's numbers, or None if it is missing or not numeric."""
    try:
        value = header.get(name)
        if value is None or value == "":
            return None
        values = [float(v) for v in value] if hasattr(value, "__iter__") and not isinstance(value, str) else [float(value)]
    except Exception:  # noqa: BLE001 - as above
        return None
    return values or None


def number(header: "Dataset", name: str, default: float) -> float:
    """Return an element's first number."""
    return (numbers(header, name) or [default])[0]


def frame_groups(header: "Dataset", frame: int) -> "Iterator[Dataset]":
    """Yield the data sets that may describe a frame, most specific first: its functional groups, the shared ones, the header."""
    for name, at in (("PerFrameFunctionalGroupsSequence", frame), ("SharedFunctionalGroupsSequence", 0)):
        sequence: Any = header.get(name)
        if sequence is not None and at < len(sequence):
            for element in sequence[at]:
                if element.VR == "SQ" and element.value:
                    yield element.value[0]
    yield header


def window_of(header: "Dataset", frame: int = 0) -> tuple[float, float, str] | None:
    """Return a frame's first window: center, width, function. None if it is missing or its width is invalid (PS3.3 C.11.2.1.2.1)."""
    for group in frame_groups(header, frame):
        center, width = numbers(group, "WindowCenter"), numbers(group, "WindowWidth")
        function = text_of(group, "VOILUTFunction") or "LINEAR"
        if center and width:
            return (center[0], width[0], function) if width[0] >= 1 or (width[0] > 0 and function != "LINEAR") else None
    return None


def unusable_window(header: "Dataset") -> bool:
    """Return whether the header gives a window that is invalid."""
    given = any(numbers(group, "WindowCenter") and numbers(group, "WindowWidth") for group in frame_groups(header, 0))
    return given and window_of(header) is None


def position(header: "Dataset", frame: int = 0) -> float | None:
    """Return a slice's position along its normal in mm; None if the header does not give it."""
    place = direction = None
    for group in frame_groups(header, frame):
        place = place or numbers(group, "ImagePositionPatient")
        direction = direction or numbers(group, "ImageOrientationPatient")
    if place is None or direction is None or len(place) != 3 or len(direction) != 6:
        return None
    (a, b, c), (d, e, f) = direction[:3], direction[3:]
    normal = (b * f - c * e, c * d - a * f, a * e - b * d)
    return sum(n * p for n, p in zip(normal, place, strict=True))


def orientation(header: "Dataset", frame: int = 0) -> tuple[int, ...]:
    """Return the rounded direction of rows and columns, equal for all slices of a stack. Empty if the header does not give it."""
    for group in frame_groups(header, frame):
        if direction := numbers(group, "ImageOrientationPatient"):
            return tuple(round(10 * d) for d in direction)
    return ()


_SCREENSHOT = re.compile(
    r"screen[ _-]?(?:save|shot|capture)|dose[ _-]?(?:report|info|summary|sheet|record)|patient protocol|\bprot\b", re.IGNORECASE
)


def is_screenshot(header: "Dataset") -> bool:
    """Return whether the header describes a screenshot or a dose sheet. These usually show the patient's name."""
    described = " ".join(text_of(header, name) or "" for name in ("ImageType", "SeriesDescription", "ProtocolName"))
    return _SCREENSHOT.search(described.replace("_", " ")) is not None


def read_header(path: Path, *, force: bool = False) -> "Dataset":
    """Read a header without pixels. Raises the exceptions of pydicom."""
    from pydicom import dcmread

    with open_unpacked(path) as file:
        return dcmread(file, stop_before_pixels=True, force=force)
