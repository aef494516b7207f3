"""A textbook beside the cases: a paragraph or rule an answer, that retrieval interns may look things up in."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from chiron.errors import InputError


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
