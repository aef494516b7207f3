"""Detect overlap with benchmarks: the same image (by file or perceptual hash) or the same question (by words)."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from chiron.cases.images import ImageFolder
from chiron.dedup.image_hash import ImagePrint, hashes_and_looks, look_alike, print_images
from chiron.dedup.linking import near_matches
from chiron.mmrp.checks.finding import Finding
from chiron.mmrp.dataset_index import DatasetIndex

_FEW: Final = 6
"""Number of words below which a match is ignored: "Is there a fracture?" is asked everywhere."""
_MANY: Final = 12
"""Number of words from which the same question cannot be a coincidence."""
_AT_ONCE: Final = 512


@dataclass(frozen=True, slots=True)
class BenchmarkItem:
    """An item of a benchmark on disk."""

    benchmark: str
    """Title of the benchmark."""
    id: str
    text: str
    """Its question, without options."""
    images: tuple[Path, ...] = ()


def overlap(survey: DatasetIndex, foreign: Iterable[BenchmarkItem]) -> Iterator[tuple[int, Finding]]:
    """Yield rows with an image or a question of a benchmark; each row at most once for images and once for words.

    Items are processed in batches. An image that cannot be opened is skipped; the benchmark's own loader reports it.
    """
    known = _Known(survey)
    by_question: dict[int, list[int]] = defaultdict(list)
    rows_of: dict[int, list[int]] = defaultdict(list)
    for position, entry in enumerate(survey.entries):
        by_question[entry.question].append(position)
        for image in entry.images:
            rows_of[image].append(position)
    hit: set[int] = set()
    sayings: dict[int, BenchmarkItem] = {}
    for items in _batches(foreign):
        for image, item, how in known.shown_by(items):
            for position in rows_of[image]:
                if position not in hit:
                    hit.add(position)
                    told = f"image '{survey.names[image][1]}' {how} one of {item.benchmark} item {item.id}"
                    yield position, Finding("overlap", survey.entries[position].id, told)
        for item in items:
            sayings.setdefault(survey.questions.add(item.text), item)
    yield from _asked(survey, sayings, by_question)


class _Known:
    """Index of the dataset's images by file and by perceptual hash."""

    def __init__(self, survey: DatasetIndex) -> None:
        self._distance = survey.distance
        self._by_file: dict[str, list[int]] = defaultdict(list)
        seen: list[tuple[int, ImagePrint]] = []
        for image, taken in enumerate(survey.prints):
            if taken is not None:
                self._by_file[taken.sha256].append(image)
                if taken.phash is not None:
                    seen.append((image, taken))
        self._images = [image for image, _ in seen]
        self._hashes, self._looks = hashes_and_looks([taken for _, taken in seen])

    def shown_by(self, items: list[BenchmarkItem]) -> Iterator[tuple[int, BenchmarkItem, str]]:
        """Yield images that also occur in an item, with the item and a description of the similarity."""
        seen: list[tuple[BenchmarkItem, ImagePrint]] = []
        # The benchmark's folders are the user's own, given by its loader: each file may be opened only inside its own folder.
        for path, item in {path: each for each in items for path in each.images}.items():
            taken = next(iter(print_images(ImageFolder(path.parent), [path.name], threads=1)))
            if isinstance(taken, str):
                continue
            for image in self._by_file.get(taken.sha256, ()):
                yield image, item, "is"
            if taken.phash is not None:
                seen.append((item, taken))
        hashes, looks = hashes_and_looks([taken for _, taken in seen])
        for pairs in near_matches(self._hashes, hashes, self._distance):
            for i, j in look_alike(self._looks, looks, pairs).tolist():
                yield self._images[i], seen[j][0], "looks like"


def _asked(survey: DatasetIndex, sayings: dict[int, BenchmarkItem], by_question: dict[int, list[int]]) -> Iterator[tuple[int, Finding]]:
    questions = survey.questions
    same = [(number, number, 1.0) for number in sayings if number in by_question]
    near = sorted(questions.near(sayings, by_question), key=lambda pair: -pair[2])
    told: set[int] = set()
    for theirs, ours, index in [*same, *near]:
        words = questions.words(theirs)
        if words < _FEW:
            continue
        item = sayings[theirs]
        for position in by_question[ours]:
            if position not in told:
                told.add(position)
                detail = f"asks what {item.benchmark} item {item.id} asks ({index:.2f})"
                yield position, Finding("overlap", survey.entries[position].id, detail, "error" if words >= _MANY else "warning")


def _batches(foreign: Iterable[BenchmarkItem]) -> Iterator[list[BenchmarkItem]]:
    batch: list[BenchmarkItem] = []
    for item in foreign:
        batch.append(item)
        if len(batch) == _AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch
