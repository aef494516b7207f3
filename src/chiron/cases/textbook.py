"""A textbook beside the cases: a paragraph or rule an answer, that retrieval interns may look things up in."""

import json
from dataclasses import dataclass
from pathlib import Path

from chiron.errors import InputError


@dataclass(frozen=True, slots=True)
class Entry:
    """One paragraph or rule. Several entries may belong to one answer."""

    answer: str
    text: str


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
        answer, text = record["answer"], record["text"]
    except (ValueError, KeyError, TypeError, RecursionError):
        answer = text = None
    if not isinstance(answer, str) or not isinstance(text, str):
        raise InputError(f'{place}: expected {{"answer": "...", "text": "..."}}')
    return Entry(answer, text)
