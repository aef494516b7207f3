"""VQA-RAD: questions that clinicians asked about radiology images."""

from chiron.evaluation.benchmarks.benchmark import Benchmark, BenchmarkRecord, files_of, having
from chiron.evaluation.benchmarks.fields import yes_or_no
from chiron.evaluation.items import Item


def _published(row: BenchmarkRecord) -> Item:
    return _item(row, row.text("question"), row.text("answer"), row.label("answer_type"))


def _closed(row: BenchmarkRecord) -> Item:
    """Read the variant of 272 closed questions; the same files also contain open ones."""
    return _item(row, row.text("input"), row.text("label"), row.label("answer_type"))


def _item(row: BenchmarkRecord, question: str, answer: str, labels: dict[str, str]) -> Item:
    images = row.images("image")
    word = yes_or_no(answer)
    return Item(row.name, question, word or answer, images, kind="yes_no" if word else "open", group=" ".join(images), labels=labels)


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
        read=_published,
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
        read=_closed,
        belongs=having("answer_type", "closed"),
        closed=True,
    ),
)
