"""Items of benchmarks, as :mod:`chiron.dedup.contamination` compares them with training data."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from chiron.cases.images import ImageProblem
from chiron.dedup.contamination import BenchmarkItem
from chiron.evaluation.benchmarks.loading import LoadedBenchmark
from chiron.evaluation.items import BadItem


@dataclass
class Uncompared:
    """Parts of a benchmark that could not be compared."""

    records: int = 0
    """Number of records that are not questions."""
    images: dict[str, str] = field(default_factory=dict)
    """Why an image cannot be used, by name."""


def items_to_compare(loaded: LoadedBenchmark, uncompared: Uncompared) -> Iterator[BenchmarkItem]:
    """Yield the items of a benchmark with the paths of their images; record in ``uncompared`` what is missing."""
    for item in loaded.items:
        if isinstance(item, BadItem):
            uncompared.records += 1
            continue
        paths = []
        for name in dict.fromkeys(item.images):
            try:
                paths.append(loaded.check(name).path)
            except ImageProblem as problem:
                uncompared.images[name] = str(problem)
        yield BenchmarkItem(loaded.name, item.id, item.question, tuple(paths), item.options)
