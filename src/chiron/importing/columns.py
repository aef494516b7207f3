"""Map table columns to case fields."""

import difflib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from chiron.cases.case import Case
from chiron.cases.choices import answer_in_words, bare_options, question_with_options
from chiron.errors import InputError
from chiron.importing.source import LeaveOut, Why
from chiron.text import normalize_words

_NAMES: Mapping[str, str] = {
    "id": "id|case|case id|case no|case number|rid|record|row id|uid|qid|question id|sample id|image id|fall|fallnummer|caso",
    "patient": "patient|patient id|patient identifier|patient no|patient number|pat id|subject|subject id|pid|mrn|patienten id|paciente",
    "question": "question|questions|question text|prompt|query|instruction|frage|pregunta|domanda|vraag",
    "answer": (
        "answer|answers|correct answer|right answer|correct option|known answer|gt answer|ground truth|gold|label|response|output"
        "|antwort|respuesta|reponse|réponse|antwoord"
    ),
    "options": "options|choices|answer options|answer choices|candidates|optionen|opciones",
    "images": (
        "image|images|image name|image names|image path|image paths|image file|image files|images paths|path|paths|file|files"
        "|filename|filenames|file name|file names|figure|figure path|img|img name|img path|img names|bild|bilder|bilddatei|imagen"
        "|imagenes|imágenes"
    ),
    "history": (
        "history|clinical history|patient history|clinical details|clinical data|reason for exam|reason for examination"
        "|reason for study|presentation|indication|clinical information|clinical indication|anamnese|anamnesis|vorgeschichte"
        "|historia|antecedents|antécédents"
    ),
    "findings": (
        "findings|finding|report|report text|radiology findings|befundtext|radiology report|caption|captions|description|befund"
        "|befunde|hallazgos|resultats|résultats"
    ),
    "impression": "impression|impressions|conclusion|conclusions|radiology impression|beurteilung|conclusión",
    "age": "age|patient age|age label|age years|alter|edad|âge",
    "sex": "sex|gender|patient sex|gender label|geschlecht|sexo|sexe",
    "title": (
        "title|case title|exam|examination|exam description|exam name|procedure|procedure description|study description"
        "|untersuchung|titel|titulo|título|titre"
    ),
    "modality": "modality|modalities|imaging modality|imaging|modalität|modalitaet|modalidad",
    "body_system": "body system|system|organ system|section|organsystem",
    "accession": "accession|accession number|accession no|accession nr|acc|acc no|acc nr|acc number",
    "study": "study|study uid|study instance uid|studyinstanceuid|study id",
    "folder": "folder|directory|study folder|ordner",
}
FIELDS = tuple(_NAMES)
"""Fields that a column can map to. The last three identify a study, for questions about DICOM or NIfTI images."""
_DIAGNOSES = frozenset("diagnosis|diagnoses|final diagnosis|diagnose|diagnóstico|diagnostico|diagnostic".split("|"))
"""Columns that count as the impression where a table has none: next to one, a diagnosis may be the referring physician's."""
_BY_NAME = {name: field for field, names in _NAMES.items() for name in names.split("|")} | dict.fromkeys(_DIAGNOSES, "impression")
_IDENTIFIERS = frozenset(
    "name|patient name|first name|last name|surname|forename|given name|family name|nachname|vorname|nombre|apellido|nom|prenom|prénom"
    "|referring physician|physician|doctor|radiologist|hospital number|medical record number|accession|accession number|patient id"
    "|mrn|patient|pid".split("|")
)
_BIRTHS = frozenset("birth|birthday|birth date|birthdate|date of birth|dob|patient birth date|geburtsdatum|fecha de nacimiento".split("|"))
_CALLS_SOMEBODY = re.compile(
    r"(?:(?:patient|physician|doctor|radiologist|surgeon|operator|nurse|first|last|full|family|given|middle|maiden|mother|father)s? ?)+"
    r"names?|(?:.+ )?(?:physician|doctor|radiologist|surgeon|operator|technologist)s?(?: of record)?"
    r"|(?:reported|signed|dictated|referred|verified|approved|transcribed|seen) by"
    r"|(?:.+ )?(?:phone|telephone|mobile|fax|e ?mail|address|street|ssn|social security|nhs|insurance)(?: (?:no|nr|number|id))?"
)
_MANY = ("images", "options")
_NAMED = 12
"""Maximum number of unused columns to list."""
_NUMBERED_IMAGE = re.compile(r"(?:image|img|picture|bild|slice)(?: path| file)? ?\d+")
_OPTION = re.compile(r"(?:choice|option|opt|op|answer|antwort|opcion|opción) ?(?:[a-j]|10|[1-9])")
"""Matches a column that holds one of several options."""


@dataclass(frozen=True, slots=True)
class ColumnMap:
    """Column positions by field. It holds no other table data."""

    header: tuple[str, ...]
    places: Mapping[str, tuple[int, ...]]
    """Several columns of one field are joined in order."""
    identifiers: tuple[int, ...]
    """Columns that name the patient or a physician. Their values are searched for in the text and not stored."""

    def words(self) -> str:
        """Format the map for display."""
        pairs = (f"{field}={' + '.join(self.header[i] for i in at)}" for field, at in self.places.items())
        used = {i for at in self.places.values() for i in at}
        unused = [i for i in range(len(self.header)) if i not in used]
        names = [self.header[i] for i in unused if self.header[i]]
        listed = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
        return "columns: " + ", ".join(pairs) + (f"; not used: {listed}" if names else "")


def names_a_patient(field: str) -> bool:
    """Return whether a field name usually identifies the patient."""
    return _BY_NAME.get(_plain(field)) == "patient"


def names_somebody(field: str) -> bool:
    """Return whether a field name usually holds a name, contact or birth date of a patient or physician."""
    return names_a_patient(field) or (plain := _plain(field)) in _IDENTIFIERS | _BIRTHS or _CALLS_SOMEBODY.fullmatch(plain) is not None


def parse_map(texts: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Parse ``["question=Frage,images=Bild"]`` and the like into columns by field. Column names may contain commas.

    Raises:
        InputError: the field is unknown, or no column is given.
    """
    found: dict[str, tuple[str, ...]] = {}
    for text in texts:
        for part in re.split(rf",(?=\s*(?:{'|'.join(FIELDS)})\s*=)", text):
            field, equals, column = (p.strip() for p in part.partition("="))
            if field not in FIELDS:
                near = difflib.get_close_matches(field, FIELDS, n=1)
                hint = f": did you mean '{near[0]}'?" if near else f" (there are {', '.join(FIELDS)})"
                raise InputError(f"--map {part.strip()}: a case has no field '{field}'{hint}")
            if not equals or not column:
                raise InputError(f"--map {part.strip()}: write {field}=COLUMN, with the column's name in the header")
            found[field] = (*found.get(field, ()), column)
    return found


def map_columns(header: Sequence[str], wanted: Mapping[str, tuple[str, ...]], where: str) -> ColumnMap:
    """Map the columns of a header: first the requested ones, then known names for the remaining fields.

    Args:
        header: column names.
        wanted: requested columns by field.
        where: name of the table, for error messages.

    Raises:
        InputError: a requested column does not exist.
    """
    names = [_plain(h) for h in header]
    asked = {field: tuple(_find(column, header, names, where) for column in columns) for field, columns in wanted.items()}
    places = {**_known_places(names, {i for at in asked.values() for i in at}), **asked}
    return ColumnMap(
        header=tuple(header),
        places={field: places[field] for field in FIELDS if field in places},
        identifiers=tuple(i for i, name in enumerate(names) if name in _IDENTIFIERS or _CALLS_SOMEBODY.fullmatch(name)),
    )


def _known_places(names: Sequence[str], taken: Collection[int]) -> dict[str, tuple[int, ...]]:
    """Return the columns with a known name by field, without those that are ``taken``."""
    separate = sum(_OPTION.fullmatch(name) is not None for name in names) >= 2
    has_impression = any(_BY_NAME.get(name) == "impression" for name in set(names) - _DIAGNOSES)
    places: dict[str, tuple[int, ...]] = {}
    for i, name in enumerate(names):
        field = _field_of(name, separate_options=separate)
        if field is None or i in taken or (has_impression and name in _DIAGNOSES):
            continue
        # If two columns match one field, the first wins; images and options may span several columns.
        if field not in places or field in _MANY:
            places[field] = (*places.get(field, ()), i)
    return places


def _field_of(name: str, *, separate_options: bool) -> str | None:
    if _NUMBERED_IMAGE.fullmatch(name):
        return "images"
    return "options" if separate_options and _OPTION.fullmatch(name) else _BY_NAME.get(name)


def count_recognized(header: Sequence[str], wanted: Mapping[str, tuple[str, ...]]) -> int:
    """Return how many fields a row would name if it were the header."""
    names = {_plain(h) for h in header}
    asked = sum(_plain(column) in names for columns in wanted.values() for column in columns)
    usual = {_BY_NAME[n] for n in names if n in _BY_NAME} | ({"images"} if any(_NUMBERED_IMAGE.fullmatch(n) for n in names) else set())
    return asked + len(usual - set(wanted))


def present(wanted: Mapping[str, tuple[str, ...]], header: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the requested columns that a header contains, since records of one file may have different fields."""
    names = {*header, *map(_plain, header)}
    found = {field: tuple(c for c in columns if c in names or _plain(c) in names) for field, columns in wanted.items()}
    return {field: columns for field, columns in found.items() if columns}


def _find(column: str, header: Sequence[str], names: list[str], where: str) -> int:
    if column in header:
        return list(header).index(column)
    if (plain := _plain(column)) in names:
        return names.index(plain)
    near = difflib.get_close_matches(column, [h for h in header if h], n=1)
    hint = f": did you mean '{near[0]}'?" if near else f" (there are {', '.join(h for h in header if h) or 'none'})"
    raise InputError(f"{where} has no column '{column}'{hint}")


def _plain(name: str) -> str:
    spaced = re.sub(r"(?<=[a-zà-ÿ])(?=[A-Z])", " ", name.strip())
    return normalize_words(spaced)


NO_QUESTION = (
    "reports with an answer or an impression but no question, imported without one: set one for all with --question TEXT, or use"
    " 'chiron build questions'"
)
LETTER_ALONE = "answers that are only a letter, without options: name the columns of options with --map options=..."


def settle(texts: Mapping[str, str], question: str | None) -> dict[str, str]:
    """Resolve the common question and the impression of a report.

    The common question applies to rows that have an answer or an impression but no question. If there is a question without an answer, the
    impression becomes the answer; otherwise it is appended to the findings.
    """
    settled = {**texts}
    impression = settled.pop("impression", "")
    if not settled.get("question") and question and (settled.get("answer") or impression):
        settled["question"] = question
    if settled.get("question") and not settled.get("answer") and impression:
        settled["answer"] = impression
    elif impression:
        settled["findings"] = "\n\n".join(text for text in (settled.get("findings"), f"Impression: {impression}") if text)
    return settled


def paragraphs(text: str) -> list[str]:
    """Split a report at its blank lines."""
    return [part for part in re.split(r"\n\s*\n", text) if part.strip()]


def with_options(case: Case, options: Sequence[str]) -> Case:
    """Return the case with its options in the question and one of them, in words, as the answer.

    Raises:
        LeaveOut: the answer matches no option.
    """
    if not options or not case.question:
        return case
    bare = bare_options(options)
    try:
        answer = answer_in_words(case.answer, bare)
    except ValueError as problem:
        raise LeaveOut(Why.RECORD, str(problem)) from problem
    meta = MappingProxyType({**case.meta, "options": list(bare)})
    return replace(case, question=question_with_options(case.question, bare), answer=answer, meta=meta)
