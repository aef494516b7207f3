"""What kind of source something is, by what it is and not by what it is called alone."""

import os
import re
from itertools import islice
from pathlib import Path

from chiron.cases.importing.files import files_under
from chiron.cases.importing.gzipped import without_gz
from chiron.cases.importing.nifti_files import is_volume
from chiron.cases.importing.records import SourceKind
from chiron.errors import InputError

TABLES = (".csv", ".tsv", ".xlsx", ".xlsm", ".ods", ".xls")
JSONL = (".jsonl", ".ndjson", ".json")
GROUP_FOLDER = re.compile(r"[a-z][a-z -]*_group\d+", re.IGNORECASE)
"""A folder of one image group, as ``ct_group1``."""
_LOOKED_AT = 2000
"""Files of a folder that are looked at before it is taken to be of no known kind."""


def kind_of(source: Path, skip: Path | None = None) -> SourceKind:
    """The kind of a file or folder.

    Raises:
        InputError: there is none, it is of no known kind, or of several.
    """
    if os.path.isfile(source):
        if (kind := _file_kind(source)) is not None:
            return kind
        raise InputError(f"{source} is of no kind that cases are read from: say which with --from {'|'.join(SourceKind)}")
    if not os.path.isdir(source):
        raise InputError(f"{source} does not exist or cannot be reached: name a file or folder of cases")
    if (source / "dataset_info.json").is_file() or (source / "dataset_dict.json").is_file():
        return SourceKind.DATASET
    top = {_file_kind(p) for p in sorted(source.iterdir()) if p.is_file() and not p.name.startswith(".")} - {None}
    if len(top) == 1:
        return top.pop() or SourceKind.TABLE
    found = top or {_file_kind(p) for p in islice(files_under(source, skip), _LOOKED_AT)} - {None, SourceKind.JSONL, SourceKind.TABLE}
    kinds = sorted(kind for kind in found if kind is not None)
    if len(kinds) == 1:
        return kinds[0]
    if kinds:
        raise InputError(f"{source} holds several kinds of sources ({', '.join(kinds)}): say which with --from, or name the file")
    raise InputError(f"{source} holds no JSONL, table, DICOM, NIfTI or dataset: say which it is with --from {'|'.join(SourceKind)}")


def the_file(source: Path, suffixes: tuple[str, ...], what: str) -> Path:
    """The source if it is a file, else the only file of that kind in it.

    Raises:
        InputError: there is none, or more than one.
    """
    if source.is_file():
        return source
    files = [p for p in sorted(source.iterdir()) if p.is_file() and p.suffix.lower() in suffixes and not p.name.startswith((".", "~$"))]
    if len(files) != 1:
        raise InputError(f"{source} holds {len(files) or 'no'} {what}{'s: name the one' if files else ''}")
    return files[0]


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
