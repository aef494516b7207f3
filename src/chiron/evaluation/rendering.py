"""A question put into a message: its words, its lettered options, and its images where their marks stand."""

from collections.abc import Sequence
from dataclasses import replace

from chiron.cases.case import Case
from chiron.cases.image_marks import IMAGE_MARK, named_marks
from chiron.evaluation.item import Item
from chiron.models import placing
from chiron.models.call import Message, Picture, Text
from chiron.models.local.dialogue import Turn
from chiron.models.prompt_texts import fill

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
YES_NO = ("yes", "no")


def with_options(item: Item) -> Item:
    """A yes/no question as a choice of two; any other as it is."""
    if item.kind != "yes_no" or item.options:
        return item
    return replace(item, options=YES_NO, gold=YES_NO.index(item.answer))


def lettered(options: Sequence[str]) -> str:
    """A line ``A. option`` each."""
    return "\n".join(f"{LETTERS[number]}. {option}" for number, option in enumerate(options))


def in_words(item: Item) -> str:
    """Question and options for judges, who see no image: its marks become ``image 1``, ``image 2`` and so on."""
    return named_marks(_question_and_options(item))


def user_message(template: str, item: Item, pictures: Sequence[Picture]) -> Message:
    """The template with ``$question`` and ``$options`` filled, and pictures where the item's marks are.

    Pictures that no mark stands for come first. Without pictures (a control) the marks are left out.
    """
    question, options = (placing.own_marks(text) for text in (item.question, lettered(item.options)))
    return placing.user_message(fill(template, question=question, options=options), pictures)


def own_messages(item: Item, pictures: Sequence[Picture]) -> tuple[Message, ...]:
    """The turns that the item brings, nothing added: what a model trained on its data saw before the answer.

    Args:
        item: One with ``asked`` turns.
        pictures: In the order of the marks. Those that no mark stands for come first; without pictures the marks are left out.
    """
    left = list(pictures)
    unmarked = max(0, len(left) - sum(_marks(turn) for turn in item.asked))
    messages = []
    for turn in item.asked:
        if turn.role != "user":
            messages.append(Message(turn.role, (Text(turn.text),)))
            continue
        count = _marks(turn) + unmarked
        here, left, unmarked = left[:count], left[count:], 0
        messages.append(_exactly(turn.text, here))
    return tuple(messages)


def as_modalities(question: str, images: int) -> str:
    """The question with each of several images announced as ``Modality i``. A question with marks of its own stays as it is."""
    if images < 2 or IMAGE_MARK in question:
        return question
    return "\n".join([*(f"Modality {n}: {IMAGE_MARK}" for n in range(1, images + 1)), question])


def as_case(item: Item) -> Case:
    """The item as a case for the search's interns: they are asked what the model was asked, its images where its marks are."""
    question = "\n\n".join(turn.text for turn in item.asked if turn.role == "user") or _question_and_options(item)
    return Case(id=item.id, question=question, answer=item.answer, images=item.images)


def as_judged(item: Item) -> Case:
    """The item as a case for the search's judge, who sees neither images nor the rest of a conversation."""
    return Case(id=item.id, question=in_words(item), answer=item.answer, images=item.images)


def _exactly(text: str, pictures: Sequence[Picture]) -> Message:
    """A user's turn to the letter: :func:`placing.user_message` would drop blanks at the ends of a text without images."""
    if not pictures:
        return Message("user", (Text(text.replace(IMAGE_MARK, "")),))
    return placing.user_message(placing.own_marks(text), pictures)


def _marks(turn: Turn) -> int:
    return turn.text.count(IMAGE_MARK) if turn.role == "user" else 0


def _question_and_options(item: Item) -> str:
    return "\n".join(part for part in (item.question, lettered(item.options)) if part).strip()
