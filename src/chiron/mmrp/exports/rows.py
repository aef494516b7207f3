"""A released row, and its form for `chiron train`, ms-swift and LLaMA-Factory."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chiron.mmrp.row import Part
from chiron.mmrp.splits import SplitName
from chiron.providers.local.dialogue import Turn

IMAGES = "images"
"""The folder of a release's images."""


@dataclass(frozen=True, slots=True)
class ReleasedImage:
    """An image of the release."""

    name: str
    """Relative to the release's ``images/``."""
    width: int
    """Pixels."""
    height: int
    """Pixels."""


@dataclass(frozen=True, slots=True)
class ReleasedRow:
    """A row of the release."""

    id: str
    part: Part
    split: SplitName
    images: tuple[ReleasedImage, ...]
    """In the order of the marks."""
    turns: tuple[Turn, ...]
    record: Mapping[str, Any]
    """Everything else, as ``rows.jsonl`` has it."""
    group: str
    """What it hangs together with: rows of one group are on one side of the splits."""
    order: int
    """Its place in the curriculum, from 0, within part and split."""
    weight: float
    """For drawing rows in balance over the map; 1 on average, within part and split."""


def chiron_row(row: ReleasedRow) -> dict[str, Any]:
    """``{"id", "images": [relative to images/], "messages": [{"role", "content"}]}``."""
    return {"id": row.id, "images": [image.name for image in row.images], "messages": _messages(row)}


def ms_swift_row(row: ReleasedRow) -> dict[str, Any]:
    """``{"messages", "images": [relative to the release]}``: ms-swift looks from where it is started."""
    return {"messages": _messages(row), "images": [f"{IMAGES}/{image.name}" for image in row.images]}


def llamafactory_row(row: ReleasedRow) -> dict[str, Any]:
    """``{"messages", "images"}``, images relative to ``dataset_info.json``: LLaMA-Factory looks from its ``dataset_dir``."""
    return {"messages": _messages(row), "images": [f"../../{IMAGES}/{image.name}" for image in row.images]}


def llamafactory_entry(file_name: str) -> dict[str, Any]:
    """A file's entry in ``dataset_info.json``."""
    return {
        "file_name": file_name,
        "formatting": "sharegpt",
        "columns": {"messages": "messages", "images": "images"},
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
            "system_tag": "system",
        },
    }


def _messages(row: ReleasedRow) -> list[dict[str, str]]:
    return [{"role": turn.role, "content": turn.text} for turn in row.turns]
