"""Which column of a table is which field of a case."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from chiron.cases.case import Case
from chiron.cases.choices import answer_in_words, bare_options, question_with_options
from chiron.errors import InputError
from chiron.importing.drafts import LeaveOut, Why

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
"""What a column may be. The last three name a study, for questions that go with DICOM or NIfTI."""
_BY_NAME = {name: field for field, names in _NAMES.items() for name in names.split("|")}
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
"""Names of unused columns that are listed."""
_NUMBERED_IMAGE = re.compile(r"(?:image|img|picture|bild|slice)(?: path| file)? ?\d+")
_OPTION = re.compile(r"(?:choice|option|opt|op|answer|antwort|opcion|opción) ?(?:[a-j]|10|[1-9])")
"""One option of several, in a column of its own."""


@dataclass(frozen=True, slots=True)
class ColumnMap:
    """Positions of columns by field. Nothing else of a table is kept."""

    header: tuple[str, ...]
    places: Mapping[str, tuple[int, ...]]
    """Several columns of one field are put together in their order."""
    identifiers: tuple[int, ...]
    """Columns whose values name the patient or a physician: looked for in the text, and not kept."""

    def words(self) -> str:
        """The map for a person."""
        pairs = (f"{field}={' + '.join(self.header[i] for i in at)}" for field, at in self.places.items())
        used = {i for at in self.places.values() for i in at}
        unused = [i for i in range(len(self.header)) if i not in used]
        names = [self.header[i] for i in unused if self.header[i]]
        listed = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
        return "columns: " + ", ".join(pairs) + (f"; not used: {listed}" if names else "")


def names_a_patient(field: str) -> bool:
    """Whether a field is called as fields are that tell patients apart."""
    return _BY_NAME.get(_plain(field)) == "patient"


def names_somebody(field: str) -> bool:
    """Whether a field is called as fields are that name or reach a patient or a physician, or say when somebody was born."""
    return names_a_patient(field) or (plain := _plain(field)) in _IDENTIFIERS | _BIRTHS or _CALLS_SOMEBODY.fullmatch(plain) is not None


def parse_map(texts: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """``["question=Frage,images=Bild"]`` and the like: columns by field. A comma within a name is no end of it.

    Raises:
        InputError: no such field, or no column.
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
    """The columns of a header: those asked for, and for fields nobody asked for those with a usual name.

    Raises:
        InputError: a column that was asked for is not there. ``where`` names the table.
    """
    names = [_plain(h) for h in header]
    separate = sum(_OPTION.fullmatch(name) is not None for name in names) >= 2
    places: dict[str, tuple[int, ...]] = {}
    for field, columns in wanted.items():
        places[field] = tuple(_find(column, header, names, where) for column in columns)
    taken = {i for at in places.values() for i in at}
    for i, name in enumerate(names):
        field_of = _field_of(name, separate_options=separate)
        if field_of is None or field_of in wanted or i in taken:
            continue
        # Of two columns that both could be a field the first is it; images and options may be spread over several.
        if field_of not in places or field_of in _MANY:
            places[field_of] = (*places.get(field_of, ()), i)
    return ColumnMap(
        header=tuple(header),
        places={field: places[field] for field in FIELDS if field in places},
        identifiers=tuple(i for i, name in enumerate(names) if name in _IDENTIFIERS or _CALLS_SOMEBODY.fullmatch(name)),
    )


def _field_of(name: str, *, separate_options: bool) -> str | None:
    if _NUMBERED_IMAGE.fullmatch(name):
        return "images"
    return "options" if separate_options and _OPTION.fullmatch(name) else _BY_NAME.get(name)


def recognised(header: Sequence[str], wanted: Mapping[str, tuple[str, ...]]) -> int:
    """How many fields a row would name if it were the header."""
    names = {_plain(h) for h in header}
    asked = sum(_plain(column) in names for columns in wanted.values() for column in columns)
    usual = {_BY_NAME[n] for n in names if n in _BY_NAME} | ({"images"} if any(_NUMBERED_IMAGE.fullmatch(n) for n in names) else set())
    return asked + len(usual - set(wanted))


def present(wanted: Mapping[str, tuple[str, ...]], header: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Of the columns asked for those that a header has: records of one file need not all have the same fields."""
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
    return re.sub(r"[\W_]+", " ", spaced).strip().casefold()


LETTER_ALONE = "answers that are a letter alone, of options that are not there: name the columns of options with --map options=..."


def settle(texts: Mapping[str, str], question: str | None) -> dict[str, str]:
    """Texts by the fields of a case: what is asked of all rows, and where the impression goes.

    With a question and no answer of its own, the impression is the answer; else it is the last of the findings. The question for all
    rows is put to those that have an answer to it.
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


def with_options(case: Case, options: Sequence[str]) -> Case:
    """A case whose question names its options and whose answer is one of them in words.

    Raises:
        LeaveOut: the answer is none of them.
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
