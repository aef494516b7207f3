"""Detect overlap with benchmarks: the same image (by file or appearance) or the same question (by words)."""

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from chiron.dedup.contamination import CERTAIN_WORDS, COMMON_WORDS, BenchmarkItem, ImageIndex, question_matches
from chiron.dedup.image_hash import ImagePrint, print_files
from chiron.mmrp.checks.check import Check, Finding, Severity
from chiron.mmrp.dataset_index import DatasetIndex


def overlap(index: DatasetIndex) -> Iterator[tuple[int, Finding]]:
    """Yield rows with an image or a question of a benchmark; each row at most once for images and once for words.

    An image that cannot be opened is skipped; the benchmark's own loader reports it.
    """
    yield from _shown(index)
    yield from _asked(index)


def _shown(index: DatasetIndex) -> Iterator[tuple[int, Finding]]:
    rows_of: dict[int, list[int]] = defaultdict(list)
    for position, entry in enumerate(index.entries):
        for image in entry.images:
            rows_of[image].append(position)
    owners = {path: item for item in index.benchmark_items for path in item.images}
    prints = [taken if isinstance(taken, ImagePrint) else None for taken in print_files(list(owners))]
    item_of, reported = list(owners.values()), set[int]()
    for match in ImageIndex(index.prints, index.distance).matches(prints):
        item = item_of[match.theirs]
        for position in rows_of[match.ours]:
            if position not in reported:
                reported.add(position)
                detail = (
                    f"image '{index.names[match.ours][1]}' {'is' if match.same else 'looks like'} one of {item.benchmark} item {item.id}"
                )
                yield position, Finding("overlap", index.entries[position].id, detail)


def _asked(index: DatasetIndex) -> Iterator[tuple[int, Finding]]:
    if not index.benchmark_items:
        return
    ours = np.fromiter((text for entry in index.entries for text in entry.questions), np.int64)
    item_of: dict[int, BenchmarkItem] = {}
    for item in index.benchmark_items:
        # A shorter question counts only together with its image, and that is found by the image.
        if item.words >= COMMON_WORDS:
            item_of |= {number: item for number in map(index.questions.add, item.texts) if number not in item_of}
    matches = sorted(question_matches(index.questions, item_of, ours), key=lambda match: -match[2])
    rows_of: dict[int, list[int]] = {our_text: [] for _, our_text, _ in matches}
    for position, entry in enumerate(index.entries):
        for text in rows_of.keys() & entry.questions:
            rows_of[text].append(position)
    reported: set[int] = set()
    for their_text, our_text, jaccard in matches:
        item = item_of[their_text]
        for position in rows_of[our_text]:
            if position not in reported:
                reported.add(position)
                detail = f"asks what {item.benchmark} item {item.id} asks ({jaccard:.2f})"
                severity: Severity = "error" if item.words >= CERTAIN_WORDS else "warning"
                yield position, Finding("overlap", index.entries[position].id, detail, severity)


CHECKS = (Check("overlap", "Images or questions of a benchmark", 0.0, look_at_all=overlap),)
