"""MedQA: questions of the US licensing exam with four options, without images.

Schema: MedEvalKit's reader (``utils/MedQA_USMLE``). The authors' repository (jind11/MedQA) has the same file.
"""

from chiron.evaluation.benchmarks.benchmark import Benchmark, BenchmarkRecord, files_of
from chiron.evaluation.benchmarks.fields import choice, gold_by_letter, read_options
from chiron.evaluation.items import Item


def _item(row: BenchmarkRecord) -> Item:
    options = read_options(row.raw["options"])
    gold = gold_by_letter(row.text("answer_idx"), options)
    return choice(row.name, row.text("question"), options, gold, (), row.label("meta_info=exam"))


BENCHMARKS = (
    Benchmark(
        name="medqa",
        title="MedQA (USMLE), test, four options",
        size="1,273 choices of four, no image",
        n=1273,
        license="CC-BY-4.0",
        hub="GBaker/MedQA-USMLE-4-options",
        files=("phrases_no_exclude_test.jsonl", *files_of("test")),
        columns=("question", "options", "answer_idx"),
        read=_item,
        closed=True,
        needs_image=False,
    ),
)
