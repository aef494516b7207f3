"""Detect duplicate rows, and images shared by several patients."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Final

from chiron.dedup.low_memory import TextNumbers
from chiron.dedup.near_texts import JACCARD
from chiron.mmrp.checks.check import Check, Finding
from chiron.mmrp.dataset_index import DatasetIndex, IndexedRow
from chiron.mmrp.row import SIGNALS

_MOST: Final = 50
"""Maximum number of earlier rows with the same images that a row is compared with."""


def repeated(index: DatasetIndex) -> Iterator[tuple[int, Finding]]:
    """Yield repeated ids, and rows with identical words and images. The first row of each is kept."""
    ids, contents = TextNumbers(), TextNumbers()
    for position, entry in enumerate(index.entries):
        first = ids.setdefault(entry.id, position)
        if first != position:
            yield position, Finding("duplicates", entry.id, "an earlier row has the same id")
            continue
        first = contents.setdefault(" ".join((str(entry.text), *_files(index, entry))), position)
        if first != position:
            yield position, Finding("duplicates", entry.id, f"the same words and images as '{index.entries[first].id}'")


def nearly_repeated(index: DatasetIndex) -> Iterator[tuple[int, Finding]]:
    """Yield rows with nearly identical words and nearly identical images, or without images.

    Equal words with different images are not duplicates: a hundred normal chests may have the same description. Rows with images are
    compared if their images are similar, rows without images if their words may be. Each row is reported once. In a family of rows
    without images, all but the first are reported, each as similar to another row of the family.
    """
    by_images: dict[tuple[str | int, ...], list[int]] = defaultdict(list)
    linked = {text for a, b, _ in index.text_links for text in (a, b)}
    by_text: dict[int, int] = {}
    for position, entry in enumerate(index.entries):
        if entry.images:
            # A training signal contains the same cases as the other parts: compare its rows with one another only.
            part = entry.part if entry.part in SIGNALS else ""
            by_images[part, *sorted({int(index.image_groups[i]) for i in entry.images})].append(position)
        elif entry.text in linked:
            by_text.setdefault(entry.text, position)
    for group in by_images.values():
        for at, later in enumerate(group):
            others = (earlier for earlier in group[max(0, at - _MOST) : at] if not _same_tree(index, earlier, later))
            compared = ((earlier, _likeness(index, earlier, later)) for earlier in others)
            near = next(((earlier, jaccard) for earlier, jaccard in compared if jaccard >= JACCARD), None)
            if near is not None and not _same(index, near[0], later):
                yield later, _near(index, later, *near)
    for position, other, jaccard in _from_the_first((by_text[a], by_text[b], jaccard) for a, b, jaccard in index.text_links):
        yield position, _near(index, position, other, jaccard)


def shared(index: DatasetIndex) -> Iterator[tuple[int, Finding]]:
    """Yield images with more than one patient: the same person twice, or a stock image."""
    owners: dict[int, str] = {}
    for position, entry in enumerate(index.entries):
        for image in entry.images:
            owner = owners.setdefault(int(index.image_groups[image]), entry.patient)
            if owner != entry.patient:
                name = index.names[image][1]
                yield (
                    position,
                    Finding("shared_images", entry.id, f"image '{name}' is nearly the same as one of patient '{owner}'", "warning"),
                )
                break


def _from_the_first(links: Iterable[tuple[int, int, float]]) -> Iterator[tuple[int, int, float]]:
    """Direct the links of each tree toward its smallest member; ordered by member."""
    linked: dict[int, list[tuple[int, float]]] = defaultdict(list)
    for a, b, jaccard in links:
        linked[a].append((b, jaccard))
        linked[b].append((a, jaccard))
    seen: set[int] = set()
    found: list[tuple[int, int, float]] = []
    for first in sorted(linked):
        reached = [] if first in seen else [first]
        seen.add(first)
        for one in reached:
            for other, jaccard in linked[one]:
                if other not in seen:
                    seen.add(other)
                    reached.append(other)  # followed from there later
                    found.append((other, one, jaccard))
    yield from sorted(found)


def _same_tree(index: DatasetIndex, a: int, b: int) -> bool:
    """Whether two rows are signals of one search tree, which share their prompt and often a prefix."""
    one, other = index.entries[a], index.entries[b]
    return one.part in SIGNALS and one.case_id == other.case_id


def _near(index: DatasetIndex, position: int, like: int, jaccard: float) -> Finding:
    return Finding("near_duplicates", index.entries[position].id, f"similar to '{index.entries[like].id}' ({jaccard:.2f})", "warning")


def _likeness(index: DatasetIndex, a: int, b: int) -> float:
    one, other = index.entries[a].text, index.entries[b].text
    return 1.0 if one == other else index.texts.likeness(one, other)


def _same(index: DatasetIndex, a: int, b: int) -> bool:
    """Whether two rows are equal in words and images; these are reported as exact duplicates."""
    one, other = index.entries[a], index.entries[b]
    return one.text == other.text and _files(index, one) == _files(index, other)


def _files(index: DatasetIndex, entry: IndexedRow) -> tuple[str, ...]:
    """Return the SHA-256 of a row's images; an image that cannot be opened is only equal to itself."""
    return tuple(sorted(taken.sha256 if (taken := index.prints[i]) else f"?{i}" for i in entry.images))


CHECKS = (
    Check("duplicates", "Repeated rows: the same id, or the same words and images", 0.01, look_at_all=repeated),
    Check("near_duplicates", "Nearly the same words with nearly the same images", 0.10, look_at_all=nearly_repeated),
    Check("shared_images", "The same image with several patients", 0.05, look_at_all=shared),
)
