"""Exports for other trainers: what a format is, the registry of all formats (modules of this package, and plug-ins), and their writer."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, Final, Self

from chiron.cases.case import IMAGE_MARK
from chiron.io import write_atomically, writing
from chiron.mmrp.row import CONVERSATIONS, ROWS, Part, RowRecord, read_rows
from chiron.mmrp.splits import SplitName
from chiron.plugins import submodules, with_plugins
from chiron.providers.local.dialogue import Turn

GROUP: Final = "chiron.exports"
"""Entry-point group of exports in other packages."""
IMAGES: Final = "images"
"""Image folder of a release."""


@dataclass(frozen=True, slots=True)
class ReleasedImage:
    """An image of the release."""

    name: str
    """File name relative to the release's ``images/``."""
    width: int
    """In pixels."""
    height: int
    """In pixels."""


@dataclass(frozen=True, slots=True)
class ReleasedRow:
    """A row of the release."""

    id: str
    part: Part
    split: SplitName
    images: tuple[ReleasedImage, ...]
    """In the order of the marks."""
    turns: tuple[Turn, ...]
    record: RowRecord
    """The other fields, as in ``rows.jsonl``."""
    group: str
    """Group of related rows; a group is never divided between splits."""
    order: int
    """Position in the curriculum, from 0, within part and split."""
    weight: float
    """Sampling weight for a balanced coverage map; 1 on average, within part and split."""


def no_index(rows: Mapping[str, int]) -> dict[str, Any]:
    del rows
    return {}


@dataclass(frozen=True, slots=True)
class SignalFormat:
    """A trainer's format for one training signal."""

    row: Callable[[ReleasedRow, list[str]], dict[str, Any]]
    """Converts a row to a line; the list contains the paths of its images as the trainer finds them."""
    faults: Callable[[Any], Iterator[str]]
    """Yields what the trainer would reject in a line."""
    sized: bool = False
    """Whether it needs the sizes of the images, which only a release knows."""


@dataclass(frozen=True, slots=True)
class Export:
    """A format. A module of this package defines it as ``EXPORT``; another package registers an entry point."""

    name: str
    """Folder in ``exports/``."""
    use: str
    """How to use the folder: one line of Markdown for the dataset card."""
    row: Callable[[ReleasedRow], dict[str, Any]] | None
    """Converts a conversation to a line of ``PART-SPLIT.jsonl``; ``None`` if the trainer only reads training signals."""
    faults: Callable[[Any], Iterator[str]] | None
    """Yields what the trainer would reject in a line. Written from the trainer's format, not from ``row``, to catch mistakes of ``row``."""
    index: Callable[[Mapping[str, int]], Mapping[str, Any]] = no_index
    """Returns JSON files that list the others, by name, given the number of rows by ``PART-SPLIT``."""
    signals: Mapping[Part, SignalFormat] = field(default_factory=lambda: MappingProxyType({}))
    """Formats of the training signals that the trainer reads."""
    image_root: str = IMAGES
    """Image folder of a release as the trainer finds it. Most trainers are started in the release."""

    def line(self, row: ReleasedRow, images: list[str] | None = None) -> dict[str, Any] | None:
        """Convert a row of any part; ``None`` if the trainer does not read the part.

        Args:
            row: the row.
            images: paths of a training signal's images (default: those in a release).

        Raises:
            AssertionError: the line is invalid for the trainer, which is a bug in the export.
        """
        if row.part not in CONVERSATIONS:
            if (signal := self.signals.get(row.part)) is None:
                return None
            record = signal.row(row, images or [f"{self.image_root}/{image.name}" for image in row.images])
            faults = signal.faults
        elif self.row is None or self.faults is None:
            return None
        else:
            record, faults = self.row(row), self.faults
        if (fault := next(faults(record), None)) is not None:
            raise AssertionError(f"row {row.id} as {self.name}: {fault}")
        return record


@cache
def exports() -> Mapping[str, Export]:
    """Return all export formats by name.

    Raises:
        InputError: a name is used twice. A lookup raises it if the plug-in cannot be loaded.
    """
    found: list[Export] = [module.EXPORT for module in submodules("chiron.mmrp.exports") if hasattr(module, "EXPORT")]
    return MappingProxyType(with_plugins(GROUP, {export.name: export for export in found}, Export))


def messages(turns: Sequence[Turn]) -> list[dict[str, str]]:
    """Return turns as ``{"role", "content"}``."""
    return [{"role": turn.role, "content": turn.text} for turn in turns]


def rejected(row: ReleasedRow) -> Turn:
    """Return the rejected completion of a preference pair; the chosen one is the last turn."""
    return Turn("assistant", str(row.record["signal"]["rejected"]))


def verifiable(row: ReleasedRow) -> dict[str, Any]:
    """Return what a reward function needs to know about a prompt of ``rl``."""
    record = row.record
    return {
        "answer": record["answer"],
        "options": record["options"],
        "question": record["question"],
        "pass_rate": record["signal"]["pass_rate"],
    }


def mark_faults(turns: Any, images: int) -> Iterator[str]:
    """Yield a fault unless there is one image mark per image in ``{"role", "content"}`` turns."""
    marks = sum(turn["content"].count(IMAGE_MARK) for turn in turns)
    if marks != images:
        yield f"{marks} marks for {images} images"


def prompt_faults(turns: Any, images: int, answer: Any) -> Iterator[str]:
    """Yield what a trainer with a reward function would reject in a prompt of ``{"role", "content"}`` turns and its answer."""
    if turns[-1]["role"] != "user":
        yield "the last turn is not a user turn"
    yield from mark_faults(turns, images)
    yield from answer_faults(answer)


def answer_faults(answer: Any) -> Iterator[str]:
    """Yield what a reward function would reject in an answer."""
    if not isinstance(answer, str) or not answer.strip():
        yield "no answer to verify"


def message_faults(row: Any) -> Iterator[str]:
    """Yield what trainers of ``{"messages", "images"}`` rows (LLaMA-Factory, ms-swift) would reject in a row."""
    if set(row) != {"messages", "images"}:
        yield f"keys {sorted(row)}"
    elif not isinstance(row["images"], list) or not all(isinstance(image, str) and image for image in row["images"]):
        yield "images is not a list of paths"
    else:
        turns = [(turn.get("role"), turn.get("content")) for turn in row["messages"]]
        yield from turn_faults(turns, {"user": "user", "assistant": "assistant", "system": "system"}, len(row["images"]))


def turn_faults(turns: list[tuple[Any, Any]], roles: Mapping[str, str], images: int) -> Iterator[str]:
    """Yield faults of ``(role, text)`` turns: an unknown role, image marks that do not match the images, a wrong order.

    Args:
        turns: role, as the trainer calls it, and text of each turn.
        roles: ``user``, ``assistant`` or ``system``, by the trainer's name of the role.
        images: number of the row's images.
    """
    if any(role not in roles or not isinstance(text, str) for role, text in turns):
        yield "a turn with an unknown role or without text"
        return
    marks = {role: sum(text.count(IMAGE_MARK) for r, text in turns if roles[r] == role) for role in ("user", "assistant", "system")}
    if marks["user"] != images or marks["assistant"] or marks["system"]:
        yield f"{marks} marks for {images} images"
    yield from order_faults([roles[role] for role, _ in turns])


def order_faults(roles: list[str]) -> Iterator[str]:
    """Yield a fault unless user and assistant alternate after an optional system turn."""
    spoken = roles[1:] if roles[:1] == ["system"] else roles
    if not spoken or spoken != ["user", "assistant"] * (len(spoken) // 2):
        yield f"turns in the order {roles}"


class Exports:
    """Files of a release's exports, written while rows arrive.

    Test rows are only in Parquet and in ``test/``, so that no trainer finds them.
    """

    def __init__(self, folder: Path) -> None:
        """``folder``: the release folder."""
        self._folder = folder
        self._files: dict[Path, IO[str]] = {}
        self._counts: dict[str, Counter[str]] = defaultdict(Counter)
        """Number of rows by export and ``PART-SPLIT``."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close the files; without an error, also write the files that list them."""
        for file in self._files.values():
            file.close()
        if kind is None:
            _write_indexes(self._folder / "exports", self._counts)

    def add(self, row: ReleasedRow) -> None:
        """Write a row in the formats of all trainers that read its part.

        Raises:
            AssertionError: an exported row is invalid for its trainer, which is a bug in the export.
        """
        self._line(Path(row.split) / f"{row.part}.jsonl", chiron_row(row))
        if row.split == "test":
            return
        file = f"{row.part}-{row.split}"
        for name, export in exports().items():
            if (record := export.line(row)) is not None:
                self._counts[name][file] += 1
                self._line(Path("exports") / name / f"{file}.jsonl", record)

    def _line(self, path: Path, record: dict[str, Any]) -> None:
        file = self._files.get(path)
        if file is None:
            target = self._folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            file = self._files[path] = target.open("w", encoding="utf-8", errors="backslashreplace")
        file.write(json.dumps(record, ensure_ascii=False) + "\n")


def _write_indexes(folder: Path, counts: Mapping[str, Mapping[str, int]]) -> None:
    for name, rows in counts.items():
        for file_name, value in exports()[name].index(rows).items():
            write_atomically(folder / name / file_name, [json.dumps(value, indent=2, ensure_ascii=False) + "\n"])


def chiron_row(row: ReleasedRow) -> dict[str, Any]:
    """Convert to ``{"id", "images": [relative to images/], "messages": [{"role", "content"}]}``, the format of ``chiron train``.

    A preference pair has ``prompt``, ``chosen`` and ``rejected`` in place of ``messages``. Step rewards have only ``prompt``, so that no
    stage learns to write the bad steps. The other fields of a signal are added.
    """
    record: dict[str, Any] = {"id": row.id, "images": [image.name for image in row.images], **row.record.get("signal", {})}
    if row.part not in {"preferences", "rewards"}:
        return {**record, "messages": messages(row.turns)}
    *prompt, chosen = row.turns
    record["prompt"] = messages(prompt)
    return record if row.part == "rewards" else {**record, "chosen": messages([chosen]), "rejected": messages([rejected(row)])}


def export_signal(directory: Path, images: Path) -> None:
    """Write the rows of a signal for every trainer to ``exports/TRAINER/PART.jsonl``, with the absolute paths of the images.

    All rows are written; ``chiron build release`` divides them into splits and adds the formats that need the sizes of images.

    Raises:
        InputError: ``rows.jsonl`` cannot be read.
        DiskError: a file cannot be written.
        AssertionError: a row is invalid for its trainer, which is a bug in the export.
    """
    first = next(read_rows(directory / ROWS), None)
    if first is None or first.part in CONVERSATIONS:
        return
    for name, export in exports().items():
        form = export.signals.get(first.part)
        if form is None or form.sized:
            continue
        folder = directory / "exports" / name
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        written = Counter[str]()
        write_atomically(folder / f"{first.part}.jsonl", _signal_lines(directory, images, export, written))
        _write_indexes(directory / "exports", {name: written})


def _signal_lines(directory: Path, images: Path, export: Export, written: Counter[str]) -> Iterator[str]:
    for order, row in enumerate(read_rows(directory / ROWS)):
        there = tuple(ReleasedImage(name, 0, 0) for name in row.images)
        released = ReleasedRow(row.id, row.part, "train", there, row.turns, row.to_record(), group="", order=order, weight=1.0)
        record = export.line(released, [str((images / name).resolve()) for name in row.images])
        written[row.part] += 1
        yield json.dumps(record, ensure_ascii=False) + "\n"
