"""One case from its number: who comes, with what, what is said, and what is seen."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from chiron.cases.case import Case
from chiron.phantom import wording
from chiron.phantom.drawing import MODALITIES, draw
from chiron.phantom.places import PLACES
from chiron.phantom.world import COMBINATIONS, Attributes, World

_WORDS, _PICTURES, _LESIONS = range(3)  # of one seed, generators that know nothing of each other


@dataclass(frozen=True)
class Casting:
    """A case and what is needed to draw it."""

    case: Case
    attributes: Attributes
    """The truth. The case's ``meta["attributes"]`` says it too."""
    modality: str
    seed: tuple[int, ...]
    """Of the generator that draws the pictures."""
    size: int
    """Pixels a side."""

    def pictures(self) -> Iterator[tuple[str, NDArray[np.uint8]]]:
        """Each image's path, as the case names it, and its tones, shape (size, size)."""
        for view, path in enumerate(self.case.images):
            rng = np.random.default_rng(self.seed)
            yield path, draw(self.modality, self.attributes, rng, self.size, view=view)


def cast(world: World, index: int, *, seed: int, size: int, among: Sequence[Attributes] = COMBINATIONS, name: str = "phantom") -> Casting:
    """The case of that number. It depends on nothing but the arguments.

    Modalities take turns from case to case; every ``len(among)`` cases, each of these combinations of attributes occurs once; one case
    in four or so has two images.

    Args:
        world: what leads from attributes to the answer.
        index: of the case, from 0.
        seed: of the series of cases, not negative.
        size: pixels a side of its images.
        among: the combinations of attributes that occur.
        name: what its id begins with.
    """
    place = PLACES[modality := MODALITIES[index % len(MODALITIES)]]
    block, position = divmod(index, len(among))
    shuffled = np.random.default_rng([seed, block, _LESIONS]).permutation(len(among))
    attributes = among[shuffled[position]]
    rng = np.random.default_rng([seed, index, _WORDS])
    complaint = place.complaints[int(rng.integers(len(place.complaints)))]
    age = int(rng.integers(complaint.youngest, complaint.oldest + 1))
    sex = place.sexes[int(rng.integers(len(place.sexes)))]
    images = 2 if rng.random() < 0.25 else 1
    case_id = f"{name}-{index:06d}"
    case = Case(
        id=case_id,
        question=wording.question(rng),
        answer=world.diagnose(attributes),
        images=tuple(f"{case_id}/{modality.lower()}_group1/{view}.png" for view in range(images)),
        history=wording.history(complaint, age, sex, rng),
        findings=wording.findings(attributes, place, images, rng),
        age=f"{age} years",
        sex=sex,
        modality=modality,
        body_system=place.body_system,
        meta=MappingProxyType({"attributes": attributes.to_record(), "image_size": size}),
    )
    return Casting(case, attributes, modality, (seed, index, _PICTURES), size)
