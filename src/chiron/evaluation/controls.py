"""Controls: the same questions with something removed or moved, to see what a score depends on."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path

from PIL import Image

from chiron.cases.case import IMAGE_MARK
from chiron.client.config_file import unknown_name
from chiron.errors import InputError
from chiron.evaluation.items import BadItem, Item, lettered


class Control(StrEnum):
    """Change made to every item."""

    NONE = "none"
    NO_IMAGE = "no-image"
    """The question without images."""
    BLANK = "blank"
    """A gray image of the same size replaces each image."""
    SWAP = "swap"
    """Images of another item of the benchmark, never of one with the same images."""
    SHUFFLE_OPTIONS = "shuffle-options"
    """The options in another order; each seed gets its own order."""


def control_of(name: str) -> Control:
    """Look up a control by name.

    Raises:
        InputError: the name is unknown.
    """
    try:
        return Control(name)
    except ValueError:
        raise InputError(unknown_name("control", name, list(Control), f"choose one of {', '.join(Control)}")) from None


def _has_images(item: Item) -> bool:
    return bool(item.images)


def _has_options(item: Item) -> bool:
    return len(item.options) > 1


_NEEDS: Mapping[Control, tuple[str, Callable[[Item], bool]]] = {
    Control.NO_IMAGE: ("images", _has_images),
    Control.BLANK: ("images", _has_images),
    Control.SWAP: ("images", _has_images),
    Control.SHUFFLE_OPTIONS: ("options", _has_options),
}
"""What an item must have for a control to change it."""


def note_unchanged(name: str, items: Sequence[Item | BadItem], control: Control) -> str:
    """Describe how many items a control leaves unchanged; empty if none.

    Args:
        name: the benchmark's name.
        items: its items, as they are shown.
        control: the control.

    Raises:
        InputError: the control changes no item, so it would only repeat the real run.
    """
    if control not in _NEEDS:
        return ""
    what, has = _NEEDS[control]
    asked = [item for item in items if isinstance(item, Item)]
    left = sum(not has(item) for item in asked)
    if asked and left == len(asked):
        raise InputError(f"control {control} changes nothing in {name}: none of its items has {what}; choose another control")
    return f"{name}: {left} of {len(asked)} items have no {what}, so {control} leaves them unchanged" if left else ""


def apply_control(items: Sequence[Item | BadItem], control: Control, *, seed: int, sample_index: int) -> list[Item | BadItem]:
    """Apply a control to the items and keep their order. ``blank`` returns them unchanged, because it replaces the pictures instead.

    Args:
        items: items of one benchmark, as they are shown.
        control: the control.
        seed: random seed of the evaluation.
        sample_index: index of the sample; each has its own option orders and swap partners.
    """
    if control == Control.NO_IMAGE:
        return [replace(item, images=()) if isinstance(item, Item) else item for item in items]
    if control == Control.SHUFFLE_OPTIONS:
        return [_shuffled(item, f"{seed}:{sample_index}:{item.id}") if isinstance(item, Item) else item for item in items]
    if control == Control.SWAP:
        return _swapped(items, random.Random(f"{seed}:{sample_index}"))  # noqa: S311 - not used for security
    return list(items)


def grey(size: tuple[int, int], folder: Path, *, most: int) -> Path:
    """Write a gray PNG of this size once (width, height in pixels; no side longer than ``most``) and return its path."""
    scale = min(1.0, most / max(size))
    width, height = (max(1, round(side * scale)) for side in size)
    path = folder / f"{width}x{height}.png"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f".{width}x{height}.{id(path)}.part"
        Image.new("L", (width, height), 128).save(part, "PNG")
        part.replace(path)
    return path


def _shuffled(item: Item, seed: str) -> Item | BadItem:
    if len(item.options) < 2 or item.gold is None:
        return item
    order = list(range(len(item.options)))
    while order == sorted(order):
        random.Random(seed).shuffle(order)  # noqa: S311 - not used for security
        seed += "'"
    # Images marked in an option move with that option.
    before = len(item.images) - sum(option.count(IMAGE_MARK) for option in item.options)
    own, at = [], before
    for option in item.options:
        own.append(item.images[at : at + option.count(IMAGE_MARK)] if before >= 0 else ())
        at += option.count(IMAGE_MARK)
    images = (*item.images[:before], *(name for n in order for name in own[n])) if before >= 0 else item.images
    shuffled = replace(item, options=tuple(item.options[n] for n in order), gold=order.index(item.gold), images=images)
    return _worded_anew(shuffled, lettered(item.options)) if item.asked else shuffled


def _worded_anew(item: Item, before: str) -> Item | BadItem:
    """Put the options into their new order in the item's own turns too.

    Args:
        item: the item, with the new order.
        before: the lettered options as its turns list them.
    """
    texts = [turn.text for turn in item.asked]
    if sum(text.count(before) for text in texts) != 1:
        return BadItem(item.id, "its own text does not list its options one per line, so they cannot be shuffled", item.kind)
    asked = tuple(replace(turn, text=turn.text.replace(before, lettered(item.options))) for turn in item.asked)
    return replace(item, asked=asked)


def _swapped(items: Sequence[Item | BadItem], dice: random.Random) -> list[Item | BadItem]:
    """Give every item the next set of images in a ring (a derangement). Sets of the same size are next to each other."""
    sets = sorted({item.images for item in items if isinstance(item, Item) and item.images})
    dice.shuffle(sets)
    ring = sorted(sets, key=len)
    partner = {images: ring[(n + 1) % len(ring)] for n, images in enumerate(ring)}
    return [_with_images(item, partner[item.images]) if isinstance(item, Item) and item.images else item for item in items]


def _with_images(item: Item, images: tuple[str, ...]) -> Item | BadItem:
    if images == item.images:
        return BadItem(item.id, "the benchmark has no other image to swap with")
    marks = item.marks
    if marks <= len(images):
        return replace(item, images=images)
    # With fewer images than marks, use the images in order and repeat the last one for the remaining marks.
    return replace(item, images=(*images, *[images[-1]] * (marks - len(images))))
