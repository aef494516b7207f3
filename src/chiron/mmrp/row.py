"""A row of the dataset: its conversation, its source and its provenance.

A line of a part's ``rows.jsonl`` has the fields that ``chiron train`` reads (``id``, ``images``, ``messages``), and all other fields.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, NotRequired, Protocol, Self, TypedDict

from chiron.io import parse_line, read_jsonl
from chiron.providers.local.dialogue import RoleName, Turn

Part = Literal["text", "alignment", "cot", "preferences", "rewards", "rl", "reflections"]
PartName = Part | Literal["questions"]
PARTS: tuple[Part, ...] = ("text", "alignment", "cot")
"""Parts in curriculum order (the paper's three stages)."""
SIGNALS: tuple[Part, ...] = ("preferences", "rewards", "rl", "reflections")
"""Parts made from whole search trees (:mod:`chiron.mmrp.signals`). They are not part of the curriculum."""
ALL_PARTS: tuple[Part, ...] = (*PARTS, *SIGNALS)
CONVERSATIONS: tuple[Part, ...] = (*PARTS, "reflections")
"""Parts whose rows are plain conversations. Trainers read each of the others in a format of its own."""
ROWS, DROPPED = "rows.jsonl", "dropped.jsonl"
"""Output files of a part."""
ROW_FORMAT: Final = 1
"""Version of :class:`RowRecord`, documented in docs/formats.md. Increase it when a field changes its meaning or disappears."""


class MessageRecord(TypedDict):
    role: RoleName
    content: str


class RowReview(TypedDict):
    """What reviewers said about the path of a row. Their names stay in ``reviews.sqlite`` of the run."""

    status: Literal["accepted", "edited"]
    edited_steps: list[int]
    """Numbers, from 1, of the steps whose text is a reviewer's."""
    edited_answer: bool
    """Whether the final answer is a reviewer's."""
    reviewers: int
    adjudicated: bool
    path_sha256: str
    """SHA-256 of the path as it was found, before edits."""


class ProvenanceRecord(TypedDict):
    """Provenance of a row; fields as in :class:`Provenance`."""

    run: str
    calls: list[str]
    prompts: dict[str, str]
    models: dict[str, str]
    review: NotRequired[RowReview]


class RowRecord(TypedDict):
    """A line of ``rows.jsonl``; fields as in :class:`MmrpRow`."""

    id: str
    part: Part
    case_id: str
    patient: str
    images: list[str]
    messages: list[MessageRecord]
    question: str
    answer: str
    options: list[str]
    reasoning: str
    findings: list[str]
    modalities: list[str]
    body_system: str | None
    difficulty: float | None
    depth: int | None
    licence: str | None
    provenance: ProvenanceRecord
    signal: NotRequired[dict[str, Any]]


@dataclass(frozen=True)
class Provenance:
    """Provenance of a row: enough to find every call that contributed to it."""

    run: str = ""
    """Name of the run directory. The path is omitted because its folders may contain names of people."""
    calls: tuple[str, ...] = ()
    """Ledger keys (hex) of the calls."""
    prompts: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """SHA-256 (hex) of each prompt, by name."""
    models: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Model identity by role: ``author``, ``reader``, ``mentor`` ..."""
    review: RowReview | None = None
    """The reviewers' decision about the path; ``None`` if it was not reviewed."""

    def to_record(self) -> ProvenanceRecord:
        record: ProvenanceRecord = {
            "run": self.run,
            "calls": list(self.calls),
            "prompts": dict(self.prompts),
            "models": dict(self.models),
        }
        return record if self.review is None else {**record, "review": self.review}


@dataclass(frozen=True)
class MmrpRow:
    """One conversation of the dataset."""

    id: str
    """``PART:CASE`` or ``PART:CASE:N``; unique in the dataset."""
    part: Part
    case_id: str
    patient: str
    """Rows of one patient stay in one split: the patient that the source names (``meta["patient"]``), else the case."""
    images: tuple[str, ...]
    """Image paths relative to the image folder, in the order of the marks; empty for text-only rows."""
    turns: tuple[Turn, ...]
    """An optional system turn, then alternating user and assistant turns; ``<image>`` marks appear in user turns."""
    question: str
    answer: str
    """The known answer: the right option's text for multiple choice, empty for alignment rows."""
    options: tuple[str, ...] = ()
    """Options of a multiple-choice question, without letters."""
    reasoning: str = ""
    """Steps and final answer, if any."""
    findings: tuple[str, ...] = ()
    """Findings of the case, used by the checks: reasoning must not contradict them."""
    modalities: tuple[str, ...] = ()
    """Imaging modalities shown, as named in :mod:`chiron.cases.modalities`."""
    body_system: str | None = None
    difficulty: float | None = None
    """From 0 (every intern is right without reasoning) to 1; ``None`` if not measured."""
    depth: int | None = None
    """Depth of the search that found the path."""
    licence: str | None = None
    """License of the case's source (``meta["licence"]``)."""
    provenance: Provenance = field(default_factory=Provenance)
    signal: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """Training signal of a row of :data:`SIGNALS`, as documented in its module; empty in other rows."""

    def to_record(self) -> RowRecord:
        """Convert to a line of ``rows.jsonl``."""
        record: RowRecord = {
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
        if self.signal:
            record["signal"] = dict(self.signal)
        return record


class Named(Protocol):
    """A unit of work of a part."""

    @property
    def id(self) -> str | None: ...

    @property
    def line(self) -> int: ...


@dataclass(frozen=True)
class Dropped:
    """An item that did not become a row, and why: a line of ``dropped.jsonl``."""

    part: PartName
    case_id: str | None
    line: int
    """Line of the case in its file, from 1; 0 if unknown."""
    reason: str
    """Short reason, identical for the same cause so that it can be counted: ``answered without the case``."""
    detail: str = ""
    """Details, in one line."""
    text: str = ""
    """The dropped text, if any."""

    @classmethod
    def of(cls, part: PartName, unit: Named, reason: str, detail: str = "", text: str = "") -> Self:
        """Create the record of a unit, or of a part of it."""
        return cls(part, unit.id, unit.line, reason, detail, text)


def read_rows(path: Path) -> Iterator[MmrpRow]:
    """Read the rows of a ``rows.jsonl``, one at a time.

    Raises:
        InputError: the file does not exist, or a line is not a row; the message names file and line.
    """
    return (row for row, _ in read_rows_with_offsets(path))


def read_rows_with_offsets(path: Path) -> Iterator[tuple[MmrpRow, int]]:
    """Read rows as :func:`read_rows` does, with the byte offset of each line."""
    for line in read_jsonl(path, hint=": name a directory that 'chiron build' wrote"):
        yield parse_line(path, line, _row, "row of a dataset", "build it again"), line.offset


def _row(raw: Any) -> MmrpRow:
    roles: dict[str, RoleName] = {"system": "system", "user": "user", "assistant": "assistant"}
    by = raw["provenance"]
    if raw["part"] not in ALL_PARTS:
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
        provenance=Provenance(str(by["run"]), tuple(by["calls"]), by["prompts"], by["models"], by.get("review")),
        signal=dict(raw.get("signal") or {}),
    )
