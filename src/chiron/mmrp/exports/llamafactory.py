"""LLaMA-Factory: ``messages`` and ``images``, and ``dataset_info.json``."""

from collections.abc import Mapping
from typing import Any

from chiron.mmrp.exports.export import IMAGES, Export, ReleasedRow, message_faults, messages


def llamafactory_row(row: ReleasedRow) -> dict[str, Any]:
    """Convert to ``{"messages", "images"}``; LLaMA-Factory resolves paths from its ``dataset_dir``, so they start there."""
    return {"messages": messages(row), "images": [f"../../{IMAGES}/{image.name}" for image in row.images]}


def _index(rows: Mapping[str, int]) -> dict[str, Any]:
    return {"dataset_info.json": {f"mmrp-{name}": llamafactory_entry(f"{name}.jsonl") for name in rows}}


def llamafactory_entry(file_name: str) -> dict[str, Any]:
    """Return a file's entry in ``dataset_info.json``."""
    roles = {"user_tag": "user", "assistant_tag": "assistant", "system_tag": "system"}
    return {
        "file_name": file_name,
        "formatting": "sharegpt",
        "columns": {"messages": "messages", "images": "images"},
        "tags": {"role_tag": "role", "content_tag": "content", **roles},
    }


EXPORT = Export("llamafactory", "LLaMA-Factory, with `dataset_dir: exports/llamafactory`.", llamafactory_row, message_faults, _index)
