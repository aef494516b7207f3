"""Image groups: which of a case's images belong together, and of what modality they are.

A group is a folder, ``ID/ct_group1/0.png``, as the published cases have it; images that lie in no such folder are one group.
"""

from dataclasses import dataclass
from pathlib import PurePosixPath

from chiron.cases.case import Case
from chiron.cases.modalities import modalities_of_case


@dataclass(frozen=True, slots=True)
class Group:
    """Images that belong together."""

    name: str
    """Of the folder; empty where there is none."""
    numbers: tuple[int, ...]
    """Of its images among the case's, from 1: what findings call them."""
    images: tuple[str, ...]
    modality: str | None
    """By its name in :mod:`chiron.cases.modalities`; ``None`` where nothing tells."""


def groups_of(case: Case) -> tuple[Group, ...]:
    """A case's image groups, in the order of their first images."""
    numbers: dict[str, list[int]] = {}
    for number, image in enumerate(case.images, start=1):
        numbers.setdefault(PurePosixPath(image).parent.name, []).append(number)
    return tuple(_group(case, name, tuple(members), alone=len(numbers) == 1) for name, members in numbers.items())


def modalities_shown(case: Case) -> tuple[str, ...]:
    """The modalities of a case, by name; none where nothing tells."""
    return tuple(modality.name for modality in modalities_of_case(case))


def _group(case: Case, name: str, numbers: tuple[int, ...], *, alone: bool) -> Group:
    images = tuple(case.images[n - 1] for n in numbers)
    # By the folder's name first: of a case of two modalities the metadata says which two, and not which is which.
    of_folder = modalities_of_case(Case(case.id, "", "", images))
    found = of_folder or (modalities_of_case(case) if alone else ())
    return Group(name, numbers, images, found[0].name if len(found) == 1 else None)
