"""Protocol ``chiron_judge``: Chiron-o1's published evaluation, a chain of thought and a judge at temperature 0.9 where any "yes" counts.

As in the published script, the judge sees the two answers but not the question. Three things differ. The judge's prompt has other words.
The given answer is the last one in the reply (published: the first). It is put on one line and cut to 600 characters.

Published figures leave out replies without "### The final answer is:". Here such a reply is unparsed and counts as wrong. The figure
without these replies is also in ``results.json``, as ``published_accuracy``.
"""

from collections.abc import Sequence
from dataclasses import replace

from chiron.client.call import ImagePart, Message
from chiron.evaluation.answers.answer_tags import ReplyFormat, Rule
from chiron.evaluation.answers.open_answers import final_text
from chiron.evaluation.config import EvaluationPrompts
from chiron.evaluation.items import BadItem, Item, as_modalities, user_message, with_options
from chiron.evaluation.protocols.protocol import UNPARSED, ParsedReply, Protocol, is_closed


class ChironJudge(Protocol):
    """Asks closed questions; if a benchmark has none, all questions."""

    name = "chiron_judge"
    description = "a chain of thought; its final answer is judged as published"
    prompts = ("chain", "published_judge")
    judged = True
    any_yes = True
    leaves_out_unparsed = True
    notes = (
        "As published, the judge sees both answers but not the question, at temperature 0.9, and any yes in its reply counts.",
        "The judge's prompt has this project's words. It contains the last final answer, cut to 600 characters.",
    )

    def select(self, items: Sequence[Item | BadItem]) -> tuple[Item | BadItem, ...]:
        """Select the items that the published tables count."""
        chosen = tuple(item for item in items if is_closed(item))
        return chosen if any(isinstance(item, Item) for item in chosen) else tuple(items)

    def shown(self, item: Item) -> Item:
        """Turn a yes/no question into a choice. Announce several images as ``Modality n`` unless the item places them itself."""
        item = with_options(item)
        return item if item.asked else replace(item, question=as_modalities(item.question, len(item.images)))

    def messages(self, item: Item, pictures: tuple[ImagePart, ...], prompts: EvaluationPrompts) -> tuple[Message, ...]:
        return (user_message(prompts.own["chain"], item, pictures),)

    def read(self, item: Item, reply: str, family: ReplyFormat | None) -> ParsedReply:
        del item  # the judge reads it
        given = final_text(reply, family or ReplyFormat.CHIRON)
        return UNPARSED if given is None else ParsedReply(given, str(Rule.FINAL_MARK), None)


PROTOCOLS = (ChironJudge(),)
