"""The mark ``<image>``: where an image stands in a text. A question that has marks of its own keeps them where they are."""

import itertools
import re
from collections.abc import Sequence
from typing import Final

IMAGE_MARK: Final = "<image>"
"""Stands in a text where an image does; the marks of a text and its images belong together in order."""


def grouped_marks(sizes: Sequence[int]) -> str:
    """Images by modality, worded as for the published models: ``Modality 1: <image>``, one line for each further group.

    Args:
        sizes: How many images each group has.
    """
    return ",\n".join(f"Modality {number}: " + "\n".join([IMAGE_MARK] * size) for number, size in enumerate(sizes, start=1))


def named_marks(text: str) -> str:
    """The text for a reader without images: its marks become ``image 1``, ``image 2`` and so on."""
    numbers = itertools.count(1)
    return re.sub(IMAGE_MARK, lambda _: f"image {next(numbers)}", text)
