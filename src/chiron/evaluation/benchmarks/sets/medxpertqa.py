"""MedXpertQA: MM, choices of five on one to six images, and Text, choices of ten. From the hub or from its repository, in other shapes."""

from chiron.evaluation.benchmarks.benchmark import Benchmark, BenchmarkRecord, having
from chiron.evaluation.benchmarks.fields import choice, gold_by_letter, read_options
from chiron.evaluation.items import Item

_OPTIONS_IN_QUESTION = "\nAnswer Choices:"


def _item(row: BenchmarkRecord) -> Item:
    options = read_options(row.raw["options"])
    question = row.text("question").partition(_OPTIONS_IN_QUESTION)[0].strip()
    labels = row.label("medical_task", "body_system", "question_type")
    return choice(row.text("id"), question, options, gold_by_letter(row.raw["label"], options), row.images("images"), labels)


def _kind(kind: str, n: int) -> Benchmark:
    return Benchmark(
        name=f"medxpertqa_{kind}",
        title=f"MedXpertQA-MM, test, {kind}",
        size=f"{n:,} choices of five, up to six images each",
        n=n,
        license="MIT",
        hub="TsinghuaC3I/MedXpertQA",
        files=("MM/test*", "*mm_test*.jsonl", "*mm*.jsonl", "test*.jsonl", "test*.parquet"),
        archives=("images.zip",),
        columns=("id", "question", "options", "label", "images", "question_type"),
        read=_item,
        belongs=having("question_type", kind),
        closed=True,
    )


_TEXT = Benchmark(
    name="medxpertqa_text",
    title="MedXpertQA-Text, test",
    size="2,450 choices of ten, no image",
    n=2450,
    license="MIT",
    hub="TsinghuaC3I/MedXpertQA",
    files=("Text/test*", "*text_test*.jsonl", "*text*.jsonl"),
    columns=("id", "question", "options", "label", "question_type"),
    read=_item,
    closed=True,
    needs_image=False,
)
BENCHMARKS = (_kind("reasoning", 1446), _kind("understanding", 554), _TEXT)
