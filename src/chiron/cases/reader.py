"""Read files of cases and textbooks."""

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
    """Read the cases of a JSONL or JSON file, in order. Unreadable records become :class:`BadCase`.

    A repeated id is rejected, because ids identify results. A case without question and answer is rejected unless ``unlabeled`` is set.

    Raises:
        InputError: the file does not exist or is not JSON.
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
    """Line that is not valid JSON."""

    def __init__(self, problem: str) -> None:
        """Store ``problem``: what is wrong and how to fix it, in one line."""
        self.problem = problem


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
    """Return the records of a file that is one JSON object, or None if it is not: it may be JSONL with a ``.json`` suffix."""
    try:
        whole = json.loads(file.read().decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    lists = [value for value in whole.values() if isinstance(value, list) and value and all(isinstance(v, dict) for v in value)]
    return lists[0] if len(lists) == 1 and not {"messages", "conversations"} & set(whole) else [whole]


def _json_list(path: Path, file: BinaryIO) -> list[object] | None:
    """Return the records of a JSON list, or None if the file is JSONL whose first line is a list."""
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
    except ValueError as error:  # for example, an integer of thousands of digits
        return BrokenRecord(f"broken JSON: {error}")


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
    try:
        # splitlines would also split at U+2028 and similar characters, which JSON text may contain.
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
