"""Import DICOM: one case per study, one image group per series, one PNG per slice."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from chiron.cases.body_systems import body_system_of
from chiron.cases.case import Case
from chiron.cases.modalities import modality_of
from chiron.extras import need
from chiron.importing.dicom_pixels import Frames
from chiron.importing.dicom_series import Image, Series, Study, scan
from chiron.importing.phi_filter import Pseudonyms
from chiron.importing.questions import StudyText, load_questions
from chiron.importing.source import Draft, DraftGroup, DraftImage, ImportOptions, LeaveOut, LeftOut, SourceReading, Why
from chiron.importing.writer import chosen

UNFLAGGED = "series of a kind that often shows names in its pixels, without a flag in the header: check them"
WITHHELD = "descriptions of studies or series removed, because they may identify the patient"
SHARED = "studies of several patients with one study UID: one case for each patient"
NO_WINDOW = "series whose window has no width: displayed with the range of their values"
FACES = "series of the head, in which a face may be recognizable"


def read_dicom(source: Path, options: ImportOptions, pseudonyms: Pseudonyms, skip: Path | None = None) -> SourceReading:
    """Read draft cases from a DICOM file, folder or DICOMDIR.

    Raises:
        InputError: pydicom is not installed, or the questions cannot be read.
    """
    need("pydicom", "DICOM")
    questions = load_questions(options) if options.questions is not None else None
    found = scan(source, skip)
    frames = Frames()
    studies = [(study.keys, study.patient) for study in found.studies]
    if questions is not None:
        questions.set_aside_ambiguous(studies)

    def items() -> Iterator[Draft | LeftOut]:
        yield from found.left_out
        for study in found.studies:
            case_id = _case_id(study, options, pseudonyms)
            asked: list[Any] = [None] if questions is None else (questions.of(study.keys, study.patient) or [None])
            for number, entry in enumerate(asked, start=1):
                yield _draft(study, case_id if number == 1 else f"{case_id}-{number}", case_id, entry, options, pseudonyms, frames)
        if questions is not None:
            yield from questions.unused()

    notes = [f"{found.others} other files skipped"] if found.others else []
    notes += questions.notes(studies) if questions is not None else ()
    return SourceReading(items(), len(found.studies) + len(found.left_out), tuple(notes))


def _case_id(study: Study, options: ImportOptions, pseudonyms: Pseudonyms) -> str:
    if not study.shared:
        return study.uid if options.keep_ids else pseudonyms.name("case", study.uid)
    whose = pseudonyms.name("case", f"{study.uid} of {study.whose}")
    return f"{study.uid}-{whose}" if options.keep_ids else whose


def _draft(
    study: Study, case_id: str, folder: str, entry: StudyText | None, options: ImportOptions, pseudonyms: Pseudonyms, frames: Frames
) -> Draft | LeftOut:
    kept = study.kept
    groups, notes = [], [WITHHELD] * study.withheld + [SHARED] * study.shared
    numbers: dict[str, int] = {}
    for series in study.series:
        modality = modality_of(series.kept.modality or options.modality or "")
        slug = modality.slug if modality else "image"
        numbers[slug] = numbers.get(slug, 0) + 1
        groups.append(_group(series, study, f"{folder}/{slug}_group{numbers[slug]}", options, frames))
        if series.often_burned_in and series.burned_in is None:
            notes.append(UNFLAGGED)
        if series.no_window:
            notes.append(NO_WINDOW)
        if series.face:
            notes.append(FACES)
    meta: dict[str, Any] = (
        {"patient": study.patient if options.keep_ids else pseudonyms.name("patient", study.patient)} if study.patient else {}
    )
    if kept.body_part:
        meta["body_part"] = kept.body_part
    system = body_system_of(kept.body_part) if kept.body_part else None
    case = Case(
        id=case_id,
        question="",
        answer="",
        images=(),
        age=kept.age,
        sex=kept.sex,
        title=kept.study_description,
        body_system=system.name if system else None,
        meta=MappingProxyType(meta),
    )
    place = study.place
    if entry is not None:
        try:
            case, more_notes = entry.onto(case)
            notes += more_notes
        except LeaveOut as reason:
            return LeftOut(entry.place, case_id, reason.why, str(reason))
        place = f"{study.place} with {entry.place}"
    return Draft(case, tuple(groups), place, study.known, tuple(notes))


def _group(series: Series, study: Study, under: str, options: ImportOptions, frames: Frames) -> DraftGroup:
    images = _selected(series, study, options)
    pictures: tuple[DraftImage, ...]
    if series.burned_in is True and not options.allow_burned_in:
        pictures = (DraftImage(f"{under}/0.png", _burned_in),)
    else:
        pictures = tuple(DraftImage(f"{under}/{n}.png", partial(frames.render, image.path, image.frame)) for n, image in enumerate(images))
    kept = series.kept
    about = {
        "group": under.rpartition("/")[2],
        "modality": kept.modality or options.modality,
        "body_part": kept.body_part,
        "laterality": kept.laterality,
        "description": kept.series_description,
        "slices": len(series.images),
    }
    return DraftGroup(pictures, series.place, needed=False, about={k: v for k, v in about.items() if v is not None})


def _selected(series: Series, study: Study, options: ImportOptions) -> list[Image]:
    if options.slices is None and (key := [image for image in series.images if image.uid in study.key_images]):
        return key
    return [series.images[i] for i in chosen(len(series.images), options.slices)]


def _burned_in() -> bytes:
    raise LeaveOut(Why.IDENTIFYING, "the header reports text burned into its pixels: check it, then mask it or use --allow-burned-in")
