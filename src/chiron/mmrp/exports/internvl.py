"""Rows and meta file for InternVL's own trainer (``internvl_chat``)."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from chiron.conversation.reasoning import reward_question
from chiron.mmrp.exports.export import IMAGES, Export, ReleasedRow, SignalFormat, turn_faults
from chiron.mmrp.row import CONVERSATIONS
from chiron.providers.local.dialogue import Turn
from chiron.providers.local.tiling import Tiling

_SPEAKERS: Final = {"system": "system", "user": "human", "assistant": "gpt"}
_TOKENS_PER_TILE: Final = 256
_LETTERS_PER_TOKEN: Final = 4
MAX_TILES: Final = 6
"""``max_dynamic_patch``, as in the paper's training."""


def internvl_row(row: ReleasedRow) -> dict[str, Any]:
    """Convert to InternVL's row.

    Fields: ``image`` (one or more paths), image sizes, ``length``, ``conversations``. Text-only rows have no ``image``.
    """
    record: dict[str, Any] = {"id": row.id}
    if len(row.images) == 1:
        (image,) = row.images
        record |= {"image": image.name, "width": image.width, "height": image.height}
    elif row.images:
        record |= {
            "image": [image.name for image in row.images],
            "width_list": [image.width for image in row.images],
            "height_list": [image.height for image in row.images],
        }
    record["length"] = length(row)
    record["conversations"] = [{"from": _SPEAKERS[turn.role], "value": turn.text} for turn in row.turns]
    return record


def length(row: ReleasedRow) -> int:
    """Estimate the number of tokens, for grouping by length: four characters per token, 256 tokens per tile."""
    tiling = Tiling(max_tiles=MAX_TILES)
    tiles = sum(tiling.tiles(tiling.grid(image.width, image.height, len(row.images))) for image in row.images)
    return _TOKENS_PER_TILE * tiles + sum(len(turn.text) for turn in row.turns) // _LETTERS_PER_TOKEN + 1


def internvl_meta(annotation: str, rows: int) -> dict[str, Any]:
    """Return a file's entry in ``meta.json``; paths are relative to the release, where the trainer must be started."""
    return {
        "root": f"{IMAGES}/",
        "annotation": annotation,
        "data_augment": False,
        "repeat_time": 1,
        "length": rows,
        "max_dynamic_patch": MAX_TILES,
    }


def _index(rows: Mapping[str, int]) -> dict[str, Any]:
    files: dict[str, dict[str, Any]] = defaultdict(dict)
    for file, count in rows.items():
        part, _, split = file.rpartition("-")
        # A process reward model is trained separately from conversations.
        meta = "meta" + ("" if part in CONVERSATIONS else f"_{part}") + ("_validation" if split == "validation" else "")
        files[f"{meta}.json"][f"mmrp-{file}"] = internvl_meta(f"exports/internvl/{file}.jsonl", count)
    return files


def internvl_faults(row: Any) -> Iterator[str]:
    images = row.get("image", [])
    several = isinstance(images, list)
    images = images if several else [images]
    sizes = ("width_list", "height_list") if several else ("width", "height")
    if "image" in row and (not images or any(key not in row for key in sizes)):
        yield f"images without {sizes[0]} and {sizes[1]}"
    if several and any(len(row.get(key, ())) != len(images) for key in sizes):
        yield "not as many sizes as images"
    if not isinstance(row.get("length"), int) or row["length"] < 1:
        yield "no length"
    turns = [(turn.get("from"), turn.get("value")) for turn in row.get("conversations", ())]
    yield from turn_faults(turns, {"human": "user", "gpt": "assistant", "system": "system"}, len(images))


def reward_row(row: ReleasedRow, images: list[str]) -> dict[str, Any]:
    """Convert to a row for a process reward model: every unit is a user turn, answered by ``+`` or ``-``.

    ``scores`` contains the soft labels, one for each answer.
    """
    del images  # relative to the root that the meta file names
    signal = row.record["signal"]
    *turns, asked = row.turns[:-1]
    for number, (unit, good) in enumerate(zip(signal["units"], signal["labels"], strict=True)):
        shown = reward_question(asked.text, unit) if number == 0 else unit
        turns += [Turn("user", shown), Turn("assistant", "+" if good else "-")]
    return {**internvl_row(replace(row, turns=tuple(turns))), "scores": list(signal["scores"])}


def reward_faults(row: Any) -> Iterator[str]:
    """Yield what InternVL's trainer would reject in a row, or its process reward model would not understand."""
    yield from internvl_faults(row)
    answers = [turn["value"] for turn in row["conversations"] if turn["from"] == "gpt"]
    if not answers or not {"+", "-"}.issuperset(answers) or len(answers) != len(row["scores"]):
        yield "not one + or - for each score"


EXPORT = Export(
    "internvl",
    "InternVL's trainer, with `meta.json`. Start it in this folder.",
    internvl_row,
    internvl_faults,
    _index,
    {"rewards": SignalFormat(reward_row, reward_faults, sized=True)},
)
