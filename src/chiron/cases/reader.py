"""Read files of cases and textbooks."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain, islice, repeat
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
        raise InputError(f"{path} {what}: name a JSONL or JSON file of cases ('chiron sample DIR' draws some)")


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
    """Return the records of a file that is one JSON value; None if it is JSONL, whatever its suffix."""
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
        first, second = (line.value for line in islice(chain(read_jsonl(path), repeat(None)), 2))
        if not isinstance(first, list) or second is None:
            raise InputError(f"{path} is not valid JSON: {value.problem}")
    return None


@dataclass(frozen=True, slots=True)
class Entry:
    """Textbook paragraph or rule. Several entries may share one answer."""

    answer: str
    text: str
    attributes: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Attributes for which the entry holds, by name, if the textbook states them. Synthetic textbooks do."""


def read_textbook(path: Path) -> tuple[Entry, ...]:
    """Read the lines ``{"answer": ..., "text": ...}`` of ``textbook.jsonl``; return an empty tuple if the file does not exist.

    Raises:
        InputError: the file cannot be read, or a line is not such an object.
    """
    if not path.exists():
        return ()
    return tuple(parse_jsonl(path, _entry, "textbook entry", 'write {"answer": "...", "text": "..."}'))


def _entry(record: Any) -> Entry:
    answer, text, attributes = record["answer"], record["text"], record.get("attributes", {})
    if not isinstance(answer, str) or not isinstance(text, str):
        raise TypeError("answer and text must be texts")
    if not isinstance(attributes, dict) or not all(isinstance(value, str) for value in attributes.values()):
        raise TypeError("attributes must be an object whose values are texts")
    return Entry(answer, text, MappingProxyType(attributes))
