"""Data model of a clinical image case, and the mark ``<image>`` in its texts."""

import hashlib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any, Final


@dataclass(frozen=True)
class Case:
    """Clinical image case: images, history, findings, and a question with a known answer."""

    id: str
    """Unique within a file. Also the seed of random choices for this case."""
    question: str
    """Question without labels such as ``**Question:**``. Empty if the case is :attr:`unlabeled`."""
    answer: str
    """Known answer without labels. Never shown to interns. Empty if the case is :attr:`unlabeled`."""
    images: tuple[str, ...]
    """Paths relative to the image folder, in display order. At least one, unless the case is read as unlabeled."""
    history: str = ""
    """Clinical presentation as text. Empty if unknown."""
    findings: tuple[str, ...] = ()
    """Radiologist's findings, one paragraph each; ``image 1`` refers to the first image. Never shown to interns."""
    age: str | None = None
    """As given in the source, for example ``45 years``."""
    sex: str | None = None
    """As given in the source."""
    title: str | None = None
    """Title given in the source. It often names the diagnosis, so prompts never include it."""
    modality: str | None = None
    """Imaging modality, if the source names it."""
    body_system: str | None = None
    """Body system, if the source names it."""
    line: int = field(default=0, compare=False)
    """Line in a JSONL file or position in a JSON list, from 1; 0 if not read from a file."""
    meta: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """All other fields of the record, unparsed."""

    @property
    def unlabeled(self) -> bool:
        """Whether the case has no question yet. Questions can be generated from its images, history and findings."""
        return not self.question

    def to_record(self) -> dict[str, Any]:
        """Return the case in the tidy format: one JSON object without empty fields."""
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
        """Return the SHA-256 (hex) of the tidy record. Any edit of the case changes it."""
        text = json.dumps(self.to_record(), sort_keys=True, ensure_ascii=False, default=str)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class BadCase:
    """Record that could not be read as a case. It is reported and does not stop the other cases."""

    line: int
    """Line in a JSONL file or position in a JSON list, from 1."""
    id: str | None
    """The case's id, if it could be read."""
    problem: str
    """What is wrong and how to fix it, in one line."""

    @property
    def label(self) -> str:
        """Key under which the record is stored.

        It cannot equal any case's id: it begins with a blank, and ids that were read do not. Strip it for display.
        """
        return f" line {self.line} ({self.id})" if self.id else f" line {self.line}"


_YEARS = re.compile(r"\s*(\d{1,3})(?:\.\d+)?\s*(?:y|yr|yrs|year|years|years? old|year-old|jahre?|ans|años)?\.?\s*", re.IGNORECASE)


def age_band(text: str) -> str:
    """Format an age in years: ``54`` and ``54 years`` become ``54 years``, ``93`` becomes ``90+``. Other text is unchanged."""
    if (match := _YEARS.fullmatch(text)) is None:
        return text
    return years(int(match.group(1)))


def years(number: int) -> str:
    """Format a number of years as text."""
    if number >= 90:
        return "90+"
    return f"{number} year{'' if number == 1 else 's'}" if number >= 1 else "under 1 year"


MAX_YEARS = 115
"""Highest plausible age. Higher values are placeholders, such as a birth date in 1900."""


def dicom_age(value: str) -> str | None:
    """Convert a DICOM age string such as ``045Y``, ``018M``, ``003W``, ``010D``; return None if it is not an age.

    ``000Y`` is a placeholder: an infant's age is given in days, weeks or months.
    """
    match = re.fullmatch(r"\s*(\d{1,3})\s*([DWMY])\s*", value, re.IGNORECASE)
    if match is None or (match.group(2).upper() == "Y" and not 1 <= int(match.group(1)) <= MAX_YEARS):
        return None
    days = {"D": 1.0, "W": 7.0, "M": 365.25 / 12, "Y": 365.25}[match.group(2).upper()]
    return years(int(int(match.group(1)) * days / 365.25 + 1e-9))


IMAGE_MARK: Final = "<image>"
"""Placeholder for an image in a text. Marks and images correspond in order."""


def grouped_marks(sizes: Sequence[int]) -> str:
    """Format image groups as the published models expect: ``Modality 1: <image>``, one line per further group.

    Args:
        sizes: number of images in each group.
    """
    return ",\n".join(f"Modality {number}: " + "\n".join([IMAGE_MARK] * size) for number, size in enumerate(sizes, start=1))


def named_marks(text: str) -> str:
    """Replace image marks with ``image 1``, ``image 2`` and so on, for readers who cannot see the images."""
    numbers = itertools.count(1)
    return re.sub(IMAGE_MARK, lambda _: f"image {next(numbers)}", text)
