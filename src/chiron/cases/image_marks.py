"""The ``<image>`` mark, which shows where an image belongs in a text. Marks already in a question keep their positions."""

import itertools
import re
from collections.abc import Sequence
from typing import Final

IMAGE_MARK: Final = "<image>"
"""Placeholder for an image in a text. Marks and images correspond in order."""


def grouped_marks(sizes: Sequence[int]) -> str:
    """Format image groups as the published models expect: ``Modality 1: <image>``, one line per further group.

    Args:
        sizes: number of images in each group.
    """
    return ",\n".join(f"Modality {number}: " + "\n".join([IMAGE_MARK] * size) for number, size in enumerate(sizes, start=1))


def named_marks(text: str) -> str:
    """Replace image marks with ``image 1``, ``image 2`` and so on, for readers who cannot see the images."""
    numbers = itertools.count(1)
    return re.sub(IMAGE_MARK, lambda _: f"image {next(numbers)}", text)
