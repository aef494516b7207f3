"""Detect the type of a source, list its files, open and decode them."""

import codecs
import gzip
import hashlib
import io
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from chiron.errors import InputError
from chiron.importing.drafts import SourceKind
from chiron.importing.nifti_files import is_volume


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


@dataclass(frozen=True, slots=True)
class State:
    """File metadata from which changes are detected without reading the files."""

    files: int
    size: int
    """Total size in bytes."""
    digest: str
    """SHA-256 (hex) of names, sizes and modification times."""


def state_of(sources: Iterable[Path], skip: Path) -> State:
    """Return the state of files, and of all files in folders, without reading them."""
    digest, files, size = hashlib.sha256(), 0, 0
    for source in sources:
        for path in files_under(source, skip) if source.is_dir() else (source,):
            about = path.stat()
            digest.update(f"{path}\0{about.st_size}\0{about.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
            files, size = files + 1, size + about.st_size
    return State(files, size, digest.hexdigest())


def file_sha256(path: Path) -> str:
    """Return the SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
    top = {_file_kind(p) for p in sorted(source.iterdir()) if p.is_file() and not p.name.startswith(".")} - {None}
    if len(top) == 1:
        return top.pop() or SourceKind.TABLE
    found = top or {_file_kind(p) for p in islice(files_under(source, skip), _LOOKED_AT)} - {None, SourceKind.JSONL, SourceKind.TABLE}
    kinds = sorted(kind for kind in found if kind is not None)
    if len(kinds) == 1:
        return kinds[0]
    if kinds:
        raise InputError(f"{source} contains several kinds of sources ({', '.join(kinds)}): choose one with --from, or name the file")
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
