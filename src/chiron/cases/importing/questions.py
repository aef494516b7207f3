"""Questions, answers and reports for images that bring none: a table or JSONL, matched by study."""

import json
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from chiron.cases.case import Case
from chiron.cases.formats import CaseProblem, parse_case
from chiron.cases.importing.columns import FIELDS
from chiron.cases.importing.kinds import JSONL
from chiron.cases.importing.records import ImportOptions, LeaveOut, LeftOut, Why
from chiron.cases.importing.tables import entries, open_table
from chiron.errors import InputError

KEYS = ("accession", "study", "folder")
"""What a row may name its study by; ``id`` stands for any of them, and ``patient`` for all studies of a patient."""
_TEXTS = ("question", "answer", "history", "title", "body_system", "modality")


@dataclass(frozen=True, slots=True)
class StudyText:
    """One row: what is asked of a study, and said of it."""

    place: str
    texts: Mapping[str, str]
    findings: tuple[str, ...]

    def onto(self, case: Case) -> Case:
        """The case with this text. What the header says of modality, age and sex stays.

        Raises:
            LeaveOut: a question without its answer, or the other way round.
        """
        texts = {name: text for name in _TEXTS if (text := self.texts.get(name))}
        record = {**case.to_record(), **texts, "images": ["-"], "findings": list(self.findings)}
        try:
            read = parse_case(record, unlabeled=True)
        except CaseProblem as problem:
            raise LeaveOut(Why.RECORD, str(problem)) from problem
        return replace(read, images=(), meta=case.meta)


class Questions:
    """A file of questions, by what it calls the studies."""

    def __init__(self, rows: Iterator[tuple[StudyText, Mapping[str, str]] | LeftOut]) -> None:
        """``rows``: texts with the keys they go by; what could not be read is kept for the end."""
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
                self._bad.append(LeftOut(text.place, None, Why.RECORD, "it names no study: give it an accession, study, folder or id"))
                continue
            # The first key counts: a row that names a study and its patient belongs to the study.
            self._by_key.setdefault(named[0], []).append(text)
            self._waiting[id(text)] = text

    def set_aside_ambiguous(self, studies: Iterable[tuple[Collection[tuple[str, str]], str | None]]) -> None:
        """Leave out rows whose key fits several studies: whose they are nobody can say, and a wrong answer is worse than none.

        Only by the patient's number several studies may be meant.

        Args:
            studies: of every study its keys and its patient's number, as for :meth:`of`.
        """
        fitting: Counter[tuple[str, str]] = Counter()
        beside_patient: set[tuple[str, str]] = set()
        for keys, patient in studies:
            values = {("id", value) for _, value in keys}
            by_patient = {("id", patient)} if patient else set()
            fitting.update({*keys, *values, *by_patient})
            beside_patient |= {*keys, *values} - by_patient
        for key in [key for key in self._by_key if fitting[key] > 1 and key in beside_patient]:
            for text in self._by_key.pop(key):
                del self._waiting[id(text)]
                reason = f"ambiguous: {fitting[key]} studies are called as its '{key[0]}' says: give the folder's path, or the study's UID"
                self._bad.append(LeftOut(text.place, None, Why.RECORD, reason))

    def of(self, keys: Collection[tuple[str, str]], patient: str | None) -> list[StudyText]:
        """The texts of a study, in the order of the file."""
        wanted = {*keys, *(("id", value) for _, value in keys), *([("patient", patient), ("id", patient)] if patient else [])}
        found = [text for key in sorted(wanted) for text in self._by_key.get(key, ())]
        for text in found:
            self._waiting.pop(id(text), None)
        return found

    def unused(self) -> Iterator[LeftOut]:
        """Rows that could not be read, and rows that no study was asked for."""
        yield from self._bad
        for text in self._waiting.values():
            yield LeftOut(text.place, None, Why.RECORD, "no study of the source is called as this row calls it")


def load_questions(options: ImportOptions) -> Questions:
    """Read the file of questions.

    Raises:
        InputError: it is not there, or no row of it can name a study.
    """
    path = options.questions
    if path is None or not os.path.isfile(path):
        raise InputError(f"questions {path} do not exist or cannot be reached: name a table or JSONL file with --questions")
    return Questions(_json_rows(path) if path.suffix.lower() in JSONL else _table_rows(path, options))


def _table_rows(path: Path, options: ImportOptions) -> Iterator[tuple[StudyText, Mapping[str, str]] | LeftOut]:
    table = open_table(path, options)
    if not {*KEYS, "patient", "id"} & set(table.columns.places):
        raise InputError(
            f"{path} has no column that names a study: give it 'accession', 'study', 'folder' or 'id', or use --map accession=..."
        )
    for entry in entries(table):
        if isinstance(entry, LeftOut):
            yield entry
        else:
            findings = entry.texts.get("findings", "")
            yield StudyText(entry.place, entry.texts, tuple(p for p in findings.split("\n\n") if p.strip())), entry.texts


def _json_rows(path: Path) -> Iterator[tuple[StudyText, Mapping[str, str]] | LeftOut]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            place = f"{path.name}, line {number}"
            try:
                record = json.loads(line.decode("utf-8-sig"))
            except (ValueError, RecursionError):
                yield LeftOut(place, None, Why.RECORD, "broken JSON, or not UTF-8")
                continue
            if not isinstance(record, dict):
                yield LeftOut(place, None, Why.RECORD, "it is no JSON object")
                continue
            texts = {k: str(v) for k, v in record.items() if k in FIELDS and isinstance(v, str | int)}
            found = record.get("findings") or []
            findings = [found] if isinstance(found, str) else found
            if not isinstance(findings, list) or not all(isinstance(f, str) for f in findings):
                yield LeftOut(place, None, Why.RECORD, "field 'findings' must be text or a list of texts")
                continue
            yield StudyText(place, texts, tuple(findings)), texts
