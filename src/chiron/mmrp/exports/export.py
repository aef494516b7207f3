"""An export format for another trainer, and the registry of all formats: the modules of this package, and plug-ins."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any, Final

from chiron.cases.image_marks import IMAGE_MARK
from chiron.mmrp.row import Part, RowRecord
from chiron.mmrp.splits import SplitName
from chiron.plugins import submodules, with_plugins
from chiron.providers.local.dialogue import Turn

GROUP: Final = "chiron.exports"
"""Entry-point group of exports in other packages."""
IMAGES: Final = "images"
"""Image folder of a release."""


@dataclass(frozen=True, slots=True)
class ReleasedImage:
    """An image of the release."""

    name: str
    """File name relative to the release's ``images/``."""
    width: int
    """In pixels."""
    height: int
    """In pixels."""


@dataclass(frozen=True, slots=True)
class ReleasedRow:
    """A row of the release."""

    id: str
    part: Part
    split: SplitName
    images: tuple[ReleasedImage, ...]
    """In the order of the marks."""
    turns: tuple[Turn, ...]
    record: RowRecord
    """The other fields, as in ``rows.jsonl``."""
    group: str
    """Group of related rows; a group is never divided between splits."""
    order: int
    """Position in the curriculum, from 0, within part and split."""
    weight: float
    """Sampling weight for a balanced coverage map; 1 on average, within part and split."""


def no_index(rows: Mapping[str, int]) -> dict[str, Any]:
    """Return no files."""
    del rows
    return {}


@dataclass(frozen=True, slots=True)
class Export:
    """A format. A module of this package defines it as ``EXPORT``; another package registers an entry point."""

    name: str
    """Folder in ``exports/``."""
    use: str
    """How to use the folder: one line of Markdown for the dataset card."""
    row: Callable[[ReleasedRow], dict[str, Any]]
    """Converts a row to a line of ``PART-SPLIT.jsonl``."""
    faults: Callable[[Any], Iterator[str]]
    """Yields what the trainer would reject in a line. Written from the trainer's format, not from ``row``, to catch mistakes of ``row``."""
    index: Callable[[Mapping[str, int]], Mapping[str, Any]] = no_index
    """Returns JSON files that list the others, by name, given the number of rows by ``PART-SPLIT``."""


@cache
def exports() -> Mapping[str, Export]:
    """Return all export formats by name.

    Raises:
        InputError: a plug-in cannot be loaded.
    """
    found: list[Export] = [module.EXPORT for module in submodules("chiron.mmrp.exports") if hasattr(module, "EXPORT")]
    return MappingProxyType(with_plugins(GROUP, {export.name: export for export in found}, Export))


def messages(row: ReleasedRow) -> list[dict[str, str]]:
    """Return the turns as ``{"role", "content"}``."""
    return [{"role": turn.role, "content": turn.text} for turn in row.turns]


def message_faults(row: Any) -> Iterator[str]:
    """Yield what trainers of ``{"messages", "images"}`` rows (LLaMA-Factory, ms-swift) would reject in a row."""
    if set(row) != {"messages", "images"}:
        yield f"keys {sorted(row)}"
    elif not isinstance(row["images"], list) or not all(isinstance(image, str) and image for image in row["images"]):
        yield "images is not a list of paths"
    else:
        turns = [(turn.get("role"), turn.get("content")) for turn in row["messages"]]
        yield from turn_faults(turns, {"user": "user", "assistant": "assistant", "system": "system"}, len(row["images"]))


def turn_faults(turns: list[tuple[Any, Any]], roles: Mapping[str, str], images: int) -> Iterator[str]:
    """Yield faults of ``(role, text)`` turns: an unknown role, image marks that do not match the images, a wrong order.

    Args:
        turns: role, as the trainer calls it, and text of each turn.
        roles: ``user``, ``assistant`` or ``system``, by the trainer's name of the role.
        images: number of the row's images.
    """
    if any(role not in roles or not isinstance(text, str) for role, text in turns):
        yield "a turn with an unknown role or without text"
        return
    marks = {role: sum(text.count(IMAGE_MARK) for r, text in turns if roles[r] == role) for role in ("user", "assistant", "system")}
    if marks["user"] != images or marks["assistant"] or marks["system"]:
        yield f"{marks} marks for {images} images"
    yield from order_faults([roles[role] for role, _ in turns])


def order_faults(roles: list[str]) -> Iterator[str]:
    """Yield a fault unless user and assistant alternate after an optional system turn."""
    spoken = roles[1:] if roles[:1] == ["system"] else roles
    if not spoken or spoken != ["user", "assistant"] * (len(spoken) // 2):
        yield f"turns in the order {roles}"
