"""Answers of two models to simulated questions that share images."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SLAKE = 96
"""Images of SLAKE's English test split, which has 2 to 7 closed questions about each."""


@dataclass(frozen=True)
class Simulated:
    """Right answers of two models; one entry per question."""

    first: NDArray[np.int_]
    second: NDArray[np.int_]
    image: NDArray[np.int_]


def simulate(
    random: np.random.Generator,
    images: int = SLAKE,
    *,
    first: float = 0.8,
    second: float = 0.8,
    correlation: float = 0.25,
    correlation_of_second: float | None = None,
) -> Simulated:
    """2 to 7 questions about each of the images.

    Each model has a chance of its own on each image, beta-distributed around its accuracy, so that its answers about one image have the
    intra-image correlation given. The two models are independent.

    Args:
        random: what is drawn from.
        images: how many.
        first: accuracy of the first model.
        second: accuracy of the second.
        correlation: of two answers about one image, in (0, 1).
        correlation_of_second: the second model's, if it is another.
    """
    image = np.repeat(np.arange(images), random.integers(2, 8, images))

    def answers(accuracy: float, rho: float) -> NDArray[np.int_]:
        weight = 1 / rho - 1
        chance = random.beta(accuracy * weight, (1 - accuracy) * weight, images)
        return (random.random(len(image)) < chance[image]).astype(np.int_)

    return Simulated(answers(first, correlation), answers(second, correlation_of_second or correlation), image)
