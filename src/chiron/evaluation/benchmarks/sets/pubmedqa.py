"""PubMedQA: yes, no or maybe, from the abstract of an article without its conclusion.

Schema: MedEvalKit's reader (``utils/PubMedQA``). The abstract comes before the question, as there and in lm-evaluation-harness.
"""

from dataclasses import replace

from chiron.evaluation.benchmarks.benchmark import Benchmark, BenchmarkRecord, files_of
from chiron.evaluation.benchmarks.fields import choice, gold_by_letter, read_options
from chiron.evaluation.items import Item


def _item(row: BenchmarkRecord) -> Item:
    data = replace(row, raw=row.raw["data"])
    options = read_options(data.raw["Options"])
    context = "\n".join(data.raw["Context"])
    gold = gold_by_letter(data.text("Correct Option"), options)
    return choice(row.name, f"Context: {context}\n{data.text('Question')}", options, gold, ())


BENCHMARKS = (
    Benchmark(
        name="pubmedqa",
        title="PubMedQA, test, with its abstracts",
        size="500 choices of three, no image",
        n=500,
        license="MIT",
        hub="openlifescienceai/pubmedqa",
        files=files_of("test"),
        columns=("data",),
        read=_item,
        closed=True,
        needs_image=False,
    ),
)
