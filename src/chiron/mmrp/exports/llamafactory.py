"""LLaMA-Factory: ``messages`` and ``images``, and ``dataset_info.json``."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from chiron.mmrp.exports.export import IMAGES, Export, ReleasedRow, SignalFormat, mark_faults, message_faults, messages, rejected

_IMAGE_ROOT: Final = f"../../{IMAGES}"
"""LLaMA-Factory resolves paths from its ``dataset_dir``, ``exports/llamafactory``."""


def llamafactory_row(row: ReleasedRow) -> dict[str, Any]:
    return {"messages": messages(row.turns), "images": [f"{_IMAGE_ROOT}/{image.name}" for image in row.images]}


def pair_row(row: ReleasedRow, images: list[str]) -> dict[str, Any]:
    """Convert a preference pair: ``messages`` end with the user; ``chosen`` and ``rejected`` are turns."""
    *prompt, chosen, other = messages([*row.turns, rejected(row)])
    return {"messages": prompt, "chosen": chosen, "rejected": other, "images": images}


def pair_faults(row: Any) -> Iterator[str]:
    spoken = [turn["role"] for turn in row["messages"] if turn["role"] != "system"]
    if len(spoken) % 2 == 0 or spoken[-1] != "user":
        yield f"turns of {spoken}: the user must be the last"
    if row["chosen"]["role"] != "assistant" or row["rejected"]["role"] != "assistant" or row["chosen"] == row["rejected"]:
        yield "not two completions of the assistant"
    yield from mark_faults(row["messages"], len(row["images"]))


def _index(rows: Mapping[str, int]) -> dict[str, Any]:
    return {"dataset_info.json": {f"mmrp-{name}": llamafactory_entry(f"{name}.jsonl") for name in rows}}


def llamafactory_entry(file_name: str) -> dict[str, Any]:
    roles = {"user_tag": "user", "assistant_tag": "assistant", "system_tag": "system"}
    entry = {
        "file_name": file_name,
        "formatting": "sharegpt",
        "columns": {"messages": "messages", "images": "images"},
        "tags": {"role_tag": "role", "content_tag": "content", **roles},
    }
    if file_name.startswith("preferences"):
        columns = {"messages": "messages", "images": "images", "chosen": "chosen", "rejected": "rejected"}
        return {**entry, "ranking": True, "columns": columns}
    return entry


EXPORT = Export(
    "llamafactory",
    "LLaMA-Factory, with `dataset_dir: exports/llamafactory`.",
    llamafactory_row,
    message_faults,
    _index,
    {"preferences": SignalFormat(pair_row, pair_faults)},
    _IMAGE_ROOT,
)
