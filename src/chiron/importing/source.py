"""Detect the type of a source, list, open and decode its files, and define what every reader returns: draft cases and skipped items."""

import codecs
import gzip
import io
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

from chiron.cases.case import Case
from chiron.errors import InputError

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


def files_under(folder: Path, skip: Path | None = None) -> Iterator[Path]:
    """Yield every regular file under a folder, sorted by name, without hidden files, ``skip``, and links out of the folder.

    Raises:
        InputError: the folder, or one inside it, cannot be listed.
    """
    fence = os.path.realpath(folder)
    skipped = os.path.realpath(skip) if skip is not None else None

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename} cannot be listed: {error.strerror}")

    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and os.path.realpath(Path(place, f)) != skipped)
        for name in sorted(names):
            path = Path(place, name)
            inside = not path.is_symlink() or os.path.realpath(path).startswith(fence + os.sep)
            if not name.startswith(".") and inside and path.is_file():
                yield path


UNKNOWN = "\ufffd"
"""Replaces bytes that are invalid in all supported encodings."""
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig", "UTF-8"), (codecs.BOM_UTF16_LE, "utf-16", "UTF-16"), (codecs.BOM_UTF16_BE, "utf-16", "UTF-16"))


def decode(data: bytes) -> tuple[str, str]:
    """Decode text of unknown encoding; return the text and the name of the encoding.

    A byte order mark decides. Otherwise: UTF-16 if every other byte is zero, UTF-8 if valid, else UTF-8 or cp1252 line by line, because
    files merged from two systems may contain both encodings.
    """
    for mark, codec, name in _MARKS:
        if data.startswith(mark):
            return data.decode(codec, "replace"), name
    head = data[:4000]
    if len(head) >= 4 and head.count(0) * 5 > len(head) * 2:
        little = head[1::2].count(0) > head[::2].count(0)
        return data.decode("utf-16-le" if little else "utf-16-be", "replace"), "UTF-16"
    try:
        return data.decode("utf-8"), "UTF-8"
    except UnicodeDecodeError:
        return _by_line(data)


def _by_line(data: bytes) -> tuple[str, str]:
    lines, western, unicode = [], 0, 0
    for line in data.split(b"\n"):
        try:
            lines.append(line.decode("utf-8"))
            unicode += not line.isascii()
        except UnicodeDecodeError:
            lines.append(line.decode("cp1252", "replace"))
            western += 1
    name = "cp1252" if not unicode else f"UTF-8, and cp1252 in {western} of {len(lines)} lines"
    return "\n".join(lines), name


MAX_BYTES = 2**30
"""Maximum unpacked size of a compressed file. A small archive can unpack to any size."""


def without_gz(name: str) -> str:
    """Remove a final ``.gz`` from a file name."""
    return name[:-3] if name.lower().endswith(".gz") else name


def open_unpacked(path: Path) -> BinaryIO:
    """Open a file for reading; decompress it if its name ends in ``.gz``.

    Raises:
        OSError: the file cannot be read, or is not a gzip archive.
        EOFError: the archive is truncated.
        ValueError: it unpacks to more than :data:`MAX_BYTES`.
    """
    if not path.name.lower().endswith(".gz"):
        return path.open("rb")
    with gzip.open(path, "rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"unpacks to more than {MAX_BYTES // 2**20} MiB")
    return io.BytesIO(data)


TABLES = (".csv", ".tsv", ".xlsx", ".xlsm", ".ods", ".xls")
JSONL = (".jsonl", ".ndjson", ".json")
GROUP_FOLDER = re.compile(r"[a-z][a-z -]*_group\d+", re.IGNORECASE)
"""Name of an image group's folder, such as ``ct_group1``."""
_LOOKED_AT = 2000
"""Number of files to examine before a folder counts as unknown."""


def kind_of(source: Path, skip: Path | None = None) -> SourceKind:
    """Detect the type of a file or folder.

    Raises:
        InputError: it does not exist, or its type is unknown or ambiguous.
    """
    if os.path.isfile(source):
        if (kind := _file_kind(source)) is not None:
            return kind
        raise InputError(f"{source} is of no kind that cases are read from: say which with --from {'|'.join(SourceKind)}")
    if not os.path.isdir(source):
        raise InputError(f"{source} does not exist or cannot be reached: name a file or folder of cases")
    if (source / "dataset_info.json").is_file() or (source / "dataset_dict.json").is_file():
        return SourceKind.DATASET
    top = _kinds(p for p in sorted(source.iterdir()) if p.is_file() and not p.name.startswith("."))
    kinds = top or _kinds(islice(files_under(source, skip), _LOOKED_AT)) - {SourceKind.JSONL, SourceKind.TABLE}
    if len(kinds) == 1:
        return kinds.pop()
    if kinds:
        listed = ", ".join(sorted(kinds))
        raise InputError(f"{source} contains several kinds of sources ({listed}): choose one with --from, or name the file")
    raise InputError(f"{source} contains no JSONL, table, DICOM, NIfTI or dataset: name its kind with --from {'|'.join(SourceKind)}")


def the_file(source: Path, suffixes: tuple[str, ...], what: str) -> Path:
    """Return the source if it is a file, else the only file with one of the suffixes in it.

    Raises:
        InputError: no file matches, or several do.
    """
    if source.is_file():
        return source
    files = [p for p in sorted(source.iterdir()) if p.is_file() and p.suffix.lower() in suffixes and not p.name.startswith((".", "~$"))]
    if len(files) != 1:
        raise InputError(f"{source} contains {len(files) or 'no'} {what}{'s' if files else ''}: name one file")
    return files[0]


def _kinds(paths: Iterable[Path]) -> set[SourceKind]:
    return {kind for path in paths if (kind := _file_kind(path)) is not None}


def _file_kind(path: Path) -> SourceKind | None:
    suffix = path.suffix.lower()
    if suffix in TABLES:
        return SourceKind.TABLE if not path.name.startswith("~$") else None
    if suffix in JSONL:
        return SourceKind.JSONL
    if suffix == ".parquet":
        return SourceKind.DATASET
    if is_volume(path):
        return SourceKind.NIFTI
    if Path(without_gz(path.name)).suffix.lower() in {".dcm", ".dicom", ".ima"} or path.name.upper() == "DICOMDIR" or _has_preamble(path):
        return SourceKind.DICOM
    return None


def _has_preamble(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


_VOLUME = re.compile(r"\.(?:nii|hdr)(?:\.gz)?\Z", re.IGNORECASE)


def is_volume(path: Path) -> bool:
    """Return whether a file name is that of a NIfTI or Analyze volume. In a ``.hdr``/``.img`` pair, the header counts as the volume."""
    return _VOLUME.search(path.name) is not None


def stem_of(path: Path) -> str:
    """Return a volume's file name without suffixes such as ``.nii.gz``."""
    return _VOLUME.sub("", path.name)
