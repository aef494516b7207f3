"""Rows for TRL: content in blocks, so that every image keeps its position in the text."""

from typing import Any

from chiron.cases.image_marks import IMAGE_MARK
from chiron.mmrp.exports.rows import IMAGES, ReleasedRow


def trl_row(row: ReleasedRow) -> dict[str, Any]:
    """Convert to ``{"images": [relative to the release], "messages": [{"role", "content": [blocks]}]}``."""
    return {
        "images": [f"{IMAGES}/{image.name}" for image in row.images],
        "messages": [{"role": turn.role, "content": content_blocks(turn.role, turn.text)} for turn in row.turns],
    }


def content_blocks(role: str, text: str) -> list[dict[str, str]]:
    """Split a turn into blocks of text and images, so that every image keeps its position."""
    pieces = text.split(IMAGE_MARK) if role == "user" else [text]
    blocks: list[dict[str, str]] = []
    for number, piece in enumerate(pieces):
        if number:
            blocks.append({"type": "image"})
        if piece.strip():
            blocks.append({"type": "text", "text": piece})
    return blocks
