"""Images in messages: put where the marks of a text stand, and read back as the text around them."""

from collections.abc import Sequence

from chiron.cases.image_marks import IMAGE_MARK
from chiron.models.call import Message, Picture, Text

_HOLE = "\x00chiron:image\x00"
"""A mark of the question's own while a template is filled; a mark in a template or in a model's text is only text."""


def own_marks(text: str) -> str:
    """``text`` with its marks as :func:`user_message` looks for them. Templates are filled with it."""
    return text.replace(IMAGE_MARK, _HOLE)


def user_message(body: str, pictures: Sequence[Picture]) -> Message:
    """A user's message with each picture in place of its mark. Pictures without a mark come first.

    A body without marks keeps the form that it always had: pictures, then text. With fewer pictures than marks, all marks are removed.

    Args:
        body: Text whose marks went through :func:`own_marks`.
        pictures: In the order of the marks.
    """
    pieces = body.split(_HOLE)
    first = len(pictures) - (len(pieces) - 1)
    if len(pieces) == 1 or first < 0:
        text = "".join(pieces).strip()
        return Message("user", (*pictures, *([Text(text)] if text else [])))
    gaps = ["", *["\n"] * first]
    gaps[-1] += pieces[0]
    parts: list[Text | Picture] = [Text(gaps[0])]
    for picture, gap in zip(pictures, [*gaps[1:], *pieces[1:]], strict=True):
        parts += [picture, Text(gap)]
    return Message("user", tuple(part for part in parts if part != Text("")), inline=True)


def texts_between(message: Message, beside_image: str) -> tuple[str, ...]:
    """The texts before, between and after the message's images: one text more than there are images.

    Args:
        message: With any parts.
        beside_image: Stands between an image and its neighbors, unless the message has its images ``inline``.
    """
    beside = "" if message.inline else beside_image
    texts = [""]
    before: Text | Picture | None = None
    for part in message.parts:
        words = part.text if isinstance(part, Text) else None
        if words == "":
            continue
        if before is not None:
            texts[-1] += beside if words is None or isinstance(before, Picture) else "\n"
        if words is None:
            texts.append("")
        else:
            texts[-1] += words
        before = part
    return tuple(texts)
