"""Protocol ``exact``: ask as the search asks an intern, and match the final answer exactly (``answers/open_answers.py``)."""

from chiron.client.call import ImagePart, Message
from chiron.evaluation.answers.answer_tags import ReplyFormat
from chiron.evaluation.config import EvaluationPrompts
from chiron.evaluation.items import Item, as_case
from chiron.evaluation.protocols.protocol import ParsedReply, Protocol, chosen_option, matched_phrase


class Exact(Protocol):
    """For the miniature and for data whose answers are a few fixed words. Choices are read by rule."""

    name = "exact"
    description = "asked as the search asks an intern; open answers by exact match"
    prompts = ("intern_system", "intern")

    def messages(self, item: Item, pictures: tuple[ImagePart, ...], prompts: EvaluationPrompts) -> tuple[Message, ...]:
        return prompts.search.intern(as_case(item), pictures, ())

    def read(self, item: Item, reply: str, family: ReplyFormat | None) -> ParsedReply:
        return chosen_option(item, reply, family) if item.options else matched_phrase(item, reply, family)


PROTOCOLS = (Exact(),)
