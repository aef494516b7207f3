"""Import JSONL files in the published or tidy format. Images are copied with their names.

Unknown fields are kept, unless their names suggest that they identify a patient or a physician.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

from chiron.cases.case import Case, age_band
from chiron.cases.choices import letter_without_options
from chiron.cases.formats import CaseProblem, case_id, fields_of, parse_case
from chiron.cases.images import ImageFolder, image_folder
from chiron.cases.reader import read_records
from chiron.importing.columns import LETTER_ALONE, map_columns, names_a_patient, names_somebody, present, with_options
from chiron.importing.phi_filter import Pseudonyms, find_identifying, folder_name, identifiers, named
from chiron.importing.rows import SEVERAL, entry_of, is_conversation, options_of, row_pictures, unrolled
from chiron.importing.source import (
    GROUP_FOLDER,
    ID_TELLS,
    JSONL,
    Draft,
    DraftGroup,
    DraftImage,
    ImportOptions,
    LeaveOut,
    LeftOut,
    SourceReading,
    Why,
    the_file,
)
from chiron.importing.tables import TableImages, draft_of, told_id
from chiron.importing.writer import copied
from chiron.io import BrokenJson

LEFT_BEHIND = "fields removed, because fields with their names usually identify a patient or a physician"
RENAMED = "cases whose images were renamed, because their names may identify the patient"
_PSEUDONYM = re.compile(r"patient-[0-9a-f]{16}")
_DEPTH = 20
"""Maximum nesting depth. Cases need less, and deeper values would not be screened."""


def read_jsonl(source: Path, options: ImportOptions, pseudonyms: Pseudonyms) -> SourceReading:
    """Read draft cases from a file of records in the published or tidy format, or with other field names.

    Raises:
        InputError: the file or its image folder does not exist, or no record has a requested field.
    """
    path = the_file(source, JSONL, "JSONL file")
    if options.images is not None:
        image_folder(path, options.images)
    if options.columns:
        need_fields(path, options.columns)
    reader = _Reader(path, options, pseudonyms)
    return SourceReading(reader.items())


class _Reader:
    """Reader of one file's records."""

    def __init__(self, path: Path, options: ImportOptions, pseudonyms: Pseudonyms) -> None:
        self._path, self._options, self._pseudonyms = path, options, pseudonyms
        beside = path.parent / "images"
        root = options.images or (beside if beside.is_dir() else path.parent)
        self._folder = ImageFolder(root)
        self._files = TableImages(options.images or path.parent, fallback=options.images is None, hidden=options.keep_ids is False)

    def items(self) -> Iterator[Draft | LeftOut]:
        seen: dict[str, int] = {}
        for line, raw in read_records(self._path):
            place = f"{self._path.name}, line {line}"
            try:
                yield self._draft(raw, place, line, seen)
            except (LeaveOut, CaseProblem) as reason:
                why = reason.why if isinstance(reason, LeaveOut) else Why.RECORD
                given = case_id(raw)
                shown = told_id(given, self._options, self._pseudonyms)
                problem = str(reason).replace(given, shown) if given and shown else str(reason)
                yield LeftOut(place, shown, why, problem)

    def _draft(self, raw: object, place: str, line: int, seen: dict[str, int]) -> Draft:
        if isinstance(raw, BrokenJson):
            raise CaseProblem(raw.problem)
        if isinstance(raw, Mapping) and (self._options.columns or not _is_case(raw)):
            draft = self._of_record(raw, place, line)
        else:
            case = parse_case(raw, unlabeled=True)
            if case.answer and not case.question and self._options.question:
                case = replace(case, question=self._options.question)
            draft = _draft(case, place, self._folder, self._options, self._pseudonyms)
        if (first := seen.setdefault(draft.case.id, line)) != line:
            raise CaseProblem(f"id '{draft.case.id}' was already used on line {first}: give each case its own id")
        return draft

    def _of_record(self, raw: Mapping[str, Any], place: str, line: int) -> Draft:
        row, more = unrolled(raw)
        columns = map_columns(tuple(row), present(self._options.columns, tuple(row)), place)
        entry, images = entry_of(columns, row, place)
        try:
            pictures = partial(row_pictures, images, self._files)
            draft = draft_of(entry, f"{self._path.stem}-{line:06d}", pictures, self._options, self._pseudonyms)
        except LeaveOut as reason:
            if {"question", "answer", "images"} <= set(columns.places):
                raise
            raise LeaveOut(reason.why, f"{reason}; it has {fields_of(raw)}, and --map FIELD=NAME says which is which") from reason
        return replace(draft, notes=(*draft.notes, columns.words().replace("columns:", "fields:"), *([SEVERAL] if more else [])))


def _is_case(record: Mapping[str, Any]) -> bool:
    """Return whether a record is in the published or tidy format."""
    if is_conversation(record):
        return "rid" in record
    return bool({"images", "img_name"} & set(record)) and bool({"id", "rid"} & set(record)) and not _named_otherwise(record)


def _named_otherwise(record: Mapping[str, Any]) -> bool:
    """Return whether a record lacks ``question`` or ``answer`` but has another known name for it."""
    places = map_columns(tuple(record), {}, "").places
    return any(name in places and name not in record for name in ("question", "answer")) and "rid" not in record


def need_fields(path: Path, columns: Mapping[str, tuple[str, ...]]) -> None:
    """Check that every requested field occurs in some record.

    Raises:
        InputError: a field does not occur. The message lists the available fields.
    """
    found: dict[str, None] = {}
    for _, raw in read_records(path):
        if isinstance(raw, Mapping):
            with suppress(LeaveOut):  # reported later, when the record is read
                found.update(dict.fromkeys([*raw, *unrolled(raw)[0]]))
    map_columns(tuple(found), columns, str(path))


def _draft(case: Case, place: str, folder: ImageFolder, options: ImportOptions, pseudonyms: Pseudonyms) -> Draft:
    case = with_options(case, _options_of(case.meta))
    patient = _patient(case.meta)
    known, left = set[str](), list[str]()
    meta = _without_names(case.meta, known, left)
    if patient is not None:
        left.remove("patient")
        if options.keep_ids is False or (options.keep_ids is None and not _PSEUDONYM.fullmatch(patient)):
            meta["patient"] = pseudonyms.name("patient", patient)
        else:
            meta["patient"] = patient
            known -= identifiers(patient)
    draft = replace(case, images=(), age=age_band(case.age) if case.age else None, meta=MappingProxyType(meta))
    notes = [LEFT_BEHIND] * bool(left)
    kept = _told(case.images, folder_name(case.id), known)
    if any(name != shown for name, shown in kept.items()) and options.keep_ids is not False:
        notes.append(RENAMED)
    if known & identifiers(case.id) and options.keep_ids is None:
        notes.append(ID_TELLS)
    if options.keep_ids is False:
        draft = replace(draft, id=pseudonyms.name("case", case.id))
        # The old image names contain the old id.
        kept = {name: f"{folder_name(draft.id)}/{n}{_suffix(name)}" for n, name in enumerate(case.images)}
        known |= identifiers(case.id)
    notes += [LETTER_ALONE] * letter_without_options(draft.question, draft.answer)
    if draft.modality is None and options.modality is not None:
        draft = replace(draft, modality=options.modality)
    pictures = tuple(
        DraftImage(shown, copied(folder, name, called=shown if options.keep_ids is False else None)) for name, shown in kept.items()
    )
    return Draft(draft, (DraftGroup(pictures, place),), place, frozenset(known - identifiers(draft.id)), tuple(notes))


def _options_of(meta: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the options of a record that is already a case."""
    header = tuple(meta)
    columns = map_columns(header, {}, "")
    return options_of([meta[header[i]] for i in columns.places.get("options", ())])


def _told(names: Sequence[str], under: str, known: Collection[str]) -> dict[str, str]:
    """Return the output name of each image: unchanged, or numbers for all if any name may identify the patient.

    Image group folders are kept.
    """
    if not any(find_identifying(re.sub(r"[_/]+", " ", name), known) for name in names):
        return {name: name for name in names}
    groups = {name: [part.lower() for part in PurePosixPath(name).parts[:-1] if GROUP_FOLDER.fullmatch(part)][-1:] for name in names}
    return {name: "/".join([under, *groups[name], f"{n}{_suffix(name)}"]) for n, name in enumerate(names)}


def _suffix(name: str) -> str:
    suffix = PurePosixPath(name).suffix.lower()
    return suffix if re.fullmatch(r"\.[a-z0-9]{2,4}", suffix) else ""


def _patient(meta: Mapping[str, Any]) -> str | None:
    """Return the patient's identifier: the field ``patient``, else a field with another usual name for it."""
    for key in sorted(meta, key=lambda key: key != "patient"):
        value = meta[key]
        if names_a_patient(key) and isinstance(value, str | int) and not isinstance(value, bool) and str(value).strip():
            return str(value).strip()
    return None


def _without_names(meta: Mapping[str, Any], known: set[str], left: list[str], depth: int = 0) -> dict[str, Any]:
    """Remove identifying fields from ``meta`` at any depth; add their values to ``known`` and their names to ``left``."""
    kept = {}
    for key, value in meta.items():
        if names_somebody(key):
            known |= named(_strings(value))
            left.append("patient" if depth == 0 and names_a_patient(key) else key)
        else:
            kept[key] = _inside(value, known, left, depth + 1)
    return kept


def _inside(value: Any, known: set[str], left: list[str], depth: int) -> Any:
    if depth > _DEPTH:
        raise LeaveOut(Why.RECORD, f"objects and lists are nested more than {_DEPTH} deep: remove what does not belong to the case")
    if isinstance(value, dict):
        return _without_names(value, known, left, depth)
    return [_inside(v, known, left, depth + 1) for v in value] if isinstance(value, list) else value


def _strings(value: Any, depth: int = 0) -> Iterator[str]:
    if isinstance(value, dict | list) and depth <= _DEPTH:
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner, depth + 1)
    elif isinstance(value, str | int | float) and not isinstance(value, bool):
        yield str(value)
