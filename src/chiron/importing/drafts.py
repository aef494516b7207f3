"""Common output of all source readers: draft cases without images yet, and skipped items with the reason."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any

from chiron.cases.case import Case

ID_TELLS = "cases whose id contains a number of their patient: --hash-ids replaces ids by pseudonyms"


class SourceKind(StrEnum):
    """Type of source."""

    JSONL = "jsonl"
    TABLE = "table"
    DICOM = "dicom"
    NIFTI = "nifti"
    DATASET = "dataset"


class Why(StrEnum):
    """Category of reason why an item was skipped; the reason itself is one line of text."""

    RECORD = "record"
    """The record is not a case: a field is missing or has the wrong type."""
    IMAGE = "image"
    """An image is missing, outside its folder, too large, or unreadable."""
    NO_IMAGE = "no_image"
    """The file holds no image: a report, a plan, a waveform."""
    COMPRESSION = "compression"
    """No installed decoder supports the compression."""
    IDENTIFYING = "identifying"
    """The text or the pixels may identify the patient."""
    DUPLICATE = "duplicate"
    """The id was used before."""


class LeaveOut(ValueError):
    """An item must be skipped; the message says why and how to fix it, and contains no patient data."""

    def __init__(self, why: Why, reason: str) -> None:
        """Store ``why`` and the ``reason``, which is one line."""
        super().__init__(reason)
        self.why = why


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Record, file or series that was skipped."""

    place: str
    """File, and line, row or frame."""
    id: str | None
    """The case's id, if it is known and may be shown."""
    why: Why
    reason: str

    def to_record(self) -> dict[str, Any]:
        """Return a line of ``not-imported.jsonl``."""
        return {"id": self.id, "place": self.place, "kind": str(self.why), "reason": self.reason}


@dataclass(frozen=True, slots=True)
class DraftImage:
    """Image of a draft case."""

    name: str
    """Path under ``images/``."""
    data: Callable[[], bytes]
    """Returns the bytes of the file when called. Raises :class:`LeaveOut`."""


@dataclass(frozen=True, slots=True)
class DraftGroup:
    """Images that belong together: a series, a volume, or all images of a row."""

    pictures: tuple[DraftImage, ...]
    place: str
    """Where the images come from."""
    needed: bool = True
    """Whether the case is skipped if these images fail. A study is kept if only one of its series fails."""
    about: Mapping[str, Any] | None = None
    """Series data for ``meta['series']``."""


@dataclass(frozen=True, slots=True)
class Draft:
    """Case whose text is not yet screened and whose images are not yet written."""

    case: Case
    """The case, without images."""
    groups: tuple[DraftGroup, ...]
    place: str
    known: frozenset[str] = frozenset()
    """The patient's names and numbers. Used only to search the text for them."""
    notes: tuple[str, ...] = ()
    """Notes for the user about this case; equal notes are counted."""


@dataclass(frozen=True, slots=True)
class SourceReading:
    """Opened source."""

    items: Iterator[Draft | LeftOut]
    total: int | None = None
    """Number of items, if known in advance."""
    notes: tuple[str, ...] = ()
    """How the source is read: encoding, columns."""


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """Options for reading a source. Each source type ignores the options that do not apply to it."""

    kind: SourceKind | None = None
    """None: detect the type."""
    images: Path | None = None
    """JSONL, tables, datasets: folder that image paths are relative to. None: ``images/`` next to the file, or the file's folder."""
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    """Tables and datasets: columns by field; they override automatic matches."""
    sheet: str | None = None
    """Spreadsheets: sheet name. None: the first sheet with a recognizable header."""
    split: str | None = None
    """Datasets: split name. None: all splits."""
    slices: int | None = None
    """DICOM, NIfTI: take every n-th slice. None: the study's key images if given, else at most eight evenly spaced slices."""
    questions: Path | None = None
    """DICOM, NIfTI: table or JSONL file with questions, answers, history and findings by study."""
    question: str | None = None
    """Question for all rows that have an answer, or a report with an impression, but no question."""
    modality: str | None = None
    """Modality of cases whose source names none."""
    keep_ids: bool | None = None
    """Whether to keep ids. None: use pseudonyms for DICOM and NIfTI, keep ids otherwise."""
    allow_identifying: bool = False
    """Import cases whose text may identify the patient."""
    allow_burned_in: bool = False
    """DICOM: import series whose header says that text is burned into the pixels."""
    salt: Path | None = None
    """File with the salt of pseudonyms; share it to get equal pseudonyms in several imports. None: ``.salt`` in the output folder."""
