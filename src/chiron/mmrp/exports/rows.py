"""A released row, and its formats for ``chiron train``, ms-swift and LLaMA-Factory."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chiron.mmrp.row import Part
from chiron.mmrp.splits import SplitName
from chiron.providers.local.dialogue import Turn

IMAGES = "images"
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
    record: Mapping[str, Any]
    """The other fields, as in ``rows.jsonl``."""
    group: str
    """Group of related rows; a group is never divided between splits."""
    order: int
    """Position in the curriculum, from 0, within part and split."""
    weight: float
    """Sampling weight for a balanced coverage map; 1 on average, within part and split."""


def chiron_row(row: ReleasedRow) -> dict[str, Any]:
    """Convert to ``{"id", "images": [relative to images/], "messages": [{"role", "content"}]}``, and the fields of its signal, if any."""
    images = [image.name for image in row.images]
    return {"id": row.id, "images": images, "messages": _messages(row), **(row.record.get("signal") or {})}


def ms_swift_row(row: ReleasedRow) -> dict[str, Any]:
    """Convert to ``{"messages", "images": [relative to the release]}``; ms-swift resolves paths from its working directory."""
    return {"messages": _messages(row), "images": [f"{IMAGES}/{image.name}" for image in row.images]}


def llamafactory_row(row: ReleasedRow) -> dict[str, Any]:
    """Convert to ``{"messages", "images"}``; LLaMA-Factory resolves paths from its ``dataset_dir``, so they start there."""
    return {"messages": _messages(row), "images": [f"../../{IMAGES}/{image.name}" for image in row.images]}


def llamafactory_entry(file_name: str) -> dict[str, Any]:
    """Return a file's entry in ``dataset_info.json``."""
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
