"""What a protocol decides."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from chiron.client.call import ImagePart, Message
from chiron.evaluation.answers.answer_tags import ReplyFormat, Rule
from chiron.evaluation.answers.extraction import extract
from chiron.evaluation.answers.open_answers import exact_match, final_text
from chiron.evaluation.config import EvaluationPrompts
from chiron.evaluation.items import BadItem, Item, own_messages

PARSER = 4
"""Stands in every result file; raised whenever an answer is read otherwise."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was read out of a reply."""

    given: str | None
    """The answer; ``None`` is unparsed."""
    rule: str
    right: bool | None
    """``None``: the judge has to say."""


class Protocol(ABC):
    """One way to ask and to count."""

    name: ClassVar[str]
    words: ClassVar[str]
    """What it does, in a line."""
    prompts: ClassVar[tuple[str, ...]]
    """The texts that it uses; their hashes are part of a run's identity."""
    judged: ClassVar[bool] = False
    """Whether a verdict may need a judge."""
    any_yes: ClassVar[bool] = False
    """Whether the judge is asked as published: at temperature 0.9, a reply that contains "yes" anywhere being a yes."""
    max_tokens: ClassVar[int] = 1024

    def select(self, items: Sequence[Item | BadItem]) -> tuple[Item | BadItem, ...]:
        """The items that count, bad ones of the same kinds too."""
        return tuple(item for item in items if self.takes(item))

    def takes(self, item: Item | BadItem) -> bool:
        """Whether a question of this kind is asked at all."""
        return item.id != ""

    def shown(self, item: Item) -> Item:
        """The item as it is asked: for example a yes/no question with two options."""
        return item

    def request(self, item: Item, pictures: tuple[ImagePart, ...], prompts: EvaluationPrompts) -> tuple[Message, ...]:
        """What the model is asked: the item's own turns where it brings some, else this protocol's wording."""
        return own_messages(item, pictures) if item.asked else self.messages(item, pictures, prompts)

    @abstractmethod
    def messages(self, item: Item, pictures: tuple[ImagePart, ...], prompts: EvaluationPrompts) -> tuple[Message, ...]:
        """How the protocol words an item that brings no turns of its own; ``item`` as :meth:`shown`."""

    @abstractmethod
    def read(self, item: Item, reply: str, family: ReplyFormat | None) -> Finding:
        """What it answered; ``item`` as it was asked."""


def closed(item: Item | BadItem) -> bool:
    """A choice, a yes/no question, or what its source calls closed; a bad one only if it is known to be."""
    if isinstance(item, BadItem):
        return item.kind in {"choice", "yes_no"}
    return item.kind != "open" or item.labels.get("answer_type", "").upper() == "CLOSED"


def chosen(item: Item, reply: str, family: ReplyFormat | None) -> Finding:
    """An option taken out of a reply by rule."""
    found = extract(reply, item.options, question=item.question, family=family)
    given = None if found.index is None else item.options[found.index]
    return Finding(given, str(found.rule), found.index is not None and found.index == item.gold)


def phrase(item: Item, reply: str, family: ReplyFormat | None) -> Finding:
    """The final answer's words, right if they match the known answer exactly (:func:`exact_match`)."""
    given = final_text(reply, family)
    return Finding(given, str(Rule.UNPARSED) if given is None else "final answer", exact_match(given, item.answer))
