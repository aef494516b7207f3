"""Interface of a protocol: which items count, how they are asked, and how replies are read."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from chiron.client.call import ImagePart, Message
from chiron.client.prompts import hashes
from chiron.evaluation.answers.answer_tags import ReplyFormat, Rule
from chiron.evaluation.answers.extraction import extract
from chiron.evaluation.answers.open_answers import exact_match, final_text
from chiron.evaluation.config import EvaluationPrompts
from chiron.evaluation.items import BadItem, Item, own_messages

PARSER = 4
"""Version of the reply parser, recorded in every result file. Raise it whenever any answer is read differently."""


@dataclass(frozen=True, slots=True)
class ParsedReply:
    """What a protocol read from a reply."""

    given: str | None
    """The answer; ``None`` if the reply could not be read."""
    rule: str
    right: bool | None
    """``None`` if a judge has to decide, or if the protocol only has scores."""


UNPARSED = ParsedReply(None, str(Rule.UNPARSED), right=False)
"""A reply without an answer; it counts as wrong."""


class Protocol(ABC):
    """One way to ask questions and to count answers."""

    name: ClassVar[str]
    description: ClassVar[str]
    """One line for ``chiron eval --list``."""
    prompts: ClassVar[tuple[str, ...]] = ()
    """Names of the shared prompts it uses (:class:`EvaluationPrompts`); their hashes are part of a run's identity."""
    own_prompts: ClassVar[Mapping[str, str]] = {}
    """Texts of the prompts that only this protocol uses, by name; their hashes are part of a run's identity too."""
    judged: ClassVar[bool] = False
    """Whether a verdict may need a judge."""
    any_yes: ClassVar[bool] = False
    """Whether to use the published judge: temperature 0.9, and a reply that contains "yes" anywhere counts as yes."""
    max_tokens: ClassVar[int] = 1024
    scores_only: ClassVar[bool] = False
    """Whether an answer is neither right nor wrong and only has scores (:attr:`~chiron.evaluation.items.Verdict.SCORED`)."""
    leaves_out_unparsed: ClassVar[bool] = False
    """Whether the published script leaves unparsed replies out of the count. They count as wrong here; tables show both figures."""
    notes: ClassVar[tuple[str, ...]] = ()
    """Notes below this protocol's table of accuracies."""

    def prompt_hashes(self, prompts: EvaluationPrompts) -> dict[str, str]:
        """Return the SHA-256 (hex) of every prompt it uses, by name."""
        return {**prompts.hashes(self.prompts), **hashes(self.own_prompts)}

    def select(self, items: Sequence[Item | BadItem]) -> tuple[Item | BadItem, ...]:
        """Select the items that count, including bad items of the same kinds."""
        return tuple(item for item in items if self.takes(item))

    def takes(self, item: Item | BadItem) -> bool:
        """Whether this protocol asks the item."""
        return item.id != ""

    def shown(self, item: Item) -> Item:
        """Return the item as it is asked, for example a yes/no question with two options."""
        return item

    def request(self, item: Item, pictures: tuple[ImagePart, ...], prompts: EvaluationPrompts) -> tuple[Message, ...]:
        """Build the messages for the model: the item's own turns if it has any, otherwise this protocol's wording."""
        return own_messages(item, pictures) if item.asked else self.messages(item, pictures, prompts)

    @abstractmethod
    def messages(self, item: Item, pictures: tuple[ImagePart, ...], prompts: EvaluationPrompts) -> tuple[Message, ...]:
        """Build the messages for an item without its own turns; ``item`` is the result of :meth:`shown`."""

    @abstractmethod
    def read(self, item: Item, reply: str, family: ReplyFormat | None) -> ParsedReply:
        """Read the answer from a reply; ``item`` as it was asked."""


def is_closed(item: Item | BadItem) -> bool:
    """Whether the item is a choice, a yes/no question, or marked closed by its source. A bad item needs a known kind."""
    if isinstance(item, BadItem):
        return item.kind in {"choice", "yes_no"}
    return item.kind != "open" or item.labels.get("answer_type", "").upper() == "CLOSED"


def chosen_option(item: Item, reply: str, family: ReplyFormat | None) -> ParsedReply:
    """Read the chosen option from a reply by rule."""
    found = extract(reply, item.options, question=item.question, family=family)
    return UNPARSED if found.index is None else ParsedReply(item.options[found.index], str(found.rule), found.index == item.gold)


def matched_phrase(item: Item, reply: str, family: ReplyFormat | None) -> ParsedReply:
    """Read the final answer's words. They are right if they match a known answer exactly (:func:`exact_match`)."""
    given = final_text(reply, family)
    if given is None:
        return UNPARSED
    return ParsedReply(given, "final answer", any(exact_match(given, known) for known in (item.answer, *item.alternatives)))
