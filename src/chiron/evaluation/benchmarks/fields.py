"""Fields of published records as they are found: options as strings, answers by letter, index or text."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from chiron.cases import choices
from chiron.cases.image_marks import IMAGE_MARK
from chiron.evaluation.benchmarks.benchmark import BadRecord
from chiron.evaluation.item import Item
from chiron.evaluation.rendering import LETTERS
from chiron.models.local.dialogue import Turn
from chiron.models.offline.matching import normalise

UNKNOWN = "?"
"""What stands for an answer that is not given away."""
_NUMBERED_MARK = re.compile(r"<image\s{0,9}([0-9]{1,4})>")
"""More digits are no number of an image."""


def read_options(value: Any) -> tuple[str, ...]:
    """Options as a list, a mapping by letter, ``[{letter, content}]``, or any of them written as a string (Python or JSON); never run.

    Raises:
        BadRecord: they are none of these, or one is empty.
    """
    try:
        return choices.read_options(value)
    except ValueError as problem:
        raise BadRecord(str(problem)) from problem


def gold_by_letter(letter: Any, options: Sequence[str]) -> int:
    """Index of the option that a letter names.

    Raises:
        BadRecord: no option has it.
    """
    if isinstance(letter, list | tuple) and len(letter) == 1:
        letter = letter[0]
    index = LETTERS.find(str(letter).strip().upper()) if len(str(letter).strip()) == 1 else -1
    if not 0 <= index < len(options):
        raise BadRecord(f"its answer is {str(letter)[:60]!r}, which is none of its {len(options)} options")
    return index


def gold_by_text(answer: str, options: Sequence[str]) -> int:
    """Index of the option that says the same as the answer, word for word or after normalisation.

    Raises:
        BadRecord: none does, or two do.
    """
    for same in (lambda a, b: a.strip() == b.strip(), lambda a, b: normalise(a) == normalise(b)):
        found = [n for n, option in enumerate(options) if same(option, answer)]
        if len(found) == 1:
            return found[0]
        if len(found) > 1:
            raise BadRecord(f"its answer {answer[:60]!r} is two of its options")
    raise BadRecord(f"its answer {answer[:60]!r} is none of its {len(options)} options")


def yes_or_no(answer: str) -> str | None:
    """``yes`` or ``no`` if the answer is nothing else, else ``None``."""
    word = answer.strip().strip(".").lower()
    return word if word in {"yes", "no"} else None


def with_marks(texts: Sequence[str], numbered: Mapping[int, str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Texts whose ``<image n>`` became ``<image>``, and the images in the order of those marks; unmarked images come before all.

    Raises:
        BadRecord: a mark has no image.
    """
    order = [int(n) for text in texts for n in _NUMBERED_MARK.findall(text)]
    if lost := [n for n in order if n not in numbered]:
        raise BadRecord(f"its text speaks of image {lost[0]}, which is not there")
    unmarked = [name for n, name in sorted(numbered.items()) if n not in order]
    return tuple(_NUMBERED_MARK.sub(IMAGE_MARK, text) for text in texts), (*unmarked, *(numbered[n] for n in order))


def choice(
    name: str,
    question: str,
    options: Sequence[str],
    gold: int,
    images: tuple[str, ...],
    labels: Mapping[str, str] | None = None,
    group: str = "",
    asked: tuple[Turn, ...] = (),
) -> Item:
    """A question with options; with ``yes`` and ``no`` for options it is a yes/no question.

    Raises:
        BadRecord: there are too few options, more than letters, or two are the right one.
    """
    if not 2 <= len(options) <= len(LETTERS):
        raise BadRecord(f"it has {len(options)} options; a choice has 2 to {len(LETTERS)}")
    # Two wrong options may be the same, as they are now and then in published data: the right one can be chosen all the same.
    if options.count(options[gold]) > 1:
        raise BadRecord("two of its options are the same as its answer")
    polar = sorted(yes_or_no(option) or "" for option in options) == ["no", "yes"]
    return Item(
        name,
        question,
        yes_or_no(options[gold]) or "" if polar else options[gold],
        images,
        tuple(options),
        gold,
        "yes_no" if polar else "choice",
        group or " ".join(images),
        dict(labels or {}),
        asked,
    )
