"""Textbooks and pools of known answers, from which the embedded baselines choose."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from chiron.cases.case import Case
from chiron.cases.reader import read_cases
from chiron.io import parse_jsonl


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
