"""Protocol ``huatuo_closed``: closed questions only, zero-shot, answered with a letter and read by rule, as in HuatuoGPT-Vision."""

from typing import ClassVar

from chiron.client.call import ImagePart, Message
from chiron.evaluation.answers.answer_tags import ReplyFormat
from chiron.evaluation.config import EvaluationPrompts
from chiron.evaluation.items import BadItem, Item, user_message, with_options
from chiron.evaluation.protocols.protocol import ParsedReply, Protocol, chosen_option, is_closed, matched_phrase


class HuatuoClosed(Protocol):
    """A yes/no question is a choice of two. A closed question without options asks for a phrase, which must match the known one."""

    name: ClassVar[str] = "huatuo_closed"
    description: ClassVar[str] = "closed questions, answered with a letter, read by rule"
    prompts: ClassVar[tuple[str, ...]] = ("choice", "short")

    def takes(self, item: Item | BadItem) -> bool:
        """Whether the item is a closed question."""
        return is_closed(item)

    def shown(self, item: Item) -> Item:
        """Turn a yes/no question into a choice."""
        return with_options(item)

    def messages(self, item: Item, pictures: tuple[ImagePart, ...], prompts: EvaluationPrompts) -> tuple[Message, ...]:
        """Ask for the letter of an option, or for a phrase if there are no options."""
        return (user_message(prompts.own["choice" if item.options else "short"], item, pictures),)

    def read(self, item: Item, reply: str, family: ReplyFormat | None) -> ParsedReply:
        """Read the option, or the phrase, by rule."""
        return chosen_option(item, reply, family) if item.options else matched_phrase(item, reply, family)


PROTOCOLS = (HuatuoClosed(),)
