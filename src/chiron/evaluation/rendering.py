"""A question put into a message: its words, its lettered options, and its images where their marks stand."""

from collections.abc import Sequence
from dataclasses import replace

from chiron.cases.case import Case
from chiron.evaluation.item import Item
from chiron.models.call import Message, Picture, Text
from chiron.models.prompt_texts import fill

MARK = "<image>"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_HOLE = "\x00chiron:image\x00"
"""A mark of the item's own, while a template is filled: one that a prompt or a model's text holds is not taken for it."""
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
    """Question and options without image marks: for judges, who see no image."""
    return "\n".join(part for part in (item.question, lettered(item.options)) if part).replace(MARK, "").strip()


def user_message(template: str, item: Item, pictures: Sequence[Picture]) -> Message:
    """The template with ``$question`` and ``$options`` filled, and pictures where the item's marks stand.

    Pictures that no mark stands for come first. Without pictures (a control) the marks are left out.
    """
    question, options = (text.replace(MARK, _HOLE) for text in (item.question, lettered(item.options)))
    pieces = fill(template, question=question, options=options).split(_HOLE)
    first = len(pictures) - (len(pieces) - 1)
    if first < 0:
        return Message("user", (*pictures, *_texts("".join(pieces))))
    parts: list[Text | Picture] = [*pictures[:first], *_texts(pieces[0])]
    for picture, piece in zip(pictures[first:], pieces[1:], strict=True):
        parts += [picture, *_texts(piece)]
    return Message("user", tuple(parts))


def _texts(piece: str) -> tuple[Text, ...]:
    return (Text(piece.strip()),) if piece.strip() else ()


def as_modalities(question: str, images: int) -> str:
    """The question with each of several images announced as ``Modality i``, in its text where marks stand, else before it."""
    if images < 2:
        return question
    marks = question.count(MARK)
    if not marks:
        return "\n".join([*(f"Modality {n}: {MARK}" for n in range(1, images + 1)), question])
    pieces = question.split(MARK)
    announced = [f"{piece}Modality {n}: {MARK}" for n, piece in enumerate(pieces[:-1], start=images - marks + 1)]
    return "".join([*announced, pieces[-1]])


def as_case(item: Item) -> Case:
    """The item as a case, for whatever the search's interns and judge are asked about it."""
    return Case(id=item.id, question=in_words(item), answer=item.answer, images=item.images)
