"""PathVQA: questions on pathology figures."""

from chiron.evaluation.benchmarks.benchmark import Benchmark, BenchmarkRecord, files_of
from chiron.evaluation.benchmarks.fields import without_options
from chiron.evaluation.items import Item


def _item(row: BenchmarkRecord) -> Item:
    return without_options(row.name, row.text("question"), row.text("answer"), row.images("image"))


BENCHMARKS = (
    Benchmark(
        name="path_vqa",
        title="PathVQA, test",
        size="6,719: 3,362 yes/no, 3,357 open",
        n=6719,
        license="MIT on its card; the images are a book's",
        hub="flaviagiammarino/path-vqa",
        files=files_of("test"),
        columns=("image", "question", "answer"),
        read=_item,
    ),
)
