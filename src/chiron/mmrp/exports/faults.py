"""Validate exported rows against their trainers' formats. Independent of the exporters, to catch their mistakes."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from chiron.cases.image_marks import IMAGE_MARK

Faults = Callable[[Any], Iterator[str]]


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
    yield from _turn_faults(turns, {"human": "user", "gpt": "assistant", "system": "system"}, len(images))


def meta_faults(meta: Any) -> Iterator[str]:
    """Yield what is wrong with InternVL's ``meta.json``."""
    kinds = {"root": str, "annotation": str, "data_augment": bool, "repeat_time": int, "length": int, "max_dynamic_patch": int}
    for name, entry in meta.items():
        for key, kind in kinds.items():
            if not isinstance(entry.get(key), kind):
                yield f"{name}: {key} is no {kind.__name__}"
        if not str(entry.get("annotation", "")).endswith(".jsonl"):
            yield f"{name}: its annotation is no JSONL"


def message_faults(row: Any) -> Iterator[str]:
    """Yield what LLaMA-Factory (sharegpt with role tags) and ms-swift would reject in a row."""
    if set(row) != {"messages", "images"}:
        yield f"keys {sorted(row)}"
        return
    if not isinstance(row["images"], list) or not all(isinstance(image, str) and image for image in row["images"]):
        yield "images are no list of paths"
        return
    turns = [(turn.get("role"), turn.get("content")) for turn in row["messages"]]
    yield from _turn_faults(turns, {"user": "user", "assistant": "assistant", "system": "system"}, len(row["images"]))


def dataset_info_faults(info: Any) -> Iterator[str]:
    """Yield what is wrong with LLaMA-Factory's ``dataset_info.json``."""
    wanted = {
        "formatting": "sharegpt",
        "columns": {"messages": "messages", "images": "images"},
        "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
    }
    for name, entry in info.items():
        if not isinstance(entry.get("file_name"), str):
            yield f"{name}: no file_name"
        for key, value in wanted.items():
            given = entry.get(key)
            if given != value and not (isinstance(given, dict) and isinstance(value, dict) and value.items() <= given.items()):
                yield f"{name}: {key} is {given!r}"


def trl_faults(row: Any) -> Iterator[str]:
    """Yield what TRL would reject in a row."""
    blocks = [(turn["role"], block) for turn in row["messages"] for block in turn["content"]]
    if any(set(block) != ({"type", "text"} if block.get("type") == "text" else {"type"}) for _, block in blocks):
        yield "a block is neither an image nor text"
    shown = [role for role, block in blocks if block.get("type") == "image"]
    if len(shown) != len(row["images"]):
        yield f"{len(shown)} image blocks for {len(row['images'])} images"
    if any(role != "user" for role in shown):
        yield "an image that the user does not show"
    texts = [(turn["role"], " ".join(block.get("text", "") for block in turn["content"]) or IMAGE_MARK) for turn in row["messages"]]
    yield from _order_faults([role for role, _ in texts])


def _turn_faults(turns: list[tuple[Any, Any]], roles: Mapping[str, str], images: int) -> Iterator[str]:
    if any(role not in roles or not isinstance(text, str) for role, text in turns):
        yield "a turn of nobody, or without text"
        return
    marks = {role: sum(text.count(IMAGE_MARK) for r, text in turns if roles[r] == role) for role in ("user", "assistant", "system")}
    if marks["user"] != images or marks["assistant"] or marks["system"]:
        yield f"{marks} marks for {images} images"
    yield from _order_faults([roles[role] for role, _ in turns])


def _order_faults(roles: list[str]) -> Iterator[str]:
    spoken = roles[1:] if roles[:1] == ["system"] else roles
    if not spoken or spoken != ["user", "assistant"] * (len(spoken) // 2):
        yield f"turns of {roles}"
