"""Training rows: read conversations with image marks from JSONL and reject malformed ones."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from chiron.cases.image_marks import IMAGE_MARK
from chiron.errors import InputError
from chiron.io import BrokenJson, read_jsonl
from chiron.providers.local.dialogue import RoleName, Turn

_ROLES: Final[Mapping[str, RoleName]] = MappingProxyType({"system": "system", "user": "user", "assistant": "assistant"})
_SPEAKERS: Final[Mapping[str, RoleName]] = MappingProxyType({"system": "system", "human": "user", "gpt": "assistant"})


@dataclass(frozen=True, slots=True)
class TrainingExample:
    """One conversation to train on."""

    id: str
    """Unique within the file."""
    images: tuple[str, ...]
    """Paths relative to the image folder, in the order of the marks; empty for text-only rows."""
    turns: tuple[Turn, ...]
    """Optional system turn, then alternating user and assistant turns, ending with the assistant."""


def read_rows(path: Path) -> list[TrainingExample]:
    """Read every row of a JSONL file, in order.

    A line is ``{"id", "images": [paths], "messages": [{"role", "content"}]}`` or InternVL's own ``{"id", "image": path or [paths],
    "conversations": [{"from": "human" | "gpt" | "system", "value"}]}``; other keys are ignored.

    Raises:
        InputError: The file does not exist, or some rows are invalid. All rows are checked; the message names the first few.
    """
    if not path.is_file():
        raise InputError(f"{path} {'is a folder' if path.is_dir() else 'does not exist'}: name a JSONL file of rows to train on")
    rows: list[TrainingExample] = []
    faults: list[str] = []
    lines_of_ids: dict[str, int] = {}
    for number, _, raw in read_jsonl(path):
        if not isinstance(raw, dict):
            faults.append(f"line {number}: {raw.problem if isinstance(raw, BrokenJson) else 'not a JSON object'}")
            continue
        row = _row(raw)
        problems = _faults(raw, row)
        if row.id:
            first = lines_of_ids.setdefault(row.id, number)
            if first != number:
                problems.append(f"its id is taken by line {first}")
        if problems:
            name = f"row {shown(row.id)}" if row.id else "a row without id"
            faults.append(f"line {number}, {name}: {' and '.join(problems)}")
        rows.append(row)
    if faults:
        raise InputError(f"{path}: {len(faults)} broken {'row' if len(faults) == 1 else 'rows'}, mend or remove them: {listing(faults)}")
    return rows


def rows_fingerprint(path: Path) -> str:
    """Return the SHA-256 of the file's bytes as hex.

    Raises:
        InputError: The file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def listing(faults: Sequence[str], *, most: int = 5) -> str:
    """Join the first ``most`` faults in one line, with the number of the remaining ones."""
    more = len(faults) - most
    return "; ".join(faults[:most]) + (f"; and {more} more" if more > 0 else "")


def shown(name: str) -> str:
    """Format an untrusted name for a message: quoted, printable, on one line, at most 80 characters."""
    cut = name if len(name) <= 80 else name[:77] + "..."
    return "'" + "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in cut) + "'"


def _row(raw: Mapping[str, object]) -> TrainingExample:
    """Read the valid parts of a row; :func:`_faults` describes the rest."""
    name = raw.get("id")
    images = _image_list(raw)
    given = isinstance(images, list) and all(isinstance(image, str) for image in images)
    return TrainingExample(
        # InternVL's published annotations use integers as ids.
        id=name if isinstance(name, str) else str(name) if isinstance(name, int) and not isinstance(name, bool) else "",
        images=tuple(str(image) for image in images) if isinstance(images, list) and given else (),
        turns=tuple(turn for turn in _turns(raw) if isinstance(turn, Turn)),
    )


def _image_list(raw: Mapping[str, object]) -> object:
    given = raw.get("images", raw.get("image"))
    if given is None or given == "":
        return []
    return [given] if isinstance(given, str) else given


def _turns(raw: Mapping[str, object]) -> Iterator[Turn | str]:
    """Yield the turns in order; an invalid turn is replaced by a description of its fault."""
    key, roles, speaker, words = ("messages", _ROLES, "role", "content")
    if key not in raw and "conversations" in raw:
        key, roles, speaker, words = ("conversations", _SPEAKERS, "from", "value")
    given = raw.get(key)
    if not isinstance(given, list) or not given:
        yield f"its '{key}' is no list of turns"
        return
    for number, turn in enumerate(given, start=1):
        who = turn.get(speaker) if isinstance(turn, dict) else None
        text = turn.get(words) if isinstance(turn, dict) else None
        if not isinstance(who, str) or who not in roles:
            yield f"turn {number} has no '{speaker}' of {', '.join(roles)}"
        elif not isinstance(text, str):
            yield f"turn {number} has no text in '{words}'"
        else:
            yield Turn(roles[who], text)


def _faults(raw: Mapping[str, object], row: TrainingExample) -> list[str]:
    faults = [] if row.id.strip() else ["its id is missing or no text"]
    unread = [turn for turn in _turns(raw) if isinstance(turn, str)]
    images = _image_list(raw)
    if not isinstance(images, list) or not all(isinstance(image, str) and image for image in images):
        faults.append("its images are no list of paths")
    elif not unread:
        faults += _mark_faults(row)
    faults += unread or _turn_faults(row)
    if not all(_encodable(text) for text in (row.id, *row.images, *(turn.text for turn in row.turns))):
        faults.append("its text holds half a character (a lone surrogate)")
    return faults


def _mark_faults(row: TrainingExample) -> list[str]:
    marks = sum(turn.text.count(IMAGE_MARK) for turn in row.turns)
    faults = [] if marks == len(row.images) else [f"{marks} {IMAGE_MARK} marks for {len(row.images)} images"]
    if any(IMAGE_MARK in turn.text for turn in row.turns if turn.role == "assistant"):
        faults.append(f"an {IMAGE_MARK} mark in what the assistant says")
    return faults


def _turn_faults(row: TrainingExample) -> list[str]:
    roles = [turn.role for turn in row.turns]
    spoken = roles[1:] if roles[0] == "system" else roles
    faults = []
    if "assistant" not in roles:
        faults.append("no assistant turn, so nothing to learn")
    elif any(role != ("assistant" if i % 2 else "user") for i, role in enumerate(spoken)):
        faults.append("user and assistant do not take turns, the user first")
    elif roles[-1] != "assistant":
        faults.append("it ends with a user turn that nobody answers")
    if any(turn.role == "assistant" and not turn.text.strip() for turn in row.turns):
        faults.append("an empty assistant turn")
    return faults


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
