"""Match questions, answers and reports from a table or JSONL file to imported studies."""

import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from chiron.cases.case import Case
from chiron.cases.choices import letter_without_options
from chiron.cases.formats import CaseProblem, parse_case
from chiron.cases.reader import read_records
from chiron.errors import InputError
from chiron.importing.columns import LETTER_ALONE, NO_QUESTION, ColumnMap, map_columns, paragraphs, present, settle, with_options
from chiron.importing.jsonl import need_fields
from chiron.importing.rows import entry_of, unrolled
from chiron.importing.source import JSONL, ImportOptions, LeaveOut, LeftOut, Why
from chiron.importing.tables import Entry, entries, open_table
from chiron.io import BrokenJson

KEYS = ("accession", "study", "folder")
"""Keys that identify a study in a row. ``id`` matches any of them, ``patient`` matches all studies of a patient."""
NO_ANSWER = "reports with a question but no answer, imported without the question: name the column of answers with --map answer=..."
_MAP_KEY = "--map accession=..., study=..., folder=... or patient=..."
_MAPS = 3
"""Maximum number of different column maps to report."""
_TEXTS = ("question", "answer", "history", "title", "body_system", "modality")


@dataclass(frozen=True, slots=True)
class StudyText:
    """One row: question, answer and report of a study."""

    place: str
    texts: Mapping[str, str]
    options: tuple[str, ...] = ()
    unasked: bool = False
    """Whether the impression became a finding, because the row has no question."""

    def onto(self, case: Case) -> tuple[Case, tuple[str, ...]]:
        """Add this text to a case; return the case and notes. Modality, age and sex from the header take precedence.

        A report is kept even without a question or an answer: the case is then unlabeled, and a known answer is appended to its findings.

        Raises:
            LeaveOut: the row has a question without an answer, or an answer without a question, and no report.
        """
        texts = {name: text for name in _TEXTS if (text := self.texts.get(name))}
        findings = paragraphs(self.texts.get("findings", ""))
        notes = []
        if findings and bool(texts.get("question")) != bool(texts.get("answer")):
            notes.append(NO_ANSWER if texts.pop("question", None) else NO_QUESTION)
            if answer := texts.pop("answer", None):
                findings.append(f"Known answer: {answer}")
        elif self.unasked:
            notes.append(NO_QUESTION)
        record = {**case.to_record(), **texts, "images": ["-"], "findings": findings}
        try:
            read = parse_case(record, unlabeled=True)
        except CaseProblem as problem:
            raise LeaveOut(Why.RECORD, str(problem)) from problem
        read = with_options(replace(read, images=(), meta=case.meta), self.options)
        return read, (*notes, *([LETTER_ALONE] if letter_without_options(read.question, read.answer) else []))


def _folded(key: tuple[str, str]) -> tuple[str, str]:
    """Normalize a key for comparison, because spreadsheets lose leading zeros and users vary letter case. Folders match exactly."""
    field, value = key
    return field, value if field == "folder" else value.strip().casefold().lstrip("0")


class Questions:
    """Questions indexed by study key."""

    def __init__(self, rows: Iterator[tuple[StudyText, Mapping[str, str]] | LeftOut], columns: Sequence[ColumnMap]) -> None:
        """Index the rows.

        Args:
            rows: texts with their keys; unreadable rows are kept for :meth:`unused`.
            columns: column maps; they are complete only after all rows are read.
        """
        self._by_key: dict[tuple[str, str], list[StudyText]] = {}
        self._waiting: dict[int, StudyText] = {}
        self._bad: list[LeftOut] = []
        for row in rows:
            if isinstance(row, LeftOut):
                self._bad.append(row)
                continue
            text, keys = row
            named = [(field, keys[field]) for field in (*KEYS, "patient", "id") if keys.get(field)]
            if not named:
                self._bad.append(LeftOut(text.place, None, Why.RECORD, "it does not name a study: add an accession, study, folder or id"))
                continue
            # The first key counts: a row that names both a study and its patient belongs to the study.
            self._by_key.setdefault(_folded(named[0]), []).append(text)
            self._waiting[id(text)] = text
        self._columns = [found.words().replace("columns:", "columns of the questions:") for found in columns[:_MAPS]]

    def notes(self, studies: Sequence[tuple[Collection[tuple[str, str]], str | None]]) -> tuple[str, ...]:
        """Return notes for the user: how the file was read and how many rows match.

        Args:
            studies: each study's keys and patient number, as for :meth:`of`.
        """
        fitting = [{id(text) for text in self._fitting(keys, patient)} for keys, patient in studies]
        rows = len(self._waiting) + len(self._bad)
        matching = len(set().union(*fitting))
        advice = "" if matching else f": name the column that identifies a study with {_MAP_KEY}"
        return (
            *self._columns,
            f"{matching:,} of {rows:,} rows match {sum(map(bool, fitting)):,} of {len(fitting):,} studies{advice}",
        )

    def set_aside_ambiguous(self, studies: Iterable[tuple[Collection[tuple[str, str]], str | None]]) -> None:
        """Set aside rows whose key matches several studies, because a wrong answer is worse than a missing one.

        Only a patient number may match several studies.

        Args:
            studies: each study's keys and patient number, as for :meth:`of`.
        """
        fitting: Counter[tuple[str, str]] = Counter()
        beside_patient: set[tuple[str, str]] = set()
        for keys, patient in studies:
            values = {("id", value) for _, value in keys}
            by_patient = {("id", patient)} if patient else set()
            fitting.update({_folded(key) for key in {*keys, *values, *by_patient}})
            beside_patient |= {_folded(key) for key in {*keys, *values} - by_patient}
        for key in [key for key in self._by_key if fitting[key] > 1 and key in beside_patient]:
            for text in self._by_key.pop(key):
                del self._waiting[id(text)]
                reason = f"ambiguous: its '{key[0]}' matches {fitting[key]} studies: use the folder's path, or the study's UID"
                self._bad.append(LeftOut(text.place, None, Why.RECORD, reason))

    def of(self, keys: Collection[tuple[str, str]], patient: str | None) -> list[StudyText]:
        """Return the texts of a study, grouped by matching key, and mark them as used."""
        found = self._fitting(keys, patient)
        for text in found:
            self._waiting.pop(id(text), None)
        return found

    def _fitting(self, keys: Collection[tuple[str, str]], patient: str | None) -> list[StudyText]:
        wanted = {*keys, *(("id", value) for _, value in keys), *([("patient", patient), ("id", patient)] if patient else [])}
        return [text for key in sorted({_folded(key) for key in wanted}) for text in self._by_key.get(key, ())]

    def unused(self) -> Iterator[LeftOut]:
        """Yield unreadable rows and rows that matched no study."""
        yield from self._bad
        for text in self._waiting.values():
            yield LeftOut(text.place, None, Why.RECORD, "no study of the source matches this row")


def load_questions(options: ImportOptions) -> Questions:
    """Read the file of questions.

    Raises:
        InputError: the file does not exist, or it has no column that identifies a study.
    """
    path = options.questions
    if path is None or not os.path.isfile(path):
        raise InputError(f"questions {path} do not exist or cannot be reached: name a table or JSONL file with --questions")
    columns: list[ColumnMap] = []
    rows = _json_rows if path.suffix.lower() in JSONL else _table_rows
    return Questions(rows(path, options, columns), columns)


def _table_rows(path: Path, options: ImportOptions, columns: list[ColumnMap]) -> Iterator[tuple[StudyText, Mapping[str, str]] | LeftOut]:
    table = open_table(path, options, usual="accession=...,findings=...,impression=...")
    if not {*KEYS, "patient", "id"} & set(table.columns.places):
        raise InputError(f"{path} has no column that identifies a study ({table.columns.words()}): name one with {_MAP_KEY}")
    columns.append(table.columns)
    for entry in entries(table):
        yield entry if isinstance(entry, LeftOut) else _of_entry(entry, options)


def _of_entry(entry: Entry, options: ImportOptions) -> tuple[StudyText, Mapping[str, str]]:
    settled = settle(entry.texts, options.question)
    unasked = bool(entry.texts.get("impression")) and not settled.get("question")
    return StudyText(entry.place, settled, entry.options, unasked), entry.texts


def _json_rows(path: Path, options: ImportOptions, columns: list[ColumnMap]) -> Iterator[tuple[StudyText, Mapping[str, str]] | LeftOut]:
    if options.columns:
        need_fields(path, options.columns)
    for number, record in read_records(path):
        place = f"{path.name}, line {number}"
        if isinstance(record, BrokenJson):
            yield LeftOut(place, None, Why.RECORD, record.problem)
            continue
        if not isinstance(record, Mapping):
            yield LeftOut(place, None, Why.RECORD, "it is not a JSON object")
            continue
        try:
            row, _ = unrolled(record)
            found = map_columns(tuple(row), present(options.columns, tuple(row)), place)
            entry, _ = entry_of(found, row, place)
        except LeaveOut as reason:
            yield LeftOut(place, None, reason.why, str(reason))
            continue
        columns += [found] if found.words() not in {known.words() for known in columns} else []
        yield _of_entry(entry, options)
