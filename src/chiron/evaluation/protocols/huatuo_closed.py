"""Protocol ``huatuo_closed``: closed questions only, zero-shot, answered with a letter and read by rule, as in HuatuoGPT-Vision."""

from chiron.client.call import ImagePart, Message
from chiron.evaluation.answers.answer_tags import ReplyFormat
from chiron.evaluation.config import EvaluationPrompts
from chiron.evaluation.items import BadItem, Item, user_message, with_options
from chiron.evaluation.protocols.protocol import ParsedReply, Protocol, chosen_option, is_closed, matched_phrase


class HuatuoClosed(Protocol):
    """A yes/no question is a choice of two. A closed question without options asks for a phrase, which must match the known one."""

    name = "huatuo_closed"
    description = "closed questions, answered with a letter, read by rule"
    prompts = ("choice", "short")

    def takes(self, item: Item | BadItem) -> bool:
        return is_closed(item)

    def shown(self, item: Item) -> Item:
        return with_options(item)

    def messages(self, item: Item, pictures: tuple[ImagePart, ...], prompts: EvaluationPrompts) -> tuple[Message, ...]:
        return (user_message(prompts.own["choice" if item.options else "short"], item, pictures),)

    def read(self, item: Item, reply: str, family: ReplyFormat | None) -> ParsedReply:
        return chosen_option(item, reply, family) if item.options else matched_phrase(item, reply, family)


PROTOCOLS = (HuatuoClosed(),)
