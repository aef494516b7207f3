"""VQA-RAD: questions that clinicians asked about radiology images."""

from functools import partial

from chiron.evaluation.benchmarks.benchmark import Benchmark, BenchmarkRecord, files_of, having
from chiron.evaluation.benchmarks.fields import without_options
from chiron.evaluation.items import Item


def _item(question: str, answer: str, row: BenchmarkRecord) -> Item:
    return without_options(row.name, row.text(question), row.text(answer), row.images("image"), row.label("answer_type"))


BENCHMARKS = (
    Benchmark(
        name="vqa_rad",
        title="VQA-RAD, test",
        size="451: 251 yes/no, 200 open; 203 images",
        n=451,
        license="CC0-1.0",
        hub="flaviagiammarino/vqa-rad",
        files=files_of("test"),
        columns=("image", "question", "answer"),
        read=partial(_item, "question", "answer"),
    ),
    Benchmark(
        name="vqa_rad_272",
        title="VQA-RAD, the closed questions of another split",
        size="272 closed",
        n=272,
        license="CC0-1.0",
        hub="AdaptLLM/biomed-VQA-benchmark",
        files=("VQA_RAD/test*.parquet", "VQA_RAD/test*.json*", *files_of("test")),
        columns=("image", "input", "label", "answer_type"),
        read=partial(_item, "input", "label"),
        belongs=having("answer_type", "closed"),  # the same files also contain open questions
        closed=True,
    ),
)
