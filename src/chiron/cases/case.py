"""A clinical image case, the unit that everything else works on."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class Case:
    """One clinical image case: images, a history, findings, and a question whose answer is known."""

    id: str
    """Unique within a file; also what seeded random choices are seeded from."""
    question: str
    """The question, without any mark such as ``**Question:**``. Empty in :attr:`unlabeled`."""
    answer: str
    """The known answer, without any mark. Interns never see it. Empty in :attr:`unlabeled`."""
    images: tuple[str, ...]
    """Paths relative to the image folder, in the order in which they are shown. At least one."""
    history: str = ""
    """Why the patient came, in words. Empty when unknown."""
    findings: tuple[str, ...] = ()
    """The radiologist's findings, a paragraph each; ``image 1`` speaks of the first image. Interns never see them."""
    age: str | None = None
    """As written in the source, for example ``45 years``."""
    sex: str | None = None
    """As written in the source."""
    title: str | None = None
    """The source's title. It often names the diagnosis, so no prompt shows it."""
    modality: str | None = None
    """The imaging modality, where the source names it."""
    body_system: str | None = None
    """The body system, where the source names it."""
    line: int = field(default=0, compare=False)
    """Where it stood: line of a JSONL file, position in a JSON list, from 1; 0 if it came from nowhere."""
    meta: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """Whatever else stood in the record, unread."""

    @property
    def unlabeled(self) -> bool:
        """Whether the case has no question yet: images, history and findings to make questions from."""
        return not self.question

    def to_record(self) -> dict[str, Any]:
        """The case in the tidy format: one JSON object, absent fields left out."""
        record: dict[str, Any] = {
            "id": self.id,
            "question": self.question,
            "answer": self.answer,
            "images": list(self.images),
            "history": self.history,
            "findings": list(self.findings),
        }
        for name in ("age", "sex", "title", "modality", "body_system"):
            if (value := getattr(self, name)) is not None:
                record[name] = value
        return {**self.meta, **record}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the tidy record: a case that was edited is another case."""
        text = json.dumps(self.to_record(), sort_keys=True, ensure_ascii=False, default=str)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class BadCase:
    """A record that could not be read as a case. It is reported, and never stops the others."""

    line: int
    """1-based line of a JSONL file, or 1-based position in a JSON list."""
    id: str | None
    """The case's id, if that much could be read."""
    problem: str
    """What is wrong and how to mend it, in one line."""

    @property
    def label(self) -> str:
        """What it is kept under. Never an id alone, which may be another case's, and never an id that another case may have:

        it begins with a blank, as no id that was read does. Stripped, it is what to call it.
        """
        return f" line {self.line} ({self.id})" if self.id else f" line {self.line}"


_YEARS = re.compile(r"\s*(\d{1,3})(?:\.\d+)?\s*(?:y|yr|yrs|year|years|years? old|year-old|jahre?|ans|años)?\.?\s*", re.IGNORECASE)


def age_band(text: str) -> str:
    """``54`` and ``54 years`` as ``54 years``; ``93`` as ``90+``; what is no number of years as it is."""
    if (match := _YEARS.fullmatch(text)) is None:
        return text
    return years(int(match.group(1)))


def years(number: int) -> str:
    """A number of years in words."""
    if number >= 90:
        return "90+"
    return f"{number} year{'' if number == 1 else 's'}" if number >= 1 else "under 1 year"


MAX_YEARS = 115
"""A higher age is a placeholder, such as a birth date in 1900."""


def dicom_age(value: str) -> str | None:
    """Convert a DICOM age string such as ``045Y``, ``018M``, ``003W``, ``010D``; None if it is not an age.

    ``000Y`` is a placeholder: the age of an infant is given in days, weeks or months.
    """
    match = re.fullmatch(r"\s*(\d{1,3})\s*([DWMY])\s*", value, re.IGNORECASE)
    if match is None or (match.group(2).upper() == "Y" and not 1 <= int(match.group(1)) <= MAX_YEARS):
        return None
    days = {"D": 1.0, "W": 7.0, "M": 365.25 / 12, "Y": 365.25}[match.group(2).upper()]
    return years(int(int(match.group(1)) * days / 365.25 + 1e-9))
