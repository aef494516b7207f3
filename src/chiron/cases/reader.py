"""Read files of cases."""

import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

from chiron.cases.case import BadCase, Case
from chiron.cases.formats import CaseProblem, case_id, parse_case
from chiron.errors import InputError
from chiron.io import BrokenJson, parse_json, read_jsonl


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
