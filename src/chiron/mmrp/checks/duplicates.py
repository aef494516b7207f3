"""Detect duplicate rows, and images shared by several patients."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Final

from chiron.dedup.near_texts import JACCARD
from chiron.mmrp.checks.finding import Finding
from chiron.mmrp.dataset_index import DatasetIndex
from chiron.mmrp.row import SIGNALS

_MOST: Final = 50
"""Maximum number of earlier rows with the same images that a row is compared with."""


def repeated(survey: DatasetIndex) -> Iterator[tuple[int, Finding]]:
    """Yield repeated ids, and rows with identical words and images. The first row of each is kept."""
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


def nearly_repeated(survey: DatasetIndex) -> Iterator[tuple[int, Finding]]:
    """Yield rows with nearly identical words and nearly identical images, or without images.

    Equal words with different images are not duplicates: a hundred normal chests may have the same description. Rows with images are
    compared if their images are similar, rows without images if their words may be. Each row is reported once. In a family of rows
    without images, all but the first are reported, each as similar to another row of the family.
    """
    by_images: dict[tuple[str | int, ...], list[int]] = defaultdict(list)
    by_text: dict[int, int] = {}
    for position, entry in enumerate(survey.entries):
        if entry.images:
            # A training signal contains the same cases as the other parts: compare its rows with one another only.
            part = entry.part if entry.part in SIGNALS else ""
            by_images[part, *sorted({int(survey.image_groups[i]) for i in entry.images})].append(position)
        else:
            by_text.setdefault(entry.text, position)
    for group in by_images.values():
        for at, later in enumerate(group):
            others = (earlier for earlier in group[max(0, at - _MOST) : at] if not _siblings(survey, earlier, later))
            likened = ((earlier, _likeness(survey, earlier, later)) for earlier in others)
            near = next(((earlier, index) for earlier, index in likened if index >= JACCARD), None)
            if near is not None and not _same(survey, near[0], later):
                yield later, _near(survey, later, *near)
    for position, other, share in _from_the_first((by_text[a], by_text[b], index) for a, b, index in survey.text_links):
        yield position, _near(survey, position, other, share)


def shared(survey: DatasetIndex) -> Iterator[tuple[int, Finding]]:
    """Yield images with more than one patient: the same person twice, or a stock image."""
    owners: dict[int, str] = {}
    for position, entry in enumerate(survey.entries):
        for image in entry.images:
            owner = owners.setdefault(int(survey.image_groups[image]), entry.patient)
            if owner != entry.patient:
                name = survey.names[image][1]
                yield position, Finding("shared_images", entry.id, f"image '{name}' is nearly one of patient '{owner}'", "warning")
                break


def _from_the_first(links: Iterable[tuple[int, int, float]]) -> Iterator[tuple[int, int, float]]:
    """Direct the links of each tree toward its smallest member; ordered by member."""
    linked: dict[int, list[tuple[int, float]]] = defaultdict(list)
    for a, b, index in links:
        linked[a].append((b, index))
        linked[b].append((a, index))
    seen: set[int] = set()
    found: list[tuple[int, int, float]] = []
    for first in sorted(linked):
        reached = [] if first in seen else [first]
        seen.add(first)
        for one in reached:
            for other, index in linked[one]:
                if other not in seen:
                    seen.add(other)
                    reached.append(other)  # followed from there later
                    found.append((other, one, index))
    yield from sorted(found)


def _siblings(survey: DatasetIndex, a: int, b: int) -> bool:
    """Whether two rows are signals of one search tree, which share their prompt and often a prefix."""
    one, other = survey.entries[a], survey.entries[b]
    return one.part in SIGNALS and one.case_id == other.case_id


def _near(survey: DatasetIndex, position: int, like: int, index: float) -> Finding:
    return Finding("near_duplicates", survey.entries[position].id, f"like '{survey.entries[like].id}' ({index:.2f})", "warning")


def _likeness(survey: DatasetIndex, a: int, b: int) -> float:
    one, other = survey.entries[a].text, survey.entries[b].text
    return 1.0 if one == other else survey.texts.likeness(one, other)


def _same(survey: DatasetIndex, a: int, b: int) -> bool:
    """Whether two rows are equal in words and images; these are reported as exact duplicates."""
    return survey.entries[a].text == survey.entries[b].text and _files(survey, a) == _files(survey, b)


def _files(survey: DatasetIndex, position: int) -> tuple[str, ...]:
    """Return the SHA-256 of a row's images; an image that cannot be opened is only equal to itself."""
    return tuple(sorted(taken.sha256 if (taken := survey.prints[i]) else f"?{i}" for i in survey.entries[position].images))
