"""Contamination check: look up a benchmark's images and questions in the training data."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice

from chiron.cases.image_marks import IMAGE_MARK
from chiron.cases.images import ImageFile, ImageFolder, ImageProblem
from chiron.dedup.image_hash import DISTANCE, ImagePrint, hashes_and_looks, look_alike, print_image, print_images
from chiron.dedup.linking import near_matches
from chiron.dedup.near_texts import TextIndex
from chiron.evaluation.items import Item
from chiron.text import normalize_words

ROWS_SHOWN = 5
"""Training rows named per kind of match; all of them are counted."""
NEAR_QUESTION = 0.7
"""Jaccard index of shingles from which two questions are near. One changed word in twenty gives this value; 99% of such pairs are found."""
_OPTION = re.compile(r"^[ \t]*(?:\(?[A-Ha-h][.):]|options?\b|(?:answer )?choices\b)", re.MULTILINE | re.IGNORECASE)


class Likeness(StrEnum):
    """How an item matches the training data."""

    SAME_IMAGE = "same image"
    """The same file, by SHA-256."""
    NEAR_IMAGE = "near image"
    """A close perceptual hash and nearly the same thumbnail: most likely the same picture in another size, format or quality."""
    SAME_TEXT = "same question"
    """The same words after normalization. ``What is seen here?`` means little; a whole vignette means much."""
    NEAR_TEXT = "near question"
    """Most shingles (runs of three words) are shared."""


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """The parts of a training row that are compared."""

    id: str
    images: tuple[str, ...]
    """Relative to the training data's image folder."""
    asked: tuple[str, ...]
    """The texts of the user turns, one per turn."""


@dataclass(frozen=True, slots=True)
class Overlap:
    """One item found in the training data in one way."""

    item: str
    likeness: Likeness
    distance: float
    """Distance of the nearest row: bits of 64 for images, 1 minus the Jaccard index for texts. 0 means identical."""
    rows: tuple[str, ...]
    """Ids of the nearest training rows, at most ``ROWS_SHOWN``."""
    of_rows: int
    """Number of all matching rows."""
    detail: str
    """The item's image, or its question."""


@dataclass(frozen=True)
class Contamination:
    """All matches between a benchmark and the training data."""

    rows: int
    items: int
    overlaps: tuple[Overlap, ...]
    """In the order of the items."""
    both: tuple[str, ...]
    """Items whose image and question are both in one training row: the model most likely saw the answer."""
    unreadable: tuple[str, ...]
    """Images of either side that could not be read, and why. Their content may overlap too."""

    def found(self, likeness: Likeness) -> int:
        """Return the number of items found in this way."""
        return len({overlap.item for overlap in self.overlaps if overlap.likeness == likeness})

    @property
    def touched(self) -> int:
        """Number of items found in any way."""
        return len({overlap.item for overlap in self.overlaps})


def find_contamination(
    rows: Iterable[TrainingRow],
    row_images: ImageFolder,
    items: Sequence[Item],
    check: Callable[[str], ImageFile],
    *,
    distance: int = DISTANCE,
    jaccard: float = NEAR_QUESTION,
) -> Contamination:
    """Search the training rows for every item's images and question.

    Args:
        rows: rows of the training data.
        row_images: folder of their images.
        items: items of the benchmark.
        check: finds an image of the benchmark and unpacks it if needed; raises ``ImageProblem``.
        distance: how many of 64 bits two perceptual hashes may differ in.
        jaccard: Jaccard index of shingles from which two questions are near.

    Raises:
        InputError: a package of the extra ``data`` is missing.
        DiskError: there is no space for the index of texts.
    """
    kept = list(rows)
    unreadable: list[str] = []
    by_image = _image_overlaps(kept, row_images, items, check, distance, unreadable)
    by_text = _text_overlaps(kept, items, jaccard)
    overlaps: list[Overlap] = []
    both: list[str] = []
    for item in items:
        seen, asked = by_image.get(item.id, []), by_text[item.id]
        detail = " ".join(item.question.split())
        overlaps += [*_overlaps(item, seen), *(Overlap(item.id, *way, detail) for way in asked.ways)]
        if not asked.rows.isdisjoint(hit.row for hit in seen):
            both.append(item.id)
    return Contamination(len(kept), len(items), tuple(overlaps), tuple(both), tuple(unreadable))


@dataclass(frozen=True, slots=True)
class _Hit:
    row: int
    name: str
    """The row's id."""
    distance: float
    same: bool
    detail: str

    @property
    def likeness(self) -> Likeness:
        return Likeness.SAME_IMAGE if self.same else Likeness.NEAR_IMAGE


@dataclass(frozen=True, slots=True)
class _Asked:
    """Rows that ask the same as some wordings. Items with the same wordings share one object: thousands may ask a common question."""

    ways: tuple[tuple[Likeness, float, tuple[str, ...], int], ...]
    """As in :class:`Overlap`: likeness, distance of the nearest, ids of some rows, number of rows."""
    rows: frozenset[int]


def _overlaps(item: Item, hits: Sequence[_Hit]) -> Iterator[Overlap]:
    ways: defaultdict[tuple[Likeness, str], dict[str, float]] = defaultdict(dict)
    counted: set[tuple[str, int]] = set()
    for hit in sorted(hits, key=lambda h: (h.distance, h.row)):
        # Count a row once, by its nearest match.
        if (hit.detail, hit.row) not in counted:
            counted.add((hit.detail, hit.row))
            ways[hit.likeness, hit.detail][hit.name] = hit.distance
    for (likeness, detail), found in ways.items():
        yield Overlap(item.id, likeness, min(found.values()), tuple(found)[:ROWS_SHOWN], len(found), detail)


def _image_overlaps(
    rows: Sequence[TrainingRow],
    folder: ImageFolder,
    items: Sequence[Item],
    check: Callable[[str], ImageFile],
    distance: int,
    unreadable: list[str],
) -> dict[str, list[_Hit]]:
    names = list(dict.fromkeys(name for row in rows for name in row.images))
    rows_of: defaultdict[str, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        for name in dict.fromkeys(row.images):
            rows_of[name].append(number)
    train: dict[str, ImagePrint] = {}
    for name, taken in zip(names, print_images(folder, names), strict=True):
        if isinstance(taken, ImagePrint):
            train[name] = taken
        else:
            unreadable.append(f"training data: {taken}")
    bench = _bench_prints(items, check, unreadable)
    near = _near_images(train, bench, distance)
    return {
        item.id: [
            _Hit(number, rows[number].id, bits, same, image)
            for image in dict.fromkeys(item.images)
            for name, (bits, same) in near.get(image, {}).items()
            for number in rows_of[name]
        ]
        for item in items
    }


def _bench_prints(items: Sequence[Item], check: Callable[[str], ImageFile], unreadable: list[str]) -> dict[str, ImagePrint]:
    prints = {}
    for name in dict.fromkeys(name for item in items for name in item.images):
        try:
            path = check(name).path
            prints[name] = print_image(ImageFolder(path.parent), path.name)
        except ImageProblem as problem:
            unreadable.append(f"benchmark: {problem}")
    return prints


def _near_images(
    train: Mapping[str, ImagePrint], bench: Mapping[str, ImagePrint], distance: int
) -> dict[str, dict[str, tuple[float, bool]]]:
    """Map each image of the benchmark to the similar training images: (bits, whether it is the same file)."""
    by_file: defaultdict[str, list[str]] = defaultdict(list)
    for name, taken in train.items():
        by_file[taken.sha256].append(name)
    asked: dict[str, list[str]] = {}
    found: dict[str, dict[str, tuple[float, bool]]] = {}
    for name, taken in bench.items():
        found[name] = dict.fromkeys(by_file.get(taken.sha256, ()), (0.0, True))
        asked.setdefault(taken.sha256, []).append(name)
    # Compare each file once. The hash finds candidates and the thumbnail decides: many different chest images share a hash.
    mine = [bench[names[0]] for names in asked.values() if bench[names[0]].phash is not None]
    known = [train[names[0]] for names in by_file.values() if train[names[0]].phash is not None]
    (ours, looks), (theirs, their_looks) = hashes_and_looks(mine), hashes_and_looks(known)
    for pairs in near_matches(ours, theirs, distance):
        for i, j in look_alike(looks, their_looks, pairs).tolist():
            bits = (int(ours[i]) ^ int(theirs[j])).bit_count()
            for name in asked[mine[i].sha256]:
                for other in by_file[known[j].sha256]:
                    found[name].setdefault(other, (float(bits), False))
    return found


def _text_overlaps(rows: Sequence[TrainingRow], items: Sequence[Item], jaccard: float) -> dict[str, _Asked]:
    index = TextIndex()
    try:
        rows_of: defaultdict[int, dict[int, None]] = defaultdict(dict)
        for number, row in enumerate(rows):
            for text in dict.fromkeys(wording for asked in row.asked for wording in _wordings(asked)):
                rows_of[index.add(text)][number] = None
        texts_of: dict[str, frozenset[int]] = {}
        for item in items:
            wordings = (*_wordings(item.question), *_wordings("\n".join((item.question, *item.options))))
            texts_of[item.id] = frozenset(index.add(text) for text in dict.fromkeys(wordings))
        asked_texts = frozenset[int]().union(*texts_of.values())
        known: defaultdict[int, list[tuple[float, int]]] = defaultdict(list)
        for number in asked_texts & rows_of.keys():
            known[number].append((0.0, number))
        for asked_text, row_text, likeness in index.near(asked_texts, rows_of, jaccard=jaccard):
            # Texts with the same shingles in another order have index 1 but are not the same text.
            known[asked_text].append((max(1 - likeness, 1e-6), row_text))
        summed = {texts: _asked(rows, rows_of, [found for text in texts for found in known[text]]) for texts in set(texts_of.values())}
        return {item.id: summed[texts_of[item.id]] for item in items}
    finally:
        index.close()


def _asked(rows: Sequence[TrainingRow], rows_of: Mapping[int, Mapping[int, None]], known: Sequence[tuple[float, int]]) -> _Asked:
    nearest: dict[int, float] = {}
    for apart, text in sorted(known):
        for number in rows_of[text]:
            # Count a row once, by its nearest match.
            nearest.setdefault(number, apart)
    ways: defaultdict[Likeness, dict[str, float]] = defaultdict(dict)
    for number, apart in sorted(nearest.items(), key=lambda pair: (pair[1], pair[0])):
        ways[Likeness.NEAR_TEXT if apart else Likeness.SAME_TEXT].setdefault(rows[number].id, apart)
    told = ((likeness, min(found.values()), tuple(islice(found, ROWS_SHOWN)), len(found)) for likeness, found in ways.items())
    return _Asked(tuple(told), frozenset(nearest))


def _wordings(text: str) -> Iterator[str]:
    """Yield the question as written, and without the options after it. Image marks are removed; texts without a word are left out."""
    text = text.replace(IMAGE_MARK, " ")
    options = _OPTION.search(text)
    for wording in (text, text[: options.start()] if options else ""):
        if normalize_words(wording):
            yield wording
