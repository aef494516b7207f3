"""A question of a benchmark, as every loader gives it and every protocol reads it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from chiron.cases.image_marks import IMAGE_MARK
from chiron.models.local.dialogue import Turn

Kind = Literal["choice", "yes_no", "open"]


@dataclass(frozen=True)
class Item:
    """One question whose answer is known."""

    id: str
    """Unique within its benchmark."""
    question: str
    """Without its options. ``<image>`` marks stand where an image does; without any, all images stand before it."""
    answer: str
    """The known answer in words; of a choice the right option's text; of a yes/no question ``yes`` or ``no``."""
    images: tuple[str, ...] = ()
    """Relative to the benchmark's image folder, in the order of the marks."""
    options: tuple[str, ...] = ()
    """Without letters; empty unless it is a choice."""
    gold: int | None = None
    """Index of the right option; ``None`` unless it is a choice."""
    kind: Kind = "open"
    group: str = ""
    """What is not independent of each other: the image, or the set of images (for the clustered bootstrap)."""
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """``modality``, ``body_system``, ``question_type`` and the like, as the source has them."""
    asked: tuple[Turn, ...] = ()
    """The turns before the answer, of an item that brings its own: a model is asked these as they are, nothing added. Empty for others,
    which a protocol words."""

    @property
    def marks(self) -> int:
        """How many images its text marks, as it is asked."""
        own = [turn.text for turn in self.asked if turn.role == "user"]
        return sum(text.count(IMAGE_MARK) for text in own or (self.question, *self.options))


@dataclass(frozen=True)
class BadItem:
    """A record that is no question that can be put. It counts in N, as wrong, wherever a question of its kind does, and is shown."""

    id: str
    """The record's, or ``row 17``."""
    problem: str
    """What is wrong, and how to mend it, in one line."""
    kind: Kind | None = None
    """Of what kind it would have been (``choice`` of whatever its source calls closed); ``None`` if that cannot be told."""
