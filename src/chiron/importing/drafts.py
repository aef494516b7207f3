"""What every source yields: drafts of cases whose images are not made yet, and what it leaves out, with the reason."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any

from chiron.cases.case import Case

ID_TELLS = "cases whose id holds a number that the source gives for their patient: --hash-ids makes pseudonyms of ids"


class SourceKind(StrEnum):
    """What cases can be read from."""

    JSONL = "jsonl"
    TABLE = "table"
    DICOM = "dicom"
    NIFTI = "nifti"
    DATASET = "dataset"


class Why(StrEnum):
    """Why something was left out, in a word; the reason says it in a line."""

    RECORD = "record"
    """The record is no case: a field is missing, or of the wrong kind."""
    IMAGE = "image"
    """An image is missing, outside its folder, too large, or nobody can open it."""
    NO_IMAGE = "no_image"
    """It never held an image: a report, a plan, a waveform."""
    COMPRESSION = "compression"
    """No decoder is installed for it."""
    IDENTIFYING = "identifying"
    """Its text, or its pixels, may say who the patient is."""
    DUPLICATE = "duplicate"
    """Its id was used before."""


class LeaveOut(ValueError):
    """Something of a source cannot be taken; the message says why and how to mend it, and holds nothing of a patient."""

    def __init__(self, why: Why, reason: str) -> None:
        """``reason``: one line."""
        super().__init__(reason)
        self.why = why


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A record, file or series that is not among the cases."""

    place: str
    """File, and line, row or frame."""
    id: str | None
    """The case's id, where it is known and may be told."""
    why: Why
    reason: str

    def to_record(self) -> dict[str, Any]:
        """A line of ``not-imported.jsonl``."""
        return {"id": self.id, "place": self.place, "kind": str(self.why), "reason": self.reason}


@dataclass(frozen=True, slots=True)
class DraftImage:
    """One image that a case will have."""

    name: str
    """Its path under ``images/``."""
    data: Callable[[], bytes]
    """Makes the bytes of the file when they are wanted. Raises :class:`LeaveOut`."""


@dataclass(frozen=True, slots=True)
class DraftGroup:
    """Images that belong together: a series, a volume, or all that a row names."""

    pictures: tuple[DraftImage, ...]
    place: str
    """Where they come from."""
    needed: bool = True
    """Whether the case is nothing without them; a series that cannot be read leaves a study its others."""
    about: Mapping[str, Any] | None = None
    """What is kept of the series, for ``meta['series']``."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A case whose text was not looked over and whose images were not made."""

    case: Case
    """With no image yet."""
    groups: tuple[DraftGroup, ...]
    place: str
    known: frozenset[str] = frozenset()
    """The patient's names and numbers, to look for in the text; they go nowhere else."""
    notes: tuple[str, ...] = ()
    """What is worth knowing of this case; equal notes are counted."""


@dataclass(frozen=True, slots=True)
class SourceReading:
    """A source, opened."""

    items: Iterator[Draft | LeftOut]
    total: int | None = None
    """How many items, where it is known beforehand."""
    notes: tuple[str, ...] = ()
    """How it is read: encoding, columns."""


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """How to read a source. What a source has no use for it passes over."""

    kind: SourceKind | None = None
    """None: told by what the source is."""
    images: Path | None = None
    """JSONL, tables, datasets: the folder that image paths are relative to. None: ``images/`` beside the file, or its own folder."""
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    """Tables and datasets: columns by field, before the automatic ones."""
    sheet: str | None = None
    """Spreadsheets: the sheet's name. None: the first in which a header is found."""
    split: str | None = None
    """Datasets: the split. None: all of them."""
    slices: int | None = None
    """DICOM, NIfTI: every n-th slice. None: the key images where a study names them, else at most eight evenly spaced."""
    questions: Path | None = None
    """DICOM, NIfTI: a table or JSONL with questions, answers, history and findings by study."""
    question: str | None = None
    """A question for all rows that have an answer, or a report with an impression, and no question of their own."""
    modality: str | None = None
    """The modality of cases whose source names none."""
    keep_ids: bool | None = None
    """Whether ids stay as they are. None: pseudonyms for DICOM and NIfTI, ids as they are for the rest."""
    allow_identifying: bool = False
    """Take cases whose text may say who the patient is."""
    allow_burned_in: bool = False
    """DICOM: take series that say that text is burned into their pixels."""
    salt: Path | None = None
    """A file with the salt of pseudonyms, so that several imports agree. None: ``.salt`` in the output folder."""
