"""Read a file of cases line by line, and the textbook beside it."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

from chiron.cases.case import BadCase, Case
from chiron.cases.formats import CaseProblem, case_id, parse_case
from chiron.errors import InputError


def read_cases(path: Path | str, *, unlabeled: bool = False) -> Iterator[Case | BadCase]:
    """Every case of a JSONL or JSON file, in order; what cannot be read comes as a :class:`BadCase` in its place.

    A second case of the same id is bad: ids name results, and one would hide the other. A case with neither question nor answer is
    bad too, unless ``unlabeled`` is asked for.

    Raises:
        InputError: there is no such file, or it is no JSON at all.
    """
    seen: dict[str, int] = {}
    for line, raw in read_records(Path(path)):
        if isinstance(raw, BrokenRecord):
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


class BrokenRecord:
    """A line that is not JSON."""

    def __init__(self, problem: str) -> None:
        """``problem``: what is wrong and how to fix it, in one line."""
        self.problem = problem


def need_cases(path: Path) -> None:
    """See that there is a file of cases.

    Raises:
        InputError: there is none.
    """
    if not os.path.isfile(path):
        what = "is a folder" if os.path.isdir(path) else "does not exist or cannot be reached"
        raise InputError(f"{path} {what}: name a JSONL or JSON file of cases ('chiron sample DIR' draws some)")


def read_records(path: Path) -> Iterator[tuple[int, object]]:
    """Every record of a JSONL or JSON file with its line, or its position in a list, from 1.

    A JSON file may hold a list of records, one record, or an object with one list of records in it (``{"data": [...]}``).

    Raises:
        InputError: there is no such file, or it is not JSON at all.
    """
    need_cases(path)
    try:
        with path.open("rb") as file:
            head = file.read(1024)
            file.seek(0)
            if path.suffix.lower() == ".json" and _begins(head, b"{") and (records := _json_object(file)) is not None:
                yield from enumerate(records, start=1)
                return
            file.seek(0)
            if _begins(head, b"[") and (records := _json_list(path, file)) is not None:
                yield from enumerate(records, start=1)
                return
            file.seek(0)
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, _json_line(line)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def _begins(head: bytes, mark: bytes) -> bool:
    return head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(mark)


def _json_object(file: BinaryIO) -> list[object] | None:
    """The records of a file that is one JSON object; ``None`` if it is not one: it may be JSONL under another name."""
    try:
        whole = json.loads(file.read().decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    lists = [value for value in whole.values() if isinstance(value, list) and value and all(isinstance(v, dict) for v in value)]
    return lists[0] if len(lists) == 1 and not {"messages", "conversations"} & set(whole) else [whole]


def _json_list(path: Path, file: BinaryIO) -> list[object] | None:
    """The records of a JSON list; ``None`` if the list ends with its line and more follow: that is JSONL, and a list is no case."""
    try:
        records: list[object] = json.loads(file.read().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        file.seek(0)
        first = next(line for line in file if line.strip())
        if isinstance(_json_line(first), list) and any(line.strip() for line in file):
            return None
        raise InputError(f"{path} is not valid JSON: {error}") from error
    return records


def _json_line(line: bytes) -> object:
    try:
        return json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return BrokenRecord(f"not UTF-8 text (byte {error.start} of the line): save the file as UTF-8")
    except json.JSONDecodeError as error:
        return BrokenRecord(f"broken JSON at column {error.colno}: {error.msg}")
    except RecursionError:
        return BrokenRecord("JSON nested too deeply to be a case")
    except ValueError as error:  # a number of thousands of digits, for one
        return BrokenRecord(f"broken JSON: {error}")


@dataclass(frozen=True, slots=True)
class Entry:
    """One paragraph or rule. Several entries may belong to one answer."""

    answer: str
    text: str
    attributes: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """What it holds for, by name, where the textbook says it in so many words; drawn worlds do."""


def read_textbook(path: Path) -> tuple[Entry, ...]:
    """Every line ``{"answer": ..., "text": ...}`` of ``textbook.jsonl``; none if there is no such file.

    Raises:
        InputError: it cannot be read, or a line is not such an object.
    """
    try:
        # Not splitlines, which breaks lines at U+2028 and others that may stand inside JSON text.
        lines = path.read_text("utf-8-sig").split("\n")
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} cannot be read: {error}: save it as UTF-8") from error
    return tuple(_entry(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1) if line.strip())


def _entry(line: str, place: str) -> Entry:
    try:
        record = json.loads(line)
        answer, text, attributes = record["answer"], record["text"], record.get("attributes", {})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        answer = text = attributes = None
    if not isinstance(answer, str) or not isinstance(text, str):
        raise InputError(f'{place}: expected {{"answer": "...", "text": "..."}}')
    if not isinstance(attributes, dict) or not all(isinstance(value, str) for value in attributes.values()):
        raise InputError(f"{place}: its attributes are no object of texts")
    return Entry(answer, text, MappingProxyType(attributes))
