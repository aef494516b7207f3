"""``huatuo_closed``: closed questions only, zero-shot, a letter asked for, read by rule; HuatuoGPT-Vision's way."""

from typing import ClassVar

from chiron.client.call import ImagePart, Message
from chiron.evaluation.answers.answer_tags import ReplyFormat
from chiron.evaluation.config import EvaluationPrompts
from chiron.evaluation.items import BadItem, Item, user_message, with_options
from chiron.evaluation.protocols.protocol import Finding, Protocol, chosen, closed, phrase


class HuatuoClosed(Protocol):
    """A yes/no question is a choice of two; a closed one without options is asked for a phrase, right if it is the known one."""

    name: ClassVar[str] = "huatuo_closed"
    words: ClassVar[str] = "closed questions, a letter asked for, read by rule"
    prompts: ClassVar[tuple[str, ...]] = ("choice", "short")

    def takes(self, item: Item | BadItem) -> bool:
        """Closed questions."""
        return closed(item)

    def shown(self, item: Item) -> Item:
        """A yes/no question as a choice."""
        return with_options(item)

    def messages(self, item: Item, pictures: tuple[ImagePart, ...], prompts: EvaluationPrompts) -> tuple[Message, ...]:
        """Question, options, and the demand for a letter."""
        return (user_message(prompts.own["choice" if item.options else "short"], item, pictures),)

    def read(self, item: Item, reply: str, family: ReplyFormat | None) -> Finding:
        """By rule."""
        return chosen(item, reply, family) if item.options else phrase(item, reply, family)
