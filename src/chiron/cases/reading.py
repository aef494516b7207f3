"""Reading a file of cases, a line at a time, so that sixty thousand of them need no more memory than ten."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
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
    for line, raw in _records(Path(path)):
        if isinstance(raw, _Broken):
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


class _Broken:
    def __init__(self, problem: str) -> None:
        self.problem = problem


def need_cases(path: Path) -> None:
    """See that there is a file of cases.

    Raises:
        InputError: there is none.
    """
    if not os.path.isfile(path):
        what = "is a folder" if os.path.isdir(path) else "does not exist or cannot be reached"
        raise InputError(f"{path} {what}: name a JSONL or JSON file of cases ('chiron sample DIR' draws some)")


def _records(path: Path) -> Iterator[tuple[int, object]]:
    need_cases(path)
    try:
        with path.open("rb") as file:
            begins_a_list = _begins_a_list(file.read(1024))
            file.seek(0)
            if begins_a_list and (records := _json_list(path, file)) is not None:
                yield from enumerate(records, start=1)
                return
            file.seek(0)
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, _json_line(line)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def _begins_a_list(head: bytes) -> bool:
    return head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")


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
        return _Broken(f"not UTF-8 text (byte {error.start} of the line): save the file as UTF-8")
    except json.JSONDecodeError as error:
        return _Broken(f"broken JSON at column {error.colno}: {error.msg}")
    except RecursionError:
        return _Broken("JSON nested too deeply to be a case")
    except ValueError as error:  # a number of thousands of digits, for one
        return _Broken(f"broken JSON: {error}")
