"""Protocol ``report``: write a radiology report. A report is not right or wrong; it is measured by scores only."""

from chiron.client.call import ImagePart, Message
from chiron.conversation.markup import own_turn, said
from chiron.evaluation.answers.answer_tags import ReplyFormat
from chiron.evaluation.answers.open_answers import final_text
from chiron.evaluation.config import EvaluationPrompts
from chiron.evaluation.items import BadItem, Item, user_message
from chiron.evaluation.protocols.protocol import ParsedReply, Protocol


class Report(Protocol):
    """Asks open questions. The whole reply is the report, or what follows its final-answer mark."""

    name = "report"
    description = "reports, measured by scores only"
    prompts = ("report",)
    scores_only = True
    notes = ("A report is not right or wrong, so there is no accuracy.",)

    def takes(self, item: Item | BadItem) -> bool:
        return item.kind in {"open", None}

    def messages(self, item: Item, pictures: tuple[ImagePart, ...], prompts: EvaluationPrompts) -> tuple[Message, ...]:
        return (user_message(prompts.own["report"], item, pictures),)

    def read(self, item: Item, reply: str, family: ReplyFormat | None) -> ParsedReply:
        """Take the report from the reply, without thinking and steps."""
        del item
        marked = final_text(reply, family or ReplyFormat.CHIRON)
        given = marked or own_turn(said(reply)).strip() or None
        return ParsedReply(given, "unparsed" if given is None else "final answer" if marked else "whole reply", None)


PROTOCOLS = (Report(),)
