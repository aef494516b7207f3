"""Rows and meta file for InternVL's own trainer (``internvl_chat``)."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from chiron.mmrp.exports.export import IMAGES, Export, ReleasedRow, turn_faults
from chiron.providers.local.tiling import Tiling, tile_budget, tile_count

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
    budget = tile_budget(len(row.images), tiling) if row.images else 0
    tiles = sum(tile_count(image.width, image.height, budget=budget, tiling=tiling) for image in row.images)
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
    files = {}
    for split, name in (("train", "meta.json"), ("validation", "meta_validation.json")):
        entries = {
            f"mmrp-{file}": internvl_meta(f"exports/internvl/{file}.jsonl", count)
            for file, count in rows.items()
            if file.endswith(f"-{split}")
        }
        if entries:
            files[name] = entries
    return files


def internvl_faults(row: Any) -> Iterator[str]:
    """Yield what InternVL's trainer would reject in a row."""
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


EXPORT = Export("internvl", "InternVL's trainer, with `meta.json`. Start it in this folder.", internvl_row, internvl_faults, _index)
