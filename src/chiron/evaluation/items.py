"""An item of a benchmark, how it becomes a message, and the record of its result."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from chiron.cases.case import Case
from chiron.cases.image_marks import IMAGE_MARK, named_marks
from chiron.client import prompts as placing
from chiron.client.call import ImagePart, Message, TextPart
from chiron.client.prompts import fill
from chiron.errors import InputError
from chiron.providers.local.dialogue import Turn

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


LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
YES_NO = ("yes", "no")


def with_options(item: Item) -> Item:
    """A yes/no question as a choice of two; any other as it is."""
    if item.kind != "yes_no" or item.options:
        return item
    return replace(item, options=YES_NO, gold=YES_NO.index(item.answer))


def lettered(options: Sequence[str]) -> str:
    """A line ``A. option`` each."""
    return "\n".join(f"{LETTERS[number]}. {option}" for number, option in enumerate(options))


def in_words(item: Item) -> str:
    """Question and options for judges, who see no image: its marks become ``image 1``, ``image 2`` and so on."""
    return named_marks(_question_and_options(item))


def user_message(template: str, item: Item, pictures: Sequence[ImagePart]) -> Message:
    """The template with ``$question`` and ``$options`` filled, and pictures where the item's marks are.

    Pictures that no mark stands for come first. Without pictures (a control) the marks are left out.
    """
    question, options = (placing.own_marks(text) for text in (item.question, lettered(item.options)))
    return placing.user_message(fill(template, question=question, options=options), pictures)


def own_messages(item: Item, pictures: Sequence[ImagePart]) -> tuple[Message, ...]:
    """The turns that the item brings, nothing added: what a model trained on its data saw before the answer.

    Args:
        item: One with ``asked`` turns.
        pictures: In the order of the marks. Those that no mark stands for come first; without pictures the marks are left out.
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
    """The question with each of several images announced as ``Modality i``. A question with marks of its own stays as it is."""
    if images < 2 or IMAGE_MARK in question:
        return question
    return "\n".join([*(f"Modality {n}: {IMAGE_MARK}" for n in range(1, images + 1)), question])


def as_case(item: Item) -> Case:
    """The item as a case for the search's interns: they are asked what the model was asked, its images where its marks are."""
    question = "\n\n".join(turn.text for turn in item.asked if turn.role == "user") or _question_and_options(item)
    return Case(id=item.id, question=question, answer=item.answer, images=item.images)


def as_judged(item: Item) -> Case:
    """The item as a case for the search's judge, who sees neither images nor the rest of a conversation."""
    return Case(id=item.id, question=in_words(item), answer=item.answer, images=item.images)


def _exactly(text: str, pictures: Sequence[ImagePart]) -> Message:
    """A user's turn to the letter: :func:`placing.user_message` would drop blanks at the ends of a text without images."""
    if not pictures:
        return Message("user", (TextPart(text.replace(IMAGE_MARK, "")),))
    return placing.user_message(placing.own_marks(text), pictures)


def _marks(turn: Turn) -> int:
    return turn.text.count(IMAGE_MARK) if turn.role == "user" else 0


def _question_and_options(item: Item) -> str:
    return "\n".join(part for part in (item.question, lettered(item.options)) if part).strip()


ITEMS, RESULTS = "items.jsonl", "results.json"
"""The two derived files of an evaluation's run directory."""


class Verdict(StrEnum):
    """What an answer came to. Everything but ``right`` counts as not right, in one N."""

    RIGHT = "right"
    WRONG = "wrong"
    UNPARSED = "unparsed"
    """No answer could be taken out of the reply."""
    UNJUDGED = "unjudged"
    """The judge, asked twice, said neither yes nor no: not right, and shown."""
    UNUSABLE = "unusable"
    """The item cannot be put (a missing image, more images than the model takes): wrong, and shown."""
    PENDING = "pending"
    """Its call got no answer yet: run again. A table with pending items says so."""


@dataclass(frozen=True)
class ItemResult:
    """One item, asked once: of one benchmark, control and seed."""

    benchmark: str
    id: str
    verdict: Verdict
    protocol: str
    control: str = "none"
    """``none``, ``no-image``, ``blank``, ``swap`` or ``shuffle-options``."""
    seed: int = 0
    """Which of the seeds (samples) it is, from 0; of ``shuffle-options`` also which order."""
    kind: str = "open"
    group: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    question: str = ""
    images: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    """In the order in which they were shown."""
    answer: str = ""
    """The known one."""
    reply: str | None = None
    """What the model said, whole."""
    given: str | None = None
    """The answer taken out of it: an option's text, or words."""
    rule: str = ""
    """By which rule it was found."""
    problem: str = ""
    """Why it is unusable or pending, or lacks a further score."""
    cut_off: bool = False
    """Whether the token limit ended the reply."""
    call: str = ""
    """The ledger's key of the model's call (hex)."""
    scores: Mapping[str, float | None] = field(default_factory=dict)
    """Other metrics of this answer by name: ``judge:NAME`` (0 or 1), ``token_recall``, ``bertscore_f1``, ``mics_score``,
    ``mics_score@1`` (after the first step) ..."""

    @property
    def right(self) -> bool:
        """Whether it counts."""
        return self.verdict == Verdict.RIGHT

    def to_record(self) -> dict[str, Any]:
        """As a line of ``items.jsonl``."""
        return asdict(self)


def read_results(path: Path) -> Iterator[ItemResult]:
    """Every line of an ``items.jsonl``, one at a time.

    Raises:
        InputError: it cannot be read; names file and line.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    raw = json.loads(line)
                    raw.update(verdict=Verdict(raw["verdict"]), images=tuple(raw["images"]), options=tuple(raw["options"]))
                    yield ItemResult(**raw)
                except (ValueError, KeyError, TypeError, RecursionError, AttributeError) as error:
                    raise InputError(
                        f"{path}, line {number}: no line of an evaluation ({type(error).__name__}): run the evaluation again"
                    ) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): name a run directory that 'chiron eval' wrote") from error
