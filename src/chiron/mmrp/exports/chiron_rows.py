"""Rows as ``chiron train`` takes them, and as ms-swift does: messages with marks, images beside."""

from typing import Any

from chiron.mmrp.exports.released import IMAGES, ReleasedRow


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
