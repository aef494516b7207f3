"""Read files of cases and textbooks, and select cases by shard or number."""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any

from chiron.cases.case import BadCase, Case
from chiron.cases.formats import CaseProblem, case_id, parse_case
from chiron.errors import InputError
from chiron.io import BrokenJson, parse_json, parse_jsonl, read_jsonl


def read_cases(path: Path | str, *, unlabeled: bool = False) -> Iterator[Case | BadCase]:
    """Read the cases of a JSONL or JSON file, in order. Unreadable records become :class:`BadCase`.

    A repeated id is rejected, because ids identify results. A case without question and answer is rejected unless ``unlabeled`` is set.

    Raises:
        InputError: the file does not exist or is not JSON.
    """
    seen: dict[str, int] = {}
    for line, raw in read_records(Path(path)):
        if isinstance(raw, BrokenJson):
            yield BadCase(line, None, raw.problem)
            continue
        try:
            case = replace(parse_case(raw, unlabeled=unlabeled), line=line)
        except CaseProblem as problem:
            yield BadCase(line, case_id(raw), str(problem))
            continue
        if case.id in seen:
            yield BadCase(line, case.id, f"id '{case.id}' was already used on line {seen[case.id]}: give each case its own id")
            continue
        seen[case.id] = line
        yield case


def need_cases(path: Path) -> None:
    """Check that a file of cases exists.

    Raises:
        InputError: it does not exist.
    """
    if not os.path.isfile(path):
        what = "is a folder" if os.path.isdir(path) else "does not exist or cannot be reached"
        raise InputError(f"{path} {what}: name a JSONL or JSON file of cases ('chiron sample DIR' generates some)")


def need_some_cases(path: Path) -> None:
    """Check that a file of cases exists and is not empty. An import that accepts nothing writes an empty one.

    Raises:
        InputError: it does not exist, or is empty.
    """
    need_cases(path)
    if not path.stat().st_size:
        raise InputError(f"{path} is empty: name a file with cases ('chiron sample DIR' generates some)")


def read_records(path: Path) -> Iterator[tuple[int, object]]:
    """Yield each record of a JSONL or JSON file with its line number or list position, from 1.

    A JSON file may hold a list of records, one record, or an object that contains one list of records (``{"data": [...]}``).

    Raises:
        InputError: the file does not exist or is not JSON.
    """
    need_cases(path)
    records = _whole_file(path)
    yield from enumerate(records, start=1) if records is not None else ((line.number, line.value) for line in read_jsonl(path))


def _whole_file(path: Path) -> list[object] | None:
    """Return the records of a file that is one JSON value; None if it is JSONL, with any suffix."""
    try:
        with path.open("rb") as file:
            head = file.read(1024).removeprefix(b"\xef\xbb\xbf").lstrip()
            if not head.startswith(b"[") and not (head.startswith(b"{") and path.suffix.lower() == ".json"):
                return None
            file.seek(0)
            value = parse_json(file.read())
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if isinstance(value, dict):
        lists = [v for v in value.values() if isinstance(v, list) and v and all(isinstance(record, dict) for record in v)]
        return lists[0] if len(lists) == 1 and not {"messages", "conversations"} & set(value) else [value]
    if isinstance(value, list):
        return value
    if head.startswith(b"["):
        lines = [line.value for line in islice(read_jsonl(path), 2)]
        if len(lines) < 2 or not isinstance(lines[0], list):
            raise InputError(f"{path} is not valid JSON: {value.problem}")
    return None


@dataclass(frozen=True, slots=True)
class Shard:
    """Part ``index`` (from 1) of ``count``. A case is in the same part in every file."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Parse ``I/N``.

        Raises:
            InputError: the text does not have that form, or 1 <= I <= N does not hold.
        """
        match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip())
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise InputError(f"--shard {text}: write I/N with 1 <= I <= N, for example 2/8")
        return cls(int(match[1]), int(match[2]))

    def holds(self, name: str) -> bool:
        """Return whether the case with this id is in this part."""
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.index - 1


@dataclass(frozen=True, slots=True)
class Selection:
    """Selected cases of one file."""

    cases: Path
    limit: int | None = None
    """Maximum number of cases, applied after sharding."""
    shard: Shard | None = None
    unlabeled: bool = False
    """Whether cases without a question are included."""
    positions: frozenset[int] | None = None
    """Only the cases at these positions of the file."""

    def __iter__(self) -> Iterator[tuple[int, Case | BadCase]]:
        """Yield each case with its position in the file (from 0)."""
        taken = 0
        for position, case in enumerate(read_cases(self.cases, unlabeled=self.unlabeled)):
            if self.positions is not None and position not in self.positions:
                continue
            name = case.id if isinstance(case, Case) else case.label
            if self.shard is not None and not self.shard.holds(name):
                continue
            if self.limit is not None and taken >= self.limit:
                return
            taken += 1
            yield position, case

    @property
    def is_whole(self) -> bool:
        """Whether the selection includes all cases of the file."""
        return self.limit is None and self.shard is None and self.positions is None

    def count(self) -> int:
        """Return the number of selected cases; reads the whole file."""
        return sum(1 for _ in self)


@dataclass(frozen=True, slots=True)
class TextbookEntry:
    """Textbook paragraph or rule. Several entries may share one answer."""

    answer: str
    text: str
    attributes: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Attributes for which the entry holds, by name, if the textbook states them. Synthetic textbooks do."""


def read_textbook(path: Path) -> tuple[TextbookEntry, ...]:
    """Read the lines ``{"answer": ..., "text": ...}`` of ``textbook.jsonl``; return an empty tuple if the file does not exist.

    Raises:
        InputError: the file cannot be read, or a line is not such an object.
    """
    if not path.exists():
        return ()
    return tuple(parse_jsonl(path, _entry, "textbook entry", 'write {"answer": "...", "text": "..."}'))


def _entry(record: Any) -> TextbookEntry:
    answer, text, attributes = record["answer"], record["text"], record.get("attributes", {})
    if not isinstance(answer, str) or not isinstance(text, str):
        raise TypeError("answer and text must be texts")
    if not isinstance(attributes, dict) or not all(isinstance(value, str) for value in attributes.values()):
        raise TypeError("attributes must be an object whose values are texts")
    return TextbookEntry(answer, text, MappingProxyType(attributes))


@dataclass(frozen=True)
class AnswerPool:
    """Distinct answers, and textbook entries for some of them."""

    answers: tuple[str, ...]
    entries: tuple[TextbookEntry, ...] = ()

    @classmethod
    def of(cls, answers: Iterable[str], entries: Iterable[TextbookEntry] = ()) -> "AnswerPool":
        """Create a pool. Answers are sorted, so that the order of the cases does not matter."""
        entries = tuple(entries)
        return cls(tuple(sorted({*answers, *(e.answer for e in entries)})), entries)

    @classmethod
    def of_cases(cls, cases: Path) -> "AnswerPool":
        """Read the answers of a case file and the ``textbook.jsonl`` in the same folder.

        Raises:
            InputError: one of the files cannot be read.
        """
        answers = (case.answer for case in read_cases(cases) if isinstance(case, Case))
        return cls.of(answers, read_textbook(cases.parent / "textbook.jsonl"))

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the pool (12 hex digits), since another pool makes another model."""
        content = [self.answers, [[e.answer, e.text, dict(e.attributes)] for e in self.entries]]
        return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()[:12]
