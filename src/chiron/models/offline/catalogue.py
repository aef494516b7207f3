"""What the embedded interns may choose from: the answers of the case file, and the textbook beside it."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from chiron.cases.case import Case
from chiron.cases.reading import read_cases
from chiron.cases.textbook import Entry, read_textbook


@dataclass(frozen=True)
class Catalogue:
    """Answers, each once, and textbook entries for some of them."""

    answers: tuple[str, ...]
    entries: tuple[Entry, ...] = ()

    @classmethod
    def of(cls, answers: Iterable[str], entries: Iterable[Entry] = ()) -> "Catalogue":
        """Sorted, so that the order of the cases changes nothing."""
        entries = tuple(entries)
        return cls(tuple(sorted({*answers, *(e.answer for e in entries)})), entries)

    @classmethod
    def beside(cls, cases: Path) -> "Catalogue":
        """The answers of a file of cases and the ``textbook.jsonl`` in its folder.

        Raises:
            InputError: either cannot be read.
        """
        answers = (case.answer for case in read_cases(cases) if isinstance(case, Case))
        return cls.of(answers, read_textbook(cases.parent / "textbook.jsonl"))

    @cached_property
    def fingerprint(self) -> str:
        """12 hex digits: another catalogue is another model."""
        content = [self.answers, [[e.answer, e.text, dict(e.attributes)] for e in self.entries]]
        return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()[:12]
