"""Rows for TRL: content in blocks, so that every image keeps its position in the text."""

from collections.abc import Iterator, Sequence
from typing import Any

from chiron.cases.case import IMAGE_MARK
from chiron.mmrp.exports.export import (
    IMAGES,
    Export,
    ReleasedRow,
    SignalFormat,
    answer_faults,
    no_index,
    order_faults,
    rejected,
    verifiable,
)
from chiron.providers.local.dialogue import Turn


def trl_row(row: ReleasedRow) -> dict[str, Any]:
    """Convert to ``{"images": [relative to the release], "messages": [{"role", "content": [blocks]}]}``."""
    return {"images": [f"{IMAGES}/{image.name}" for image in row.images], "messages": _messages(row.turns)}


def _messages(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    return [{"role": turn.role, "content": _blocks(turn.role, turn.text)} for turn in turns]


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
    blocks = [(turn["role"], block) for turn in row["messages"] for block in turn["content"]]
    if any(set(block) != ({"type", "text"} if block.get("type") == "text" else {"type"}) for _, block in blocks):
        yield "a block is neither an image nor text"
    shown = [role for role, block in blocks if block.get("type") == "image"]
    if len(shown) != len(row["images"]):
        yield f"{len(shown)} image blocks for {len(row['images'])} images"
    if any(role != "user" for role in shown):
        yield "an image outside the user's turns"
    yield from order_faults([turn["role"] for turn in row["messages"]])


def pair_row(row: ReleasedRow, images: list[str]) -> dict[str, Any]:
    """Convert a preference pair: ``prompt``, ``chosen``, ``rejected`` and ``images``."""
    *prompt, chosen = row.turns
    return {"images": images, "prompt": _messages(prompt), "chosen": _messages([chosen]), "rejected": _messages([rejected(row)])}


def pair_faults(row: Any) -> Iterator[str]:
    """Yield what TRL's ``DPOTrainer`` would reject in a row."""
    yield from _prompt_faults(row["prompt"], len(row["images"]))
    for name in ("chosen", "rejected"):
        turns = row[name]
        if [turn["role"] for turn in turns] != ["assistant"] or any(block["type"] != "text" for block in turns[0]["content"]):
            yield f"{name} is not one assistant turn of text"
    if row["chosen"] == row["rejected"]:
        yield "both completions are equal"


def stepwise_row(row: ReleasedRow, images: list[str]) -> dict[str, Any]:
    """Convert step rewards: ``prompt``, ``completions`` and a hard label for each; ``scores`` are the soft labels."""
    signal = row.record["signal"]
    prompt = "\n\n".join(turn.text for turn in row.turns[:-1])
    scores = {"completions": list(signal["units"]), "labels": list(signal["labels"]), "scores": list(signal["scores"])}
    return {"prompt": prompt, **scores, "images": images}


def stepwise_faults(row: Any) -> Iterator[str]:
    """Yield what TRL's ``PRMTrainer`` would reject in a row."""
    if not row["completions"] or len({len(row[name]) for name in ("completions", "labels", "scores")}) != 1:
        yield "not one label and one score for each completion"
    if not all(isinstance(label, bool) for label in row["labels"]) or not all(0 <= score <= 1 for score in row["scores"]):
        yield "labels that are not true or false, or scores that are not from 0 to 1"
    if row["prompt"].count(IMAGE_MARK) != len(row["images"]):
        yield f"{row['prompt'].count(IMAGE_MARK)} marks for {len(row['images'])} images"


def prompt_row(row: ReleasedRow, images: list[str]) -> dict[str, Any]:
    """Convert a prompt for GRPO: ``prompt`` and ``images``; every other column is an argument of the reward function."""
    return {"images": images, "prompt": _messages(row.turns[:-1]), **verifiable(row)}


def grpo_faults(row: Any) -> Iterator[str]:
    """Yield what TRL's ``GRPOTrainer`` or the reward function would reject in a row."""
    yield from _prompt_faults(row["prompt"], len(row["images"]))
    yield from answer_faults(row["answer"])


def _prompt_faults(prompt: Any, images: int) -> Iterator[str]:
    shown = [turn["role"] for turn in prompt for block in turn["content"] if block["type"] == "image"]
    if len(shown) != images or set(shown) - {"user"}:
        yield f"image blocks of {shown} for {images} images"
    if not prompt or prompt[-1]["role"] != "user":
        yield "the last turn of the prompt is not a user turn"


EXPORT = Export(
    "trl",
    "TRL. Start it in this folder.",
    trl_row,
    trl_faults,
    no_index,
    {
        "preferences": SignalFormat(pair_row, pair_faults),
        "rewards": SignalFormat(stepwise_row, stepwise_faults),
        "rl": SignalFormat(prompt_row, grpo_faults),
    },
)
