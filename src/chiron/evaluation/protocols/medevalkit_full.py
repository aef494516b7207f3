"""Protocol ``medevalkit_full``: all questions; closed ones are read by rule, open ones are compared by a judge."""

from chiron.client.call import ImagePart, Message
from chiron.evaluation.answers.answer_tags import ReplyFormat
from chiron.evaluation.answers.open_answers import final_text
from chiron.evaluation.answers.yes_no import yes_no
from chiron.evaluation.config import EvaluationPrompts
from chiron.evaluation.items import Item, user_message
from chiron.evaluation.protocols.protocol import UNPARSED, ParsedReply, Protocol, chosen_option


class MedEvalKitFull(Protocol):
    """Asks all questions of a benchmark."""

    name = "medevalkit_full"
    description = "open and closed questions; closed ones read by rule, open ones judged"
    prompts = ("choice", "yes_no", "short", "judge_system", "judge")
    judged = True

    def messages(self, item: Item, pictures: tuple[ImagePart, ...], prompts: EvaluationPrompts) -> tuple[Message, ...]:
        name = "choice" if item.options else "yes_no" if item.kind == "yes_no" else "short"
        return (user_message(prompts.own[name], item, pictures),)

    def read(self, item: Item, reply: str, family: ReplyFormat | None) -> ParsedReply:
        if item.options:
            return chosen_option(item, reply, family)
        if item.kind == "yes_no":
            is_yes = yes_no(reply, item.question, family=family)
            word = "yes" if is_yes else "no"
            return UNPARSED if is_yes is None else ParsedReply(word, "yes or no", word == item.answer)
        given = final_text(reply, family)
        return UNPARSED if given is None else ParsedReply(given, "judge", None)


PROTOCOLS = (MedEvalKitFull(),)
