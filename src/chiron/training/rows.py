"""Training rows: read conversations with image marks from JSONL, and reject malformed ones."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from chiron.cases.case import IMAGE_MARK
from chiron.errors import InputError
from chiron.io import BrokenJson, read_jsonl
from chiron.providers.local.dialogue import RoleName, Turn

_ROLES: Final[Mapping[str, RoleName]] = MappingProxyType({"system": "system", "user": "user", "assistant": "assistant"})
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_SPEAKERS: Final[Mapping[str, RoleName]] = MappingProxyType({"system": "system", "human": "user", "gpt": "assistant"})


@dataclass(frozen=True, slots=True)
class TrainingExample:
    """One conversation to train on."""

    id: str
    """Unique within the file."""
    images: tuple[str, ...]
    """Paths relative to the image folder, in the order of the marks; empty for text-only rows."""
    turns: tuple[Turn, ...]
    """Optional system turn, then alternating user and assistant turns, ending with the assistant. Of a pair: prompt and chosen."""
    rejected: tuple[Turn, ...] = ()
    """Only of a preference pair: prompt and rejected."""
    prompt_turns: int = 0
    """Number of turns at the start that are not trained: the prompt of a preference pair."""


def read_rows(path: Path, *, preferences: bool = False) -> list[TrainingExample]:
    """Read every row of a JSONL file, in order.

    A line is ``{"id", "images": [paths], "messages": [{"role", "content"}]}`` or InternVL's own ``{"id", "image": path or [paths],
    "conversations": [{"from": "human" | "gpt" | "system", "value"}]}``. With ``preferences``, it is ``{"id", "images", "prompt": [turns],
    "chosen": [turns], "rejected": [turns]}``. Content is a text, or TRL's blocks of texts and images. Other keys are ignored.

    Raises:
        InputError: The file does not exist, or some rows are invalid. All rows are checked; the message names the first few.
    """
    return _read(path, _pair if preferences else _row)


def read_prompts(path: Path) -> list[TrainingExample]:
    """Read the rows of any kind for what they ask: conversations, and of other rows (preference pairs, step rewards) the ``prompt``.

    Raises:
        InputError: See :func:`read_rows`.
    """
    return _read(path, lambda raw: _prompt(raw) if "prompt" in raw and "messages" not in raw else _row(raw))


def _read(path: Path, parse: Callable[[Mapping[str, object]], tuple[TrainingExample, list[str]]]) -> list[TrainingExample]:
    if not path.is_file():
        raise InputError(f"{path} {'is a folder' if path.is_dir() else 'does not exist'}: name a JSONL file of rows to train on")
    rows: list[TrainingExample] = []
    faults: list[str] = []
    lines_of_ids: dict[str, int] = {}
    for number, _, raw in read_jsonl(path):
        if not isinstance(raw, dict):
            faults.append(f"line {number}: {raw.problem if isinstance(raw, BrokenJson) else 'not a JSON object'}")
            continue
        row, problems = parse(raw)
        if row.id:
            first = lines_of_ids.setdefault(row.id, number)
            if first != number:
                problems.append(f"its id is taken by line {first}")
        if problems:
            name = f"row {shown(row.id)}" if row.id else "a row without id"
            faults.append(f"line {number}, {name}: {' and '.join(problems)}")
        rows.append(row)
    if faults:
        raise InputError(f"{path}: {len(faults)} broken {'row' if len(faults) == 1 else 'rows'}, fix or remove them: {listing(faults)}")
    return rows


def listing(faults: Sequence[str], *, most: int = 5) -> str:
    """Join the first ``most`` faults in one line, with the number of the remaining ones."""
    more = len(faults) - most
    return "; ".join(faults[:most]) + (f"; and {more} more" if more > 0 else "")


def shown(name: str) -> str:
    """Format an untrusted name for a message: quoted, printable, on one line, at most 80 characters."""
    cut = name if len(name) <= 80 else name[:77] + "..."
    return "'" + "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in cut) + "'"


def _row(raw: Mapping[str, object]) -> tuple[TrainingExample, list[str]]:
    """Return the valid parts of a row, and its faults."""
    turns, faults = _turns(raw, "conversations" if "conversations" in raw and "messages" not in raw else "messages")
    row = TrainingExample(_id(raw), _images(raw), turns)
    return row, _faults(raw, row, faults)


def _pair(raw: Mapping[str, object]) -> tuple[TrainingExample, list[str]]:
    """Return the valid parts of a preference pair, and its faults."""
    parts = {key: _turns(raw, key) for key in ("prompt", "chosen", "rejected")}
    prompt, chosen, rejected = (turns for turns, _ in parts.values())
    unread = [fault for _, faults in parts.values() for fault in faults]
    row = TrainingExample(_id(raw), _images(raw), (*prompt, *chosen), (*prompt, *rejected), len(prompt))
    faults = _faults(raw, row, unread)
    if not unread:
        if prompt[-1].role != "user":
            faults.append("its prompt does not end with a user turn")
        if any(IMAGE_MARK in turn.text for turn in (*chosen, *rejected)):
            faults.append(f"an {IMAGE_MARK} mark outside of the prompt")
        faults += [f"rejected: {fault}" for fault in _turn_faults(row.rejected) if fault not in faults]
        if chosen == rejected:
            faults.append("chosen and rejected are equal")
    return row, faults


def _prompt(raw: Mapping[str, object]) -> tuple[TrainingExample, list[str]]:
    """Return the prompt of a row, and its faults; its completions are not read."""
    turns, unread = _turns(raw, "prompt")
    row = TrainingExample(_id(raw), _images(raw), turns)
    return row, _faults(raw, row, unread, answered=False)


def _id(raw: Mapping[str, object]) -> str:
    name = raw.get("id")
    # InternVL's published annotations use integers as ids.
    return name if isinstance(name, str) else str(name) if isinstance(name, int) and not isinstance(name, bool) else ""


def _images(raw: Mapping[str, object]) -> tuple[str, ...]:
    images = _image_list(raw)
    return tuple(map(str, images)) if isinstance(images, list) and all(isinstance(image, str) for image in images) else ()


def _image_list(raw: Mapping[str, object]) -> object:
    given = raw.get("images", raw.get("image"))
    if given is None or given == "":
        return []
    return [given] if isinstance(given, str) else given


def _turns(raw: Mapping[str, object], key: str) -> tuple[tuple[Turn, ...], list[str]]:
    """Return the valid turns under ``key``, in order, and the faults of the others."""
    roles, speaker, content = (_SPEAKERS, "from", "value") if key == "conversations" else (_ROLES, "role", "content")
    given = raw.get(key)
    if not isinstance(given, list) or not given:
        return (), [f"its '{key}' is not a list of turns"]
    turns, faults = [], []
    for number, turn in enumerate(given, start=1):
        where = f"turn {number}" if key in {"messages", "conversations"} else f"turn {number} of '{key}'"
        role = turn.get(speaker) if isinstance(turn, dict) else None
        text = _text(turn.get(content)) if isinstance(turn, dict) else None
        if not isinstance(role, str) or role not in roles:
            faults.append(f"{where} has no '{speaker}' of {', '.join(roles)}")
        elif text is None:
            faults.append(f"{where} has no text in '{content}'")
        else:
            turns.append(Turn(roles[role], text))
    return tuple(turns), faults


def _text(content: object) -> str | None:
    """Return a turn's text; of TRL's blocks, an image becomes a mark. None if it is neither."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        return None
    pieces = []
    for block in content:
        kind = block.get("type") if isinstance(block, dict) else None
        piece = IMAGE_MARK if kind == "image" else block.get("text") if kind == "text" else None
        if not isinstance(piece, str):
            return None
        pieces.append(piece)
    return "".join(pieces)


def _faults(raw: Mapping[str, object], row: TrainingExample, unread: list[str], *, answered: bool = True) -> list[str]:
    faults = [] if row.id.strip() else ["its id is missing or not a text"]
    images = _image_list(raw)
    if not isinstance(images, list) or not all(isinstance(image, str) and image for image in images):
        faults.append("its images are not a list of paths")
    elif not unread:
        faults += _mark_faults(row)
    faults += unread or (_turn_faults(row.turns) if answered else [])
    if any(map(_SURROGATE.search, (row.id, *row.images, *(turn.text for turn in (*row.turns, *row.rejected))))):
        faults.append("its text contains half a character (a lone surrogate)")
    return faults


def _mark_faults(row: TrainingExample) -> list[str]:
    marks = sum(turn.text.count(IMAGE_MARK) for turn in row.turns)
    faults = [] if marks == len(row.images) else [f"{marks} {IMAGE_MARK} marks for {len(row.images)} images"]
    if any(IMAGE_MARK in turn.text for turn in row.turns if turn.role == "assistant"):
        faults.append(f"an {IMAGE_MARK} mark in an assistant turn")
    return faults


def _turn_faults(turns: Sequence[Turn]) -> list[str]:
    roles = [turn.role for turn in turns]
    spoken = roles[1:] if roles[0] == "system" else roles
    faults = []
    if "assistant" not in roles:
        faults.append("no assistant turn, so nothing to learn")
    elif any(role != ("assistant" if i % 2 else "user") for i, role in enumerate(spoken)):
        faults.append("user and assistant do not take turns, the user first")
    elif roles[-1] != "assistant":
        faults.append("it ends with a user turn, without a reply")
    if any(turn.role == "assistant" and not turn.text.strip() for turn in turns):
        faults.append("an empty assistant turn")
    return faults
