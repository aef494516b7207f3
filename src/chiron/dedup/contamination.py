"""Find a benchmark's images and questions in training data.

``chiron build check``, ``chiron build release`` and ``chiron eval contamination`` all use these rules:

* An image matches by file, or by perceptual hash and thumbnail (:mod:`chiron.dedup.image_hash`).
* A question matches by its words, or by a Jaccard index of at least :data:`NEAR_QUESTION`, with or without the options after it.
* A question of fewer than :data:`COMMON_WORDS` words ("Is there a fracture?") matches only in a row that also has an image of its item:
  many data sets ask it independently, so the words alone prove nothing, whereas words and image together are the item itself.
* A question of fewer than :data:`CERTAIN_WORDS` words may still be a coincidence, so its match is not ``certain``.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from chiron.cases.case import IMAGE_MARK
from chiron.cases.choices import lettered
from chiron.cases.images import ImageFolder
from chiron.dedup.image_hash import DISTANCE, ImagePrint, hashes_and_looks, look_alike, near_matches, print_files, print_images
from chiron.dedup.near_texts import TextIndex
from chiron.text import normalize_words

NEAR_QUESTION: Final = 0.7
"""Jaccard index of shingles from which two questions are near. One changed word in twenty gives this value; 99% of such pairs are found."""
COMMON_WORDS: Final = 6
"""Number of words, without options, below which a question alone is not a match."""
CERTAIN_WORDS: Final = 12
"""Number of words, without options, from which a match is not a coincidence."""
ROWS_SHOWN: Final = 5
"""Training rows named per kind of match; all of them are counted."""
_OPTIONS = re.compile(
    r"^[ \t]*(?:(?:options?|(?:answer )?choices)[ \t]*(?::|$)|\(?A[.):](?=.*(?:\n(?![ \t]*\(?A[.):]).*){0,4}\n[ \t]*\(?B[.):]))",
    re.MULTILINE | re.IGNORECASE,
)
"""Start of the options: a heading, or a line of option A that a line of option B follows. "A. fumigatus was cultured." alone is text."""


class Likeness(StrEnum):
    """How an item matches the training data."""

    SAME_IMAGE = "same image"
    """The same file, by SHA-256."""
    NEAR_IMAGE = "near image"
    """A close perceptual hash and nearly the same thumbnail: most likely the same picture in another size, format or quality."""
    SAME_TEXT = "same question"
    """The same words after normalization."""
    NEAR_TEXT = "near question"
    """Most shingles (runs of three words) are shared."""


@dataclass(frozen=True)
class BenchmarkItem:
    benchmark: str
    """Title of the benchmark."""
    id: str
    question: str
    images: tuple[Path, ...] = ()
    options: tuple[str, ...] = ()

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """The question as a training row may contain it: see :func:`wordings`; also with its options."""
        listed = wordings(f"{self.question}\n{lettered(self.options)}") if self.options else ()
        return tuple(dict.fromkeys((*wordings(self.question), *listed)))

    @cached_property
    def words(self) -> int:
        """Number of words of the question without options."""
        return min((len(normalize_words(text).split()) for text in wordings(self.question)), default=0)


def wordings(text: str) -> tuple[str, ...]:
    """Return a question as written, and without the options after it; without image marks. A text without words gives none."""
    text = text.replace(IMAGE_MARK, " ")
    options = _OPTIONS.search(text)
    return tuple(wording for wording in (text, text[: options.start()] if options else "") if normalize_words(wording))


class ImageMatch(NamedTuple):
    """A pair of similar images, by their positions."""

    theirs: int
    """Position of the benchmark's image."""
    ours: int
    """Position of the training image."""
    bits: int
    """Number of differing bits (of 64) of their perceptual hashes."""
    same: bool
    """Whether both are the same file."""


class ImageIndex:
    """Images of the training data, by file and by perceptual hash."""

    def __init__(self, prints: Sequence[ImagePrint | None], distance: int = DISTANCE) -> None:
        """Index the prints; ``None`` stands for an unreadable image. ``distance``: maximum number of differing bits of near images."""
        self._distance = distance
        self._by_file, self._known = _files(prints)
        self._hashes, self._looks = hashes_and_looks(self._known)

    def matches(self, images: Sequence[ImagePrint | None]) -> Iterator[ImageMatch]:
        """Yield every pair of the same file, then every pair of near images; the latter may repeat."""
        by_file, asked = _files(images)
        for sha256 in by_file.keys() & self._by_file.keys():
            yield from (ImageMatch(theirs, ours, 0, same=True) for theirs in by_file[sha256] for ours in self._by_file[sha256])
        # Compare each file once. The hash finds candidates and the thumbnail decides: many different chest images share a hash.
        hashes, looks = hashes_and_looks(asked)
        for pairs in near_matches(hashes, self._hashes, self._distance):
            for i, j in look_alike(looks, self._looks, pairs).tolist():
                if asked[i].sha256 != self._known[j].sha256:
                    bits = (int(hashes[i]) ^ int(self._hashes[j])).bit_count()
                    for theirs in by_file[asked[i].sha256]:
                        yield from (ImageMatch(theirs, ours, bits, same=False) for ours in self._by_file[self._known[j].sha256])


def _files(prints: Sequence[ImagePrint | None]) -> tuple[dict[str, list[int]], list[ImagePrint]]:
    """Return the positions of each file by its SHA-256, and one print of each file that is not blank."""
    positions: dict[str, list[int]] = defaultdict(list)
    visible: list[ImagePrint] = []
    for position, taken in enumerate(prints):
        if taken is None:
            continue
        if taken.sha256 not in positions and taken.phash is not None:
            visible.append(taken)
        positions[taken.sha256].append(position)
    return positions, visible


def question_matches(index: TextIndex, theirs: Iterable[int], ours: Iterable[int]) -> Iterator[tuple[int, int, float]]:
    """Yield ``(their text, our text, Jaccard index)`` of every matching pair; the index is 1 only for equal texts."""
    asked, known = (np.unique(np.fromiter(numbers, np.int64)) for numbers in (theirs, ours))
    yield from ((number, number, 1.0) for number in np.intersect1d(asked, known, assume_unique=True).tolist())
    for their_text, our_text, jaccard in index.near(asked, known, jaccard=NEAR_QUESTION):
        # Texts with the same shingles in another order are not the same text.
        yield their_text, our_text, min(jaccard, 1 - 1e-6)


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
    certain: bool = True
    """Whether a coincidence is unlikely: an image, a question together with its image, or at least ``CERTAIN_WORDS`` words."""


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
    rows: Sequence[TrainingRow], folder: ImageFolder, items: Sequence[BenchmarkItem], *, distance: int = DISTANCE
) -> Contamination:
    """Search the training rows for every item's images and question.

    Args:
        rows: rows of the training data.
        folder: folder of their images.
        items: items of one benchmark.
        distance: how many of 64 bits two perceptual hashes may differ in.

    Raises:
        InputError: a package of the extra ``data`` is missing.
        DiskError: there is no space for the index of texts.
    """
    unreadable: list[str] = []
    by_image = _rows_with_images(rows, folder, items, distance, unreadable)
    by_text = _rows_with_questions(rows, items)
    summaries: dict[tuple[str, ...], list[Overlap]] = {}
    overlaps: list[Overlap] = []
    both: list[str] = []
    for item in items:
        asked, shown = by_text[item.texts], set[int]()
        for path in dict.fromkeys(item.images):
            found = by_image.get(path, {})
            shown |= found.keys()
            for likeness, same in ((Likeness.SAME_IMAGE, True), (Likeness.NEAR_IMAGE, False)):
                bits = {row: float(match.bits) for row, match in found.items() if match.same == same}
                overlaps += _overlap(item, likeness, bits, rows, "/".join(path.parts[-2:]))
        if not asked.keys().isdisjoint(shown):
            both.append(item.id)
        if item.words < COMMON_WORDS:
            overlaps += _question_overlaps(item, {row: apart for row, apart in asked.items() if row in shown}, rows)
        else:
            # Thousands of items may ask one question: sum up its rows once.
            if item.texts not in summaries:
                summaries[item.texts] = list(_question_overlaps(item, asked, rows))
            overlaps += (replace(known, item=item.id, detail=_detail(item)) for known in summaries[item.texts])
    return Contamination(len(rows), len(items), tuple(overlaps), tuple(both), tuple(unreadable))


def _question_overlaps(item: BenchmarkItem, asked: Mapping[int, float], rows: Sequence[TrainingRow]) -> Iterator[Overlap]:
    certain = not COMMON_WORDS <= item.words < CERTAIN_WORDS
    for likeness, same in ((Likeness.SAME_TEXT, True), (Likeness.NEAR_TEXT, False)):
        found = {row: apart for row, apart in asked.items() if (apart == 0) == same}
        yield from _overlap(item, likeness, found, rows, _detail(item), certain=certain)


def _overlap(
    item: BenchmarkItem, likeness: Likeness, found: Mapping[int, float], rows: Sequence[TrainingRow], detail: str, *, certain: bool = True
) -> Iterator[Overlap]:
    """Yield the overlap with the rows in ``found`` (distance by row number, nearest first), if there are any."""
    names: dict[str, float] = {}
    for row, apart in found.items():
        names.setdefault(rows[row].id, apart)
    if names:
        yield Overlap(item.id, likeness, min(names.values()), tuple(names)[:ROWS_SHOWN], len(names), detail, certain)


def _detail(item: BenchmarkItem) -> str:
    return " ".join(item.question.split())


def _rows_with_images(
    rows: Sequence[TrainingRow], folder: ImageFolder, items: Sequence[BenchmarkItem], distance: int, unreadable: list[str]
) -> dict[Path, dict[int, ImageMatch]]:
    """Map each image of the benchmark to its best match in each row, nearest first; add the unreadable images of both sides."""
    rows_of: defaultdict[str, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        for name in dict.fromkeys(row.images):
            rows_of[name].append(number)
    names, paths = list(rows_of), list(dict.fromkeys(path for item in items for path in item.images))
    index = ImageIndex(_readable(print_images(folder, names), "training data", unreadable), distance)
    near: defaultdict[int, dict[int, ImageMatch]] = defaultdict(dict)
    for match in index.matches(_readable(print_files(paths), "benchmark", unreadable)):
        near[match.theirs].setdefault(match.ours, match)
    best: dict[Path, dict[int, ImageMatch]] = {}
    for theirs, found in near.items():
        nearest: dict[int, ImageMatch] = {}
        for match in sorted(found.values(), key=lambda match: (match.bits, not match.same)):
            for number in rows_of[names[match.ours]]:
                nearest.setdefault(number, match)
        best[paths[theirs]] = dict(sorted(nearest.items(), key=lambda pair: (pair[1].bits, pair[0])))
    return best


def _readable(prints: Iterable[ImagePrint | str], side: str, unreadable: list[str]) -> list[ImagePrint | None]:
    kept: list[ImagePrint | None] = []
    for taken in prints:
        if isinstance(taken, str):
            unreadable.append(f"{side}: {taken}")
        kept.append(None if isinstance(taken, str) else taken)
    return kept


def _rows_with_questions(rows: Sequence[TrainingRow], items: Sequence[BenchmarkItem]) -> dict[tuple[str, ...], dict[int, float]]:
    """Map the texts of an item to the rows that ask the same: distance by row number, nearest first."""
    with closing(TextIndex()) as index:
        rows_of: defaultdict[int, dict[int, None]] = defaultdict(dict)
        for number, row in enumerate(rows):
            for text in dict.fromkeys(wording for asked in row.asked for wording in wordings(asked)):
                rows_of[index.add(text)][number] = None
        numbers = {texts: {index.add(text) for text in texts} for texts in {item.texts: None for item in items}}
        near: defaultdict[int, list[tuple[float, int]]] = defaultdict(list)
        for theirs, ours, jaccard in question_matches(index, set[int]().union(*numbers.values()), rows_of):
            near[theirs].append((1 - jaccard, ours))
    found: dict[tuple[str, ...], dict[int, float]] = {}
    for texts, asked in numbers.items():
        nearest: dict[int, float] = {}
        for apart, ours in sorted(pair for text_number in asked for pair in near[text_number]):
            for number in rows_of[ours]:
                nearest.setdefault(number, apart)
        found[texts] = dict(sorted(nearest.items(), key=lambda pair: (pair[1], pair[0])))
    return found
