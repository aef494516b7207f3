"""Rows for TRL: content in blocks, so that every image keeps its position in the text."""

from collections.abc import Iterator
from typing import Any

from chiron.cases.image_marks import IMAGE_MARK
from chiron.mmrp.exports.export import IMAGES, Export, ReleasedRow, order_faults


def trl_row(row: ReleasedRow) -> dict[str, Any]:
    """Convert to ``{"images": [relative to the release], "messages": [{"role", "content": [blocks]}]}``."""
    return {
        "images": [f"{IMAGES}/{image.name}" for image in row.images],
        "messages": [{"role": turn.role, "content": _blocks(turn.role, turn.text)} for turn in row.turns],
    }


def _blocks(role: str, text: str) -> list[dict[str, str]]:
    pieces = text.split(IMAGE_MARK) if role == "user" else [text]
    blocks: list[dict[str, str]] = []
    for number, piece in enumerate(pieces):
        if number:
            blocks.append({"type": "image"})
        if piece.strip():
            blocks.append({"type": "text", "text": piece})
    return blocks


def trl_faults(row: Any) -> Iterator[str]:
    """Yield what TRL would reject in a row."""
    blocks = [(turn["role"], block) for turn in row["messages"] for block in turn["content"]]
    if any(set(block) != ({"type", "text"} if block.get("type") == "text" else {"type"}) for _, block in blocks):
        yield "a block is neither an image nor text"
    shown = [role for role, block in blocks if block.get("type") == "image"]
    if len(shown) != len(row["images"]):
        yield f"{len(shown)} image blocks for {len(row['images'])} images"
    if any(role != "user" for role in shown):
        yield "an image outside the user's turns"
    texts = [(turn["role"], " ".join(block.get("text", "") for block in turn["content"]) or IMAGE_MARK) for turn in row["messages"]]
    yield from order_faults([role for role, _ in texts])


EXPORT = Export("trl", "TRL. Start it in this folder.", trl_row, trl_faults)
