"""Detect images that cannot be opened."""

from collections.abc import Iterator

from chiron.mmrp.checks.check import Check, Finding
from chiron.mmrp.dataset_index import DatasetIndex


def unreadable(index: DatasetIndex) -> Iterator[tuple[int, Finding]]:
    """Yield rows with an image that cannot be opened; each once."""
    for position, entry in enumerate(index.entries if index.problems else ()):
        problem = next((index.problems[image] for image in entry.images if image in index.problems), None)
        if problem is not None:
            yield position, Finding("unreadable_images", entry.id, problem)


CHECKS = (Check("unreadable_images", "Images that cannot be opened", 0.0, look_at_all=unreadable),)
