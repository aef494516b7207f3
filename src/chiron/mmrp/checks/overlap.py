"""What a benchmark asks must not be trained on: its images, by file and by looks, and its questions, by their words."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from chiron.cases.images import ImageFolder
from chiron.cases.likeness.hamming import near_matches
from chiron.cases.likeness.prints import print_images
from chiron.mmrp.checks.finding import Finding
from chiron.mmrp.survey import Survey

_FEW: Final = 6
"""Words: "Is there a fracture?" is asked everywhere, and means nothing."""
_MANY: Final = 12
"""Words from which on the same question is no accident."""
_AT_ONCE: Final = 512


@dataclass(frozen=True, slots=True)
class Foreign:
    """An item of a benchmark that is on disk."""

    benchmark: str
    """Its name, for people."""
    id: str
    text: str
    """Its question, without options."""
    images: tuple[Path, ...] = ()


def overlap(survey: Survey, foreign: Iterable[Foreign]) -> Iterator[tuple[int, Finding]]:
    """Rows that show a benchmark's image, or put its question; a row is told once for images and once for words.

    Items are taken some at a time. An image that cannot be opened is compared by nothing, and so passed over: the benchmark's own
    loader speaks of it.
    """
    by_file, by_look = _known(survey)
    by_question: dict[int, list[int]] = defaultdict(list)
    rows_of: dict[int, list[int]] = defaultdict(list)
    for position, entry in enumerate(survey.entries):
        by_question[entry.question].append(position)
        for image in entry.images:
            rows_of[image].append(position)
    hit: set[int] = set()
    sayings: dict[int, Foreign] = {}
    looks = np.fromiter(by_look, np.uint64, len(by_look))
    for items in _batches(foreign):
        for image, item, how in _pictured(items, by_file, by_look, looks, survey.distance):
            for position in rows_of[image]:
                if position not in hit:
                    hit.add(position)
                    told = f"image '{survey.names[image][1]}' {how} one of {item.benchmark} item {item.id}"
                    yield position, Finding("overlap", survey.entries[position].id, told)
        for item in items:
            sayings.setdefault(survey.questions.add(item.text), item)
    yield from _asked(survey, sayings, by_question)


def _known(survey: Survey) -> tuple[dict[str, list[int]], dict[int, list[int]]]:
    """Positions of the survey's images by SHA-256 and by perceptual hash."""
    by_file: dict[str, list[int]] = defaultdict(list)
    by_look: dict[int, list[int]] = defaultdict(list)
    for image, taken in enumerate(survey.prints):
        if taken is not None:
            by_file[taken.sha256].append(image)
            if taken.phash is not None:
                by_look[taken.phash].append(image)
    return by_file, by_look


def _pictured(
    items: list[Foreign], by_file: dict[str, list[int]], by_look: dict[int, list[int]], looks: np.ndarray, distance: int
) -> Iterator[tuple[int, Foreign, str]]:
    paths = {path: item for item in items for path in item.images}
    seen: list[Foreign] = []
    hashes: list[int] = []
    # The benchmark's folders are the user's own, named by its loader: each file is fenced by the folder it lies in.
    for path, item in paths.items():
        taken = next(iter(print_images(ImageFolder(path.parent), [path.name], threads=1)))
        if isinstance(taken, str):
            continue
        for image in by_file.get(taken.sha256, ()):
            yield image, item, "is"
        if taken.phash is not None:
            seen.append(item)
            hashes.append(taken.phash)
    ours = list(by_look.values())
    for pairs in near_matches(looks, np.array(hashes, np.uint64), distance):
        for i, j in pairs.tolist():
            for image in ours[i]:
                yield image, seen[j], "looks like"


def _asked(survey: Survey, sayings: dict[int, Foreign], by_question: dict[int, list[int]]) -> Iterator[tuple[int, Finding]]:
    questions = survey.questions
    same = [(number, number, 1.0) for number in sayings if number in by_question]
    near = [(a, b, index) for a, b, index in questions.near() for a, b in ((a, b), (b, a)) if a in sayings and b in by_question]
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


def _batches(foreign: Iterable[Foreign]) -> Iterator[list[Foreign]]:
    batch: list[Foreign] = []
    for item in foreign:
        batch.append(item)
        if len(batch) == _AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch
