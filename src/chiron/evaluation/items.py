"""Benchmark items, their conversion to messages, and their results."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from chiron.cases.case import IMAGE_MARK, Case, named_marks
from chiron.client.call import ImagePart, Message, TextPart
from chiron.client.prompts import fill, own_marks
from chiron.client.prompts import user_message as message_with_images
from chiron.conversation.short_answers import LETTERS
from chiron.io import parse_jsonl
from chiron.providers.local.dialogue import Turn

Kind = Literal["choice", "yes_no", "open"]


@dataclass(frozen=True)
class Item:
    """One question with a known answer."""

    id: str
    """Unique within its benchmark."""
    question: str
    """The question without its options. ``<image>`` marks show where images go; without marks, all images come first."""
    answer: str
    """The known answer in words: the right option's text for a choice, ``yes`` or ``no`` for a yes/no question."""
    images: tuple[str, ...] = ()
    """Paths relative to the benchmark's image folder, in the order of the marks."""
    options: tuple[str, ...] = ()
    """Without letters; empty unless the item is a choice."""
    gold: int | None = None
    """Index of the right option; ``None`` unless the item is a choice."""
    kind: Kind = "open"
    group: str = ""
    """Items of one group depend on each other: the image or the set of images. Used by cluster-robust intervals and tests."""
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """``modality``, ``body_system``, ``question_type`` and so on, as the source has them."""
    asked: tuple[Turn, ...] = ()
    """The turns before the answer, for an item with its own conversation. The model is asked exactly these, with nothing added. Empty for
    other items, which the protocol puts into words.
    """
    alternatives: tuple[str, ...] = ()
    """The answers that are right on their own, where ``answer`` lists several (``a or b``)."""

    @property
    def marks(self) -> int:
        """Number of image marks in the text, as it is asked."""
        own = [turn.text for turn in self.asked if turn.role == "user"]
        return sum(text.count(IMAGE_MARK) for text in own or (self.question, *self.options))


@dataclass(frozen=True)
class BadItem:
    """A record that cannot be asked. It counts in N, as wrong, wherever a question of its kind does, and is listed in the results."""

    id: str
    """The record's id, or ``row 17``."""
    problem: str
    """What is wrong and how to fix it, in one line."""
    kind: Kind | None = None
    """The kind it would have been (``choice`` for every closed question); ``None`` if unknown."""


YES_NO = ("yes", "no")


def with_options(item: Item) -> Item:
    """Turn a yes/no question into a choice of two; return any other item unchanged."""
    if item.kind != "yes_no" or item.options:
        return item
    return replace(item, options=YES_NO, gold=YES_NO.index(item.answer))


def lettered(options: Sequence[str]) -> str:
    """Format the options as lines of the form ``A. option``."""
    return "\n".join(f"{LETTERS[number]}. {option}" for number, option in enumerate(options))


def in_words(item: Item) -> str:
    """Return question and options for a judge, who sees no images: image marks become ``image 1``, ``image 2`` and so on."""
    return named_marks(_question_and_options(item))


def user_message(template: str, item: Item, pictures: Sequence[ImagePart]) -> Message:
    """Fill ``$question`` and ``$options`` in the template, and put the pictures where the item's marks are.

    Pictures without a mark come first. Without pictures (a control), the marks are removed.
    """
    question, options = (own_marks(text) for text in (item.question, lettered(item.options)))
    return message_with_images(fill(template, question=question, options=options), pictures)


def own_messages(item: Item, pictures: Sequence[ImagePart]) -> tuple[Message, ...]:
    """Return the item's own turns with nothing added: what a model trained on its data saw before the answer.

    Args:
        item: an item with ``asked`` turns.
        pictures: in the order of the marks. Pictures without a mark come first; without pictures, the marks are removed.
    """
    left = list(pictures)
    unmarked = max(0, len(left) - sum(_marks(turn) for turn in item.asked))
    messages = []
    for turn in item.asked:
        if turn.role != "user":
            messages.append(Message(turn.role, (TextPart(turn.text),)))
            continue
        count = _marks(turn) + unmarked
        here, left, unmarked = left[:count], left[count:], 0
        messages.append(_exactly(turn.text, here))
    return tuple(messages)


def as_modalities(question: str, images: int) -> str:
    """Announce each of several images as ``Modality i``. A question with its own marks is returned unchanged."""
    if images < 2 or IMAGE_MARK in question:
        return question
    return "\n".join([*(f"Modality {n}: {IMAGE_MARK}" for n in range(1, images + 1)), question])


def as_case(item: Item) -> Case:
    """Convert the item to a case for the search's interns, who see the same text and images as the model."""
    question = "\n\n".join(turn.text for turn in item.asked if turn.role == "user") or _question_and_options(item)
    return Case(id=item.id, question=question, answer=item.answer, images=item.images)


def as_judged(item: Item) -> Case:
    """Convert the item to a case for the search's judge, who sees neither images nor the rest of a conversation."""
    return Case(id=item.id, question=in_words(item), answer=item.answer, images=item.images)


def _exactly(text: str, pictures: Sequence[ImagePart]) -> Message:
    """Build a user turn with its exact text; :func:`chiron.client.prompts.user_message` would strip the ends of a text without images."""
    if not pictures:
        return Message("user", (TextPart(text.replace(IMAGE_MARK, "")),))
    return message_with_images(own_marks(text), pictures)


def _marks(turn: Turn) -> int:
    return turn.text.count(IMAGE_MARK) if turn.role == "user" else 0


def _question_and_options(item: Item) -> str:
    return "\n".join(part for part in (item.question, lettered(item.options)) if part).strip()


ITEMS, RESULTS = "items.jsonl", "results.json"
"""The two derived files in an evaluation's run directory."""


class Verdict(StrEnum):
    """Result of an answer. Only ``right`` counts as right; all verdicts count in N."""

    RIGHT = "right"
    WRONG = "wrong"
    UNPARSED = "unparsed"
    """No answer was found in the reply."""
    UNJUDGED = "unjudged"
    """The judge was asked twice and said neither yes nor no. Counts as not right and is listed."""
    SCORED = "scored"
    """The answer was read and is measured by its scores only. Its protocol has no accuracy."""
    UNUSABLE = "unusable"
    """The item cannot be asked (a missing image, or more images than the model accepts). Counts as wrong and is listed."""
    PENDING = "pending"
    """The call has no answer yet; run the evaluation again. Tables warn about pending items."""


@dataclass(frozen=True)
class ItemResult:
    """One item of one benchmark, asked once under one control and seed; one line of ``items.jsonl``."""

    benchmark: str
    id: str
    verdict: Verdict
    protocol: str
    control: str = "none"
    """``none``, ``no-image``, ``blank``, ``swap`` or ``shuffle-options``."""
    seed: int = 0
    """Index of the seed (sample), from 0. For ``shuffle-options`` it also selects the order."""
    kind: str = "open"
    group: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    question: str = ""
    images: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    """In the order in which they were shown."""
    answer: str = ""
    """The known answer."""
    reply: str | None = None
    """The model's whole reply."""
    given: str | None = None
    """The answer found in the reply: an option's text, or words."""
    rule: str = ""
    """The rule that found the answer."""
    problem: str = ""
    """Why the item is unusable or pending, or lacks an extra score."""
    cut_off: bool = False
    """Whether the token limit ended the reply."""
    call: str = ""
    """Ledger key of the model's call (hex)."""
    scores: Mapping[str, float | None] = field(default_factory=dict)
    """Extra scores of this answer by name: ``judge:NAME`` (0 or 1), ``grade:NAME`` (0, 0.5 or 1), ``token_recall``, ``bertscore_f1``,
    ``mics_score``, ``mics_score@1`` (after the first step), and so on.
    """

    claims: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Claims of the reply's steps by checker: ``step`` (from 1), ``verdict`` (supported, contradicted or not mentioned) and ``claim``.
    Only written if there are any.
    """

    @property
    def right(self) -> bool:
        """Whether the answer counts as right."""
        return self.verdict == Verdict.RIGHT

    def to_record(self) -> dict[str, Any]:
        """Convert to a record of ``items.jsonl``."""
        record = dict(vars(self))
        if not self.claims:  # files of versions without claims stay equal
            del record["claims"]
        return record


_FIELDS = frozenset(f.name for f in fields(ItemResult))


def read_results(path: Path) -> Iterator[ItemResult]:
    """Read an ``items.jsonl`` line by line. Unknown fields are ignored: a later version may write more.

    Raises:
        InputError: the file cannot be read; the message names file and line.
    """
    return parse_jsonl(
        path, _result, "result of an item", "run the evaluation again", hint=": name a run directory that 'chiron eval' wrote"
    )


def _result(raw: Any) -> ItemResult:
    raw.update(verdict=Verdict(raw["verdict"]), images=tuple(raw["images"]), options=tuple(raw["options"]))
    return ItemResult(**{name: value for name, value in raw.items() if name in _FIELDS})
