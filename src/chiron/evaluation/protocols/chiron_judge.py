"""``chiron_judge``: the published evaluation of Chiron-o1: a chain of thought, then a judge at temperature 0.9 whose any "yes" counts.

The judge sees the two answers and not the question, as in the published script. What differs: its prompt has other words, the given
answer is the last one in the reply (published: the first), on one line and cut to 600 characters.

Published figures leave a reply without "### The final answer is:" out of the count. Here such a reply is unparsed, and wrong; the figure
without them stands beside it in ``results.json`` as ``published_accuracy``.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from chiron.client.call import ImagePart, Message
from chiron.evaluation.answers.answer_tags import ReplyFormat, Rule
from chiron.evaluation.answers.open_answers import final_text
from chiron.evaluation.config import EvaluationPrompts
from chiron.evaluation.items import BadItem, Item, as_modalities, user_message, with_options
from chiron.evaluation.protocols.protocol import Finding, Protocol, closed


class ChironJudge(Protocol):
    """Closed questions; of a benchmark that has none, all."""

    name: ClassVar[str] = "chiron_judge"
    words: ClassVar[str] = "a chain of thought, its final answer judged as published"
    prompts: ClassVar[tuple[str, ...]] = ("chain", "published_judge")
    judged: ClassVar[bool] = True
    any_yes: ClassVar[bool] = True
    max_tokens: ClassVar[int] = 1024

    def select(self, items: Sequence[Item | BadItem]) -> tuple[Item | BadItem, ...]:
        """What the published tables count."""
        chosen = tuple(item for item in items if closed(item))
        return chosen if any(isinstance(item, Item) for item in chosen) else tuple(items)

    def shown(self, item: Item) -> Item:
        """A yes/no question as a choice; several images as ``Modality 1``, ``Modality 2`` and so on, unless the item places them itself."""
        item = with_options(item)
        return item if item.asked else replace(item, question=as_modalities(item.question, len(item.images)))

    def messages(self, item: Item, pictures: tuple[ImagePart, ...], prompts: EvaluationPrompts) -> tuple[Message, ...]:
        """Steps and a final answer are asked for."""
        return (user_message(prompts.own["chain"], item, pictures),)

    def read(self, item: Item, reply: str, family: ReplyFormat | None) -> Finding:
        """The last final answer; what it means the judge says."""
        del item  # the judge reads it
        given = final_text(reply, family or ReplyFormat.CHIRON)
        return Finding(given, str(Rule.UNPARSED if given is None else Rule.FINAL_MARK), None if given is not None else False)
