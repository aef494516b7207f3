"""Group DICOM files into studies and series by header, in spatial order and not by file name."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Any

from chiron.errors import InputError
from chiron.importing.dicom_header import (
    NO_IMAGE,
    Kept,
    is_screenshot,
    kept_of,
    known_of,
    number,
    numbers,
    orientation,
    position,
    read_header,
    text_of,
    unusable_window,
)
from chiron.importing.source import LeftOut, Why, files_under, without_gz

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_SUFFIXES = {"", ".dcm", ".dicom", ".ima"}
_DICOMDIR = "1.2.840.10008.1.3.10"
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_HEADS = {"head", "brain", "face", "skull", "neck", "orbit", "sinus", "headneck"}
_MAX_FRAMES = 100_000


@dataclass(frozen=True, slots=True)
class Image:
    """One frame of one file."""

    path: Path
    frame: int
    uid: str
    order: tuple[Any, ...]


@dataclass(slots=True)
class Series:
    """Images of a series, sorted after :func:`scan`."""

    kept: Kept
    place: str
    number: float
    images: list[Image] = field(default_factory=list)
    burned_in: bool | None = None
    """Whether any header reports burned-in text; None if the headers do not say."""
    often_burned_in: bool = False
    """Whether the type often has burned-in text: ultrasound, secondary captures, screenshots, dose sheets."""
    face: bool = False
    no_window: bool = False
    """Whether a header gives a window of zero width."""


@dataclass(slots=True)
class Study:
    """Study, with its series by number."""

    uid: str
    place: str
    kept: Kept
    patient: str | None
    whose: str = ""
    """The patient's number, else the name; separates studies that share one UID."""
    shared: bool = False
    """Whether studies of several patients have this UID."""
    series: list[Series] = field(default_factory=list)
    keys: set[tuple[str, str]] = field(default_factory=set)
    """Keys that questions may use: (field, value) with the field ``accession``, ``study`` or ``folder``."""
    known: frozenset[str] = frozenset()
    withheld: int = 0
    key_images: set[str] = field(default_factory=set)
    """SOP instances listed in a key object selection."""


@dataclass(frozen=True, slots=True)
class Found:
    """Contents of a source."""

    studies: Sequence[Study]
    left_out: Sequence[LeftOut]
    others: int
    """Number of files that are not DICOM and do not look like it."""


def scan(source: Path, skip: Path | None = None) -> Found:
    """Read every header of a source.

    Raises:
        InputError: the source cannot be listed, or is an unreadable DICOMDIR.
    """
    import warnings

    # pydicom warns about every deviation from the standard, and its messages may quote the header.
    with warnings.catch_warnings(action="ignore"):
        return _Scan(source, skip).run()


class _Scan:
    def __init__(self, source: Path, skip: Path | None) -> None:
        self._source, self._skip = source, skip
        self._root = source if source.is_dir() else source.parent
        # Faulty exports give studies of several patients one UID; they must not be mixed in one case.
        self._studies: dict[tuple[str, str], Study] = {}
        self._series: dict[tuple[str, str, str], Series] = {}
        self._key_images: dict[str, set[str]] = {}
        self._selections: list[tuple[str, str]] = []
        self._left_out: list[LeftOut] = []
        self._seen: set[str] = set()
        self._others = 0

    def run(self) -> Found:
        for path in self._paths():
            self._file(path)
        for uid, images in self._key_images.items():
            for study in self._studies.values():
                if study.uid == uid:
                    study.key_images = images
        counts = Counter(uid for uid, _ in self._studies)
        for study in self._studies.values():
            study.shared = counts[study.uid] > 1
        for uid, place in self._selections:
            if uid not in counts:
                self._leave(place, Why.NO_IMAGE, f"it is {NO_IMAGE['KO']} (KO) of a study that is not here")
        for study in self._studies.values():
            study.series.sort(key=lambda s: s.number)
            for series in study.series:
                series.images.sort(key=lambda image: image.order)
        return Found(list(self._studies.values()), self._left_out, self._others)

    def _paths(self) -> Iterator[Path]:
        if self._source.is_dir():
            yield from files_under(self._source, self._skip)
            return
        if not self._source.name.upper().startswith("DICOMDIR"):
            yield self._source
            return
        try:
            records = read_header(self._source).get("DirectoryRecordSequence") or ()
        except Exception as error:
            raise InputError(f"{self._source} is not a readable DICOMDIR: name its folder instead") from error
        fence = os.path.realpath(self._root)
        for record in records:
            if not (name := record.get("ReferencedFileID")):
                continue
            parts = [name] if isinstance(name, str) else [str(part) for part in name]
            path = self._root.joinpath(*parts)
            if PureWindowsPath(*parts).is_absolute() or not os.path.realpath(path).startswith(fence + os.sep):
                self._leave("DICOMDIR", Why.IMAGE, "it names a file outside its folder, which is not read")
            elif not path.is_file():
                self._leave("/".join(parts), Why.IMAGE, "DICOMDIR names this file, and it is not there: copy the whole medium")
            else:
                yield path

    def _leave(self, place: str, why: Why, reason: str) -> None:
        self._left_out.append(LeftOut(place, None, why, reason))

    def _file(self, path: Path) -> None:
        from pydicom.errors import InvalidDicomError

        place = path.relative_to(self._root).as_posix()
        suffix = Path(without_gz(path.name)).suffix.lower()
        likely = suffix in _SUFFIXES and path.name.upper() != "README"
        try:
            try:
                header = read_header(path)
            except InvalidDicomError:
                if not likely:
                    self._others += 1
                    return
                # Old files lack the preamble and can only be recognized by their content.
                header = read_header(path, force=True)
                if not ("SOPClassUID" in header or "Modality" in header or "Rows" in header):
                    if suffix:
                        self._leave(place, Why.IMAGE, "it has the name of a DICOM file but is not one, or its beginning is missing")
                    else:
                        self._others += 1
                    return
            self._header(path, place, header)
        except Exception as error:  # noqa: BLE001 - damaged files raise many exception types, whose messages may quote the header
            self._leave(place, Why.IMAGE, f"the file is damaged or truncated ({type(error).__name__})")

    def _header(self, path: Path, place: str, header: "Dataset") -> None:
        meta = getattr(header, "file_meta", None)
        sop_class = text_of(header, "SOPClassUID") or (text_of(meta, "MediaStorageSOPClassUID") if meta else None) or ""
        if sop_class == _DICOMDIR or "DirectoryRecordSequence" in header:
            return
        modality = (text_of(header, "Modality") or "").upper()
        uid = text_of(header, "StudyInstanceUID") or f"no study, {place}"
        if modality == "KO":
            self._key_images.setdefault(uid, set()).update(_referenced(header))
            self._selections.append((uid, place))
            return
        if modality in NO_IMAGE:
            self._leave(place, Why.NO_IMAGE, f"it is {NO_IMAGE[modality]} ({modality}), which contains no image")
            return
        if not numbers(header, "Rows") or not numbers(header, "Columns"):
            self._leave(place, Why.NO_IMAGE, "it contains no pixels")
            return
        instance = text_of(header, "SOPInstanceUID") or f"no instance, {place}"
        if instance in self._seen:
            self._leave(place, Why.DUPLICATE, "the same image (its SOP Instance UID) was already read from another file")
            return
        self._seen.add(instance)
        kept = kept_of(header)
        series = self._series_of(header, kept, uid, place)
        _flag(series, header, kept, modality, sop_class)
        series.images += _frames(header, path, instance, place)

    def _series_of(self, header: "Dataset", kept: Kept, uid: str, place: str) -> Series:
        """Return the series of an image, and add the image's identifiers to the study."""
        patient = text_of(header, "PatientID")
        whose = patient or (text_of(header, "PatientName") or "").casefold()
        study = self._studies.setdefault((uid, whose), Study(uid, place, kept, patient, whose))
        key = uid, whose, text_of(header, "SeriesInstanceUID") or "no series"
        if key not in self._series:
            self._series[key] = Series(kept, place, number(header, "SeriesNumber", 0.0))
            study.series.append(self._series[key])
            study.withheld += kept.withheld
        study.known |= known_of(header)
        study.keys |= {("study", uid), *(("folder", name) for name in _folders(place))}
        if accession := text_of(header, "AccessionNumber"):
            study.keys.add(("accession", accession))
        return self._series[key]


def _flag(series: Series, header: "Dataset", kept: Kept, modality: str, sop_class: str) -> None:
    """Set the flags of a series that one of its images calls for."""
    reported = (text_of(header, "BurnedInAnnotation") or "").upper()
    if reported == "YES":
        series.burned_in = True
    elif reported == "NO" and series.burned_in is None:
        series.burned_in = False
    captured = sop_class.startswith(_SECONDARY_CAPTURE) or "ConversionType" in header
    series.often_burned_in |= modality in {"US", "OT", "SC"} or captured or is_screenshot(header)
    series.face |= modality in {"CT", "MR", "PT"} and kept.body_part in _HEADS
    series.no_window |= unusable_window(header)


def _frames(header: "Dataset", path: Path, instance: str, place: str) -> Iterator[Image]:
    """Yield every frame of a file, with what its series is sorted by."""
    count = int(number(header, "NumberOfFrames", 1.0) or 1)
    instance_number = number(header, "InstanceNumber", 0.0)
    for frame in range(min(count, _MAX_FRAMES)):
        at = position(header, frame)
        order = (orientation(header, frame), at) if at is not None else ((), 0.0)
        yield Image(path, frame, instance, (*order, instance_number, frame, place))


def _folders(place: str) -> Iterator[str]:
    """Yield the name and the path of every folder that contains a file."""
    parts = place.split("/")[:-1]
    for end in range(1, len(parts) + 1):
        yield "/".join(parts[:end])
        yield parts[end - 1]


def _referenced(header: "Dataset") -> Iterator[str]:
    """Yield the SOP instances listed in a key object selection."""
    for study in header.get("CurrentRequestedProcedureEvidenceSequence") or ():
        for series in study.get("ReferencedSeriesSequence") or ():
            for image in series.get("ReferencedSOPSequence") or ():
                if uid := text_of(image, "ReferencedSOPInstanceUID"):
                    yield uid
