"""The published format and the tidy one: read as they are, their images copied along under the names that they have.

Fields that neither format knows come along too, unless they are called as fields that name a patient or a physician are.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

from chiron.cases.ages import age_band
from chiron.cases.case import BadCase, Case
from chiron.cases.images import ImageFolder, image_folder
from chiron.cases.importing.columns import names_a_patient, names_somebody
from chiron.cases.importing.identifying import find_identifying, identifiers, named
from chiron.cases.importing.kinds import GROUP_FOLDER, JSONL, the_file
from chiron.cases.importing.pictures import copied
from chiron.cases.importing.pseudonyms import Pseudonyms, folder_name
from chiron.cases.importing.records import ID_TELLS, Draft, Group, ImportOptions, LeaveOut, LeftOut, Picture, Reading, Why
from chiron.cases.reading import read_cases

LEFT_BEHIND = "fields left behind, since they are called as fields that name a patient or a physician are"
RENAMED = "cases whose images were named anew, since their names may say who the patient is"
_PSEUDONYM = re.compile(r"patient-[0-9a-f]{16}")
_DEPTH = 20
"""Objects and lists within one another. No case needs more, and what lies deeper is not looked over."""


def read_jsonl(source: Path, options: ImportOptions, pseudonyms: Pseudonyms) -> Reading:
    """Drafts of a file of cases.

    Raises:
        InputError: the file or its image folder is not there.
    """
    path = the_file(source, JSONL, "JSONL file")
    folder = image_folder(path, options.images)

    def items() -> Iterator[Draft | LeftOut]:
        for case in read_cases(path, unlabeled=True):
            place = f"{path.name}, line {case.line}"
            if isinstance(case, BadCase):
                yield _bad(case, place, options, pseudonyms)
                continue
            try:
                yield _draft(case, place, folder, options, pseudonyms)
            except LeaveOut as reason:
                yield _bad(BadCase(case.line, case.id, str(reason)), place, options, pseudonyms)

    return Reading(items())


def _bad(case: BadCase, place: str, options: ImportOptions, pseudonyms: Pseudonyms) -> LeftOut:
    if case.id is None or options.keep_ids is not False:
        return LeftOut(place, case.id, Why.RECORD, case.problem)
    hidden = pseudonyms.name("case", case.id)
    return LeftOut(place, hidden, Why.RECORD, case.problem.replace(case.id, hidden))


def _draft(case: Case, place: str, folder: ImageFolder, options: ImportOptions, pseudonyms: Pseudonyms) -> Draft:
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
        # The old names hold the old id.
        kept = {name: f"{folder_name(draft.id)}/{n}{_suffix(name)}" for n, name in enumerate(case.images)}
        known |= identifiers(case.id)
    if draft.modality is None and options.modality is not None:
        draft = replace(draft, modality=options.modality)
    pictures = tuple(
        Picture(shown, copied(folder, name, called=shown if options.keep_ids is False else None)) for name, shown in kept.items()
    )
    return Draft(draft, (Group(pictures, place),), place, frozenset(known - identifiers(draft.id)), tuple(notes))


def _told(names: Sequence[str], under: str, known: Collection[str]) -> dict[str, str]:
    """The names that images go on under: their own, unless one of the case's may say who the patient is; then numbers for all of them.

    Folders of image groups stay.
    """
    if not any(find_identifying(re.sub(r"[_/]+", " ", name), known) for name in names):
        return {name: name for name in names}
    groups = {name: [part.lower() for part in PurePosixPath(name).parts[:-1] if GROUP_FOLDER.fullmatch(part)][-1:] for name in names}
    return {name: "/".join([under, *groups[name], f"{n}{_suffix(name)}"]) for n, name in enumerate(names)}


def _suffix(name: str) -> str:
    suffix = PurePosixPath(name).suffix.lower()
    return suffix if re.fullmatch(r"\.[a-z0-9]{2,4}", suffix) else ""


def _patient(meta: Mapping[str, Any]) -> str | None:
    """What the record calls its patient: field ``patient`` first, else one with a usual name for it."""
    for key in sorted(meta, key=lambda key: key != "patient"):
        value = meta[key]
        if names_a_patient(key) and isinstance(value, str | int) and not isinstance(value, bool) and str(value).strip():
            return str(value).strip()
    return None


def _without_names(meta: Mapping[str, Any], known: set[str], left: list[str], depth: int = 0) -> dict[str, Any]:
    """``meta`` without the fields that name somebody, at any depth; what they say goes into ``known``, their names into ``left``."""
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
        raise LeaveOut(Why.RECORD, f"objects and lists lie more than {_DEPTH} deep in it: leave out what is no part of the case")
    if isinstance(value, dict):
        return _without_names(value, known, left, depth)
    return [_inside(v, known, left, depth + 1) for v in value] if isinstance(value, list) else value


def _strings(value: Any, depth: int = 0) -> Iterator[str]:
    if isinstance(value, dict | list) and depth <= _DEPTH:
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner, depth + 1)
    elif isinstance(value, str | int | float) and not isinstance(value, bool):
        yield str(value)
