"""Answers of two models to simulated questions that share images."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SLAKE = 96
"""Number of images in SLAKE's English test split, with 2 to 7 closed questions per image."""


@dataclass(frozen=True)
class Simulated:
    """Correctness of two models' answers; one entry per question."""

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
    """Simulate answers to 2 to 7 questions per image.

    Each model has its own accuracy on each image, drawn from a beta distribution around its mean accuracy. Its answers about one image then
    have the given intra-image correlation. The two models are independent.

    Args:
        random: Random generator.
        images: Number of images.
        first: Accuracy of the first model.
        second: Accuracy of the second model.
        correlation: Correlation of two answers about one image, in (0, 1).
        correlation_of_second: Correlation for the second model, if different.
    """
    image = np.repeat(np.arange(images), random.integers(2, 8, images))

    def answers(accuracy: float, rho: float) -> NDArray[np.int_]:
        weight = 1 / rho - 1
        chance = random.beta(accuracy * weight, (1 - accuracy) * weight, images)
        return (random.random(len(image)) < chance[image]).astype(np.int_)

    return Simulated(answers(first, correlation), answers(second, correlation_of_second or correlation), image)
