"""ms-swift: ``messages`` and ``images``."""

from collections.abc import Iterator
from typing import Any

from chiron.mmrp.exports.export import (
    IMAGES,
    Export,
    ReleasedRow,
    SignalFormat,
    mark_faults,
    message_faults,
    messages,
    no_index,
    prompt_faults,
    verifiable,
)


def ms_swift_row(row: ReleasedRow) -> dict[str, Any]:
    """Convert to ``{"messages", "images": [relative to the release]}``; ms-swift resolves paths from its working directory."""
    return {"messages": messages(row.turns), "images": [f"{IMAGES}/{image.name}" for image in row.images]}


def pair_row(row: ReleasedRow, images: list[str]) -> dict[str, Any]:
    """Convert a preference pair: ``messages`` end with the chosen completion; ``rejected_response`` is the other one."""
    return {"messages": messages(row.turns), "rejected_response": row.record["signal"]["rejected"], "images": images}


def pair_faults(row: Any) -> Iterator[str]:
    if row["messages"][-1]["role"] != "assistant" or row["messages"][-1]["content"] == row["rejected_response"]:
        yield "the last turn is not another completion of the assistant"
    yield from mark_faults(row["messages"], len(row["images"]))


def prompt_row(row: ReleasedRow, images: list[str]) -> dict[str, Any]:
    """Convert a prompt for GRPO: ``messages`` end with the user; ``solution`` is the answer."""
    columns = verifiable(row)
    return {"messages": messages(row.turns[:-1]), "images": images, "solution": columns.pop("answer"), **columns}


def solution_faults(row: Any) -> Iterator[str]:
    """Yield what ms-swift or the reward function would reject in a prompt."""
    yield from prompt_faults(row["messages"], len(row["images"]), row["solution"])


EXPORT = Export(
    "ms-swift",
    "ms-swift. Start it in this folder.",
    ms_swift_row,
    message_faults,
    no_index,
    {"preferences": SignalFormat(pair_row, pair_faults), "rl": SignalFormat(prompt_row, solution_faults)},
)
