"""Import cases: one function for all source types."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from chiron._version import __version__
from chiron.cases.case import BadCase
from chiron.cases.images import default_image_root
from chiron.cases.reader import read_cases
from chiron.errors import DiskError, InputError
from chiron.importing.phi_filter import Pseudonyms, load_pseudonyms
from chiron.importing.source import ImportOptions, SourceKind, SourceReading, files_under, kind_of
from chiron.importing.writer import CaseWriter
from chiron.io import alone, file_sha256, write_atomically

Progress = Callable[[int, int | None], None]
"""Called with the number of records read and the total, if known."""

_PACKAGES = {
    SourceKind.TABLE: ("openpyxl", "python-calamine"),
    SourceKind.DICOM: ("pydicom", "pylibjpeg", "pylibjpeg-libjpeg", "pylibjpeg-openjpeg", "pillow", "numpy"),
    SourceKind.NIFTI: ("nibabel", "pillow", "numpy"),
    SourceKind.DATASET: ("datasets", "pyarrow"),
}


@dataclass(frozen=True)
class ImportSummary:
    """Result of an import."""

    out: Path
    kind: SourceKind
    cases: int
    """Number of cases written to ``cases.jsonl``."""
    unlabeled: int
    """Number of these without a question: they are for 'chiron build questions', not for searching."""
    images: int
    """Number of image files."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Number of skipped records, files and series in ``not-imported.jsonl``, by kind."""
    notes: Mapping[str, int] = field(default_factory=dict)
    """Notes for the user, with how often each occurred."""
    unchanged: bool = False
    """Whether an earlier import was complete and up to date, so nothing was done."""

    def to_record(self) -> dict[str, Any]:
        """Return the JSON output; also stored in ``import.json``."""
        return {**asdict(self), "out": str(self.out), "kind": str(self.kind), "left_out": dict(self.left_out), "notes": dict(self.notes)}


def import_cases(
    source: Path | str, out: Path | str, options: ImportOptions | None = None, progress: Progress | None = None
) -> ImportSummary:
    """Import a source: write ``cases.jsonl``, ``images/``, ``not-imported.jsonl`` and ``import.json`` to ``out``.

    Unusable items are skipped and listed with the reason. Importing an unchanged source again does nothing.

    Args:
        source: JSONL file of cases, table, DICOM or NIfTI file, dataset, or a folder that contains one of these.
        out: output folder; created if missing, otherwise it must hold an earlier import of the same source.
        options: how to read the source.
        progress: called after every record.

    Raises:
        InputError: the source does not exist or has an unknown type, an option does not apply to it, a package is missing, or another
            import is writing to ``out``.
        DiskError: writing failed.
    """
    source, out, options = Path(source), Path(out), options or ImportOptions()
    kind = options.kind or kind_of(source, out)
    if not os.path.exists(source):  # noqa: PTH110 - Path.exists raises if a name is too long
        raise InputError(f"{source} does not exist or cannot be reached: name a file or folder of cases")
    if os.path.realpath(source) in {os.path.realpath(out), os.path.realpath(out / "cases.jsonl")}:
        raise InputError(f"{out} is the source: name another folder with --out")
    if options.slices is not None and options.slices < 1:
        raise InputError(f"--slices must be at least 1 (got {options.slices})")
    _refuse_useless(kind, options)
    options = replace(options, kind=kind)
    _refuse_strange(out, source)
    busy = f"{out} is being written by another import: wait for it, or name another folder with --out"
    with alone(_lock(out), place=f"folder {out}", busy=busy):
        before = _refuse_strange(out, source)
        _make(out)
        pseudonyms = load_pseudonyms(options.salt or out / ".salt")
        plan = {**_origin(source, out, options), "options": _options(options), "salt": pseudonyms.name("salt", "")}
        if before is not None and all(before.get(key) == value for key, value in plan.items()) and _whole(out, before):
            return _summary_of(before, out, kind)
        return _import(source, out, options, pseudonyms, plan, progress)


def _refuse_useless(kind: SourceKind, options: ImportOptions) -> None:
    """Raise an error if an option would have no effect."""
    if kind in {SourceKind.DICOM, SourceKind.NIFTI}:
        if options.questions is None and (options.columns or options.question):
            name = "--map" if options.columns else "--question"
            raise InputError(f"{name} has no effect on {kind} without a table: name it with --questions FILE")
    elif options.questions is not None:
        raise InputError(f"--questions applies to DICOM and NIfTI, but the source is of kind {kind}: put the questions into its columns")


def _refuse_strange(out: Path, source: Path) -> dict[str, Any] | None:
    """Return the record of an earlier import of this source, if any; raise an error if the folder holds other cases."""
    before = _earlier(out)
    if before is not None and before.get("source", {}).get("path") != str(source):
        raise InputError(f"{out} contains an import of {before.get('source', {}).get('path')}: name another folder with --out")
    if before is None and os.path.isfile(out / "cases.jsonl"):
        raise InputError(f"{out} contains cases of another origin (no import.json): name another folder with --out")
    return before


def _lock(out: Path) -> Path:
    """Return the lock file, next to the resolved folder: the folder itself may not exist yet, or may be reached by several links."""
    place = Path(os.path.realpath(out))
    return place.parent / f".{place.name}.lock"


def _import(
    source: Path, out: Path, options: ImportOptions, pseudonyms: Pseudonyms, plan: Mapping[str, Any], progress: Progress | None
) -> ImportSummary:
    reading = _read(source, out, options, pseudonyms)
    # Mark the folder as incomplete: until the end, its old cases may not match the new images.
    write_atomically(out / "import.json", [json.dumps({"source": {"path": str(source)}, "under_way": True}) + "\n"])
    keeper = CaseWriter(out / "images", allow_identifying=options.allow_identifying)
    keeper.notes.update(reading.notes)
    earlier = set(_images_of(out / "cases.jsonl"))
    counts: Counter[str] = Counter()

    def lines() -> Iterator[str]:
        for number, case in enumerate(keeper.keep(reading.items), start=1):
            if case is not None:
                counts["cases"] += 1
                counts["unlabeled"] += case.unlabeled
                yield _line(case.to_record())
            if progress is not None:
                progress(number, reading.total)

    write_atomically(out / "cases.jsonl", lines())
    write_atomically(out / "not-imported.jsonl", (_line(left.to_record()) for left in keeper.left_out))
    for name in earlier - set(keeper.written):
        (out / "images" / name).unlink(missing_ok=True)
    summary = ImportSummary(
        out=out,
        kind=options.kind or SourceKind.JSONL,
        cases=counts["cases"],
        unlabeled=counts["unlabeled"],
        images=len(keeper.written),
        left_out=dict(sorted(Counter(str(left.why) for left in keeper.left_out).items())),
        notes=dict(sorted(keeper.notes.items())),
    )
    hashes = {name: file_sha256(out / name) for name in ("cases.jsonl", "not-imported.jsonl")}
    hashes["images"] = _digest(keeper.written)
    record = {**plan, "result": {k: v for k, v in summary.to_record().items() if k not in {"out", "unchanged"}}, "sha256": hashes}
    write_atomically(out / "import.json", [json.dumps(record, indent=2, ensure_ascii=False) + "\n"])
    return summary


def _read(source: Path, out: Path, options: ImportOptions, pseudonyms: Pseudonyms) -> SourceReading:
    # Imported lazily, because each reader needs its own packages.
    if options.kind is SourceKind.JSONL:
        from chiron.importing.jsonl import read_jsonl

        return read_jsonl(source, options, pseudonyms)
    if options.kind is SourceKind.TABLE:
        from chiron.importing.tables import read_table

        return read_table(source, options, pseudonyms)
    if options.kind is SourceKind.DATASET:
        from chiron.importing.rows import read_dataset

        return read_dataset(source, options, pseudonyms)
    if options.kind is SourceKind.NIFTI:
        from chiron.importing.nifti import read_nifti

        return read_nifti(source, options, pseudonyms, skip=out)
    from chiron.importing.dicom import read_dicom

    return read_dicom(source, options, pseudonyms, skip=out)


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


def _make(out: Path) -> None:
    try:
        (out / "images").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiskError(f"folder {out} cannot be created: {error.strerror}") from error


def _state(source: Path, out: Path, options: ImportOptions) -> dict[str, Any]:
    """Return number, size and hash of names, sizes and times of the files to read: changes show without reading the files."""
    images = options.images or (default_image_root(source) if options.kind is SourceKind.JSONL and source.is_file() else None)
    if images is None and options.kind in {SourceKind.TABLE, SourceKind.JSONL} and source.is_file():
        images = source.parent
    seen = [p for p in (source, images, options.questions) if p is not None and os.path.exists(p)]  # noqa: PTH110 - as above
    digest, files, size = hashlib.sha256(), 0, 0
    for place in seen:
        for path in files_under(place, out) if place.is_dir() else (place,):
            about = path.stat()
            digest.update(f"{path}\0{about.st_size}\0{about.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
            files, size = files + 1, size + about.st_size
    return {"files": files, "bytes": size, "state": digest.hexdigest()}


def _origin(source: Path, out: Path, options: ImportOptions) -> dict[str, Any]:
    versions = {"chiron": __version__}
    for package in _PACKAGES.get(options.kind or SourceKind.JSONL, ()):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    about = {"path": str(source), "kind": str(options.kind), **_state(source, out, options)}
    if source.is_file():
        about["sha256"] = file_sha256(source)
    return {"versions": versions, "source": about}


def _options(options: ImportOptions) -> dict[str, Any]:
    values = {about.name: getattr(options, about.name) for about in fields(options)}
    record = {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
    return {**record, "kind": str(options.kind), "columns": {k: list(v) for k, v in options.columns.items()}}


def _earlier(out: Path) -> dict[str, Any] | None:
    try:
        record = json.loads((out / "import.json").read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InputError(f"{out} cannot be read: {error.strerror}") from error
    except ValueError:
        record = None
    if not isinstance(record, dict) or not isinstance(record.get("source"), dict):
        raise InputError(f"{out}/import.json is not the record of an import: name another folder with --out")
    return record


def _whole(out: Path, before: Mapping[str, Any]) -> bool:
    """Return whether an earlier import is complete and its files, including images, are unchanged."""
    hashes = before.get("sha256")
    if not isinstance(hashes, dict) or "unlabeled" not in before.get("result", {}):
        return False
    names = ("cases.jsonl", "not-imported.jsonl")
    if not all((out / name).is_file() and file_sha256(out / name) == hashes.get(name) for name in names):
        return False
    images = set(_images_of(out / "cases.jsonl"))
    if not all((out / "images" / name).is_file() for name in images):
        return False
    return _digest({name: file_sha256(out / "images" / name) for name in images}) == hashes.get("images")


def _digest(images: Mapping[str, str]) -> str:
    """Return one SHA-256 (hex) for all images, from their names and hashes."""
    listed = "".join(f"{digest}  {name}\n" for name, digest in sorted(images.items()))
    return hashlib.sha256(listed.encode("utf-8", "surrogateescape")).hexdigest()


def _images_of(cases: Path) -> Iterator[str]:
    if cases.is_file():
        for case in read_cases(cases, unlabeled=True):
            if not isinstance(case, BadCase):
                yield from case.images


def _summary_of(before: Mapping[str, Any], out: Path, kind: SourceKind) -> ImportSummary:
    result = before["result"]
    counts = {name: result[name] for name in ("cases", "unlabeled", "images", "left_out", "notes")}
    return ImportSummary(out=out, kind=kind, unchanged=True, **counts)
