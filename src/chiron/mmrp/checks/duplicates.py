"""Rows that come again, and images that several patients share."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Final

from chiron.cases.likeness.texts import JACCARD
from chiron.mmrp.checks.finding import Finding
from chiron.mmrp.survey import Survey

_MOST: Final = 50
"""Earlier rows of the same images that a row is compared with."""


def repeated(survey: Survey) -> Iterator[tuple[int, Finding]]:
    """An id a second time; the same words with the very same images a second time. The first of them stays."""
    ids: dict[str, int] = {}
    contents: dict[tuple[int, tuple[str, ...]], int] = {}
    for position, entry in enumerate(survey.entries):
        first = ids.setdefault(entry.id, position)
        if first != position:
            yield position, Finding("duplicates", entry.id, "its id is taken by an earlier row")
            continue
        first = contents.setdefault((entry.text, _files(survey, position)), position)
        if first != position:
            yield position, Finding("duplicates", entry.id, f"says what '{survey.entries[first].id}' says, with the same images")


def nearly_repeated(survey: Survey) -> Iterator[tuple[int, int, Finding]]:
    """Nearly the same words with nearly the same images, or without any: position, position of an earlier row like it, finding.

    Words alone are no duplicate where images differ: a hundred normal chests may be described alike. So rows with images are compared
    where their images are alike, rows without where their words may be. A row is found once.
    """
    by_images: dict[tuple[int, ...], list[int]] = defaultdict(list)
    by_text: dict[int, int] = {}
    for position, entry in enumerate(survey.entries):
        if entry.images:
            by_images[tuple(sorted({int(survey.image_groups[i]) for i in entry.images}))].append(position)
        else:
            by_text.setdefault(entry.text, position)
    found: set[int] = set()
    for group in by_images.values():
        for at, later in enumerate(group):
            like = ((earlier, _likeness(survey, earlier, later)) for earlier in group[max(0, at - _MOST) : at])
            near = next(((earlier, index) for earlier, index in like if index >= JACCARD), None)
            if near is not None and not _same(survey, near[0], later):
                yield later, near[0], _near(survey, later, *near)
    for a, b, index in survey.texts.near(by_text):
        earlier, later = sorted((by_text[a], by_text[b]))
        if later not in found:
            found.add(later)
            yield later, earlier, _near(survey, later, earlier, index)


def shared(survey: Survey) -> Iterator[tuple[int, Finding]]:
    """An image under a second patient: the same person twice, or a stock picture."""
    owners: dict[int, str] = {}
    for position, entry in enumerate(survey.entries):
        for image in entry.images:
            owner = owners.setdefault(int(survey.image_groups[image]), entry.patient)
            if owner != entry.patient:
                name = survey.names[image][1]
                yield position, Finding("shared_images", entry.id, f"image '{name}' is nearly one of patient '{owner}'", "warning")
                break


def _near(survey: Survey, later: int, earlier: int, index: float) -> Finding:
    return Finding("near_duplicates", survey.entries[later].id, f"like '{survey.entries[earlier].id}' ({index:.2f})", "warning")


def _likeness(survey: Survey, a: int, b: int) -> float:
    one, other = survey.entries[a].text, survey.entries[b].text
    return 1.0 if one == other else survey.texts.likeness(one, other)


def _same(survey: Survey, a: int, b: int) -> bool:
    """Equal in words and images: a duplicate, and told as one."""
    return survey.entries[a].text == survey.entries[b].text and _files(survey, a) == _files(survey, b)


def _files(survey: Survey, position: int) -> tuple[str, ...]:
    """Its images by their SHA-256; one that cannot be opened is like itself only."""
    return tuple(sorted(taken.sha256 if (taken := survey.prints[i]) else f"?{i}" for i in survey.entries[position].images))
