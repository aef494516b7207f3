"""A row of the dataset: what a model is trained on, what it was made of, and by whom.

A line of a part's ``rows.jsonl`` is a row as ``chiron train`` takes it (``id``, ``images``, ``messages``), with everything else beside it.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from chiron.errors import InputError
from chiron.io import write_atomically
from chiron.providers.local.dialogue import RoleName, Turn

Part = Literal["text", "alignment", "cot"]
PARTS: tuple[Part, ...] = ("text", "alignment", "cot")
"""In the order of the curriculum (the paper's three stages)."""
ROWS, DROPPED = "rows.jsonl", "dropped.jsonl"
"""The two files of a part's directory."""


@dataclass(frozen=True)
class Provenance:
    """How a row came to be: enough to find every call that went into it."""

    run: str = ""
    """The name of the run's directory. No path: the folders above it may hold names of people."""
    calls: tuple[str, ...] = ()
    """Keys (hex) of the ledger's calls."""
    prompts: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """SHA-256 (hex) of each prompt, by name."""
    models: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """What answered, by role: ``author``, ``reader``, ``mentor`` ..."""

    def to_record(self) -> dict[str, Any]:
        """As JSON."""
        return {"run": self.run, "calls": list(self.calls), "prompts": dict(self.prompts), "models": dict(self.models)}


@dataclass(frozen=True)
class MmrpRow:
    """One conversation of the dataset."""

    id: str
    """``PART:CASE`` or ``PART:CASE:N``; unique in the dataset."""
    part: Part
    case_id: str
    patient: str
    """What splits keep together: the case's patient where the source names one (``meta["patient"]``), else the case."""
    images: tuple[str, ...]
    """Relative to the image folder, in the order of the marks; empty for text alone."""
    turns: tuple[Turn, ...]
    """A system turn or none, then user and assistant in turn; ``<image>`` marks stand in user turns."""
    question: str
    answer: str
    """The known answer; of a multiple-choice question the right option's text; of an alignment row empty."""
    options: tuple[str, ...] = ()
    """Of a multiple-choice question, without letters."""
    reasoning: str = ""
    """Steps and final answer, where there are any."""
    findings: tuple[str, ...] = ()
    """The case's, for the checks: reasoning must not contradict them."""
    modalities: tuple[str, ...] = ()
    """The imaging modalities shown, by their names in :mod:`chiron.cases.modalities`."""
    body_system: str | None = None
    difficulty: float | None = None
    """0 (every intern is right without reasoning) to 1; ``None`` where nothing was measured."""
    depth: int | None = None
    """Of the search that found the path."""
    licence: str | None = None
    """Of the case's source (``meta["licence"]``)."""
    provenance: Provenance = field(default_factory=Provenance)

    def to_record(self) -> dict[str, Any]:
        """As a line of ``rows.jsonl``."""
        return {
            "id": self.id,
            "part": self.part,
            "case_id": self.case_id,
            "patient": self.patient,
            "images": list(self.images),
            "messages": [{"role": turn.role, "content": turn.text} for turn in self.turns],
            "question": self.question,
            "answer": self.answer,
            "options": list(self.options),
            "reasoning": self.reasoning,
            "findings": list(self.findings),
            "modalities": list(self.modalities),
            "body_system": self.body_system,
            "difficulty": self.difficulty,
            "depth": self.depth,
            "licence": self.licence,
            "provenance": self.provenance.to_record(),
        }


@dataclass(frozen=True)
class Dropped:
    """Something that did not become a row, and why."""

    part: Part | Literal["questions"]
    case_id: str | None
    reason: str
    """A word or two, the same for the same cause, to count by: ``answered without the case``."""
    detail: str = ""
    """What was seen, in one line."""
    text: str = ""
    """What was dropped, where there is any."""
    line: int = 0
    """Of the case in its file, from 1; 0 if it came from nowhere."""

    def to_record(self) -> dict[str, Any]:
        """As a line of ``dropped.jsonl``."""
        return {
            "part": self.part,
            "case_id": self.case_id,
            "line": self.line,
            "reason": self.reason,
            "detail": self.detail,
            "text": self.text,
        }


def read_rows(path: Path) -> Iterator[MmrpRow]:
    """Every row of a ``rows.jsonl``, one at a time.

    Raises:
        InputError: there is no such file, or a line is no row; names file and line.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    yield _row(json.loads(line))
                except (ValueError, KeyError, TypeError, RecursionError) as error:
                    raise InputError(
                        f"{path}, line {number}: no row of a dataset ({type(error).__name__}: {error}): build it again"
                    ) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): name a directory that 'chiron build' wrote") from error


def write_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write JSONL, whole or not at all; records are taken one at a time.

    Raises:
        DiskError: the disk is full.
    """
    write_atomically(path, (json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def _row(raw: Any) -> MmrpRow:
    roles: dict[str, RoleName] = {"system": "system", "user": "user", "assistant": "assistant"}
    by = raw["provenance"]
    if raw["part"] not in PARTS:
        raise ValueError(f"part is {raw['part']!r}")
    return MmrpRow(
        id=str(raw["id"]),
        part=raw["part"],
        case_id=str(raw["case_id"]),
        patient=str(raw["patient"]),
        images=tuple(map(str, raw["images"])),
        turns=tuple(Turn(roles[turn["role"]], str(turn["content"])) for turn in raw["messages"]),
        question=str(raw["question"]),
        answer=str(raw["answer"]),
        options=tuple(map(str, raw["options"])),
        reasoning=str(raw["reasoning"]),
        findings=tuple(map(str, raw["findings"])),
        modalities=tuple(map(str, raw["modalities"])),
        body_system=raw["body_system"],
        difficulty=raw["difficulty"],
        depth=raw["depth"],
        licence=raw["licence"],
        provenance=Provenance(str(by["run"]), tuple(by["calls"]), by["prompts"], by["models"]),
    )
