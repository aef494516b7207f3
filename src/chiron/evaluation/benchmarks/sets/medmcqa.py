"""MedMCQA: questions of Indian entrance exams, without images. The answers of its test split are withheld, so validation is used.

Schema: the tasks of lm-evaluation-harness (``medmcqa``) and MedEvalKit (``utils/MedMCQA``).
"""

from chiron.evaluation.benchmarks.benchmark import Benchmark, BenchmarkRecord, files_of
from chiron.evaluation.benchmarks.fields import choice, gold_by_position
from chiron.evaluation.items import Item

_OPTIONS = ("opa", "opb", "opc", "opd")


def _item(row: BenchmarkRecord) -> Item:
    options = tuple(row.text(column) for column in _OPTIONS)
    gold = gold_by_position(row.raw["cop"], options)
    return choice(row.text("id"), row.text("question"), options, gold, (), row.label("subject_name=subject", "choice_type"))


BENCHMARKS = (
    Benchmark(
        name="medmcqa",
        title="MedMCQA, validation",
        size="4,183 choices of four, no image",
        n=4183,
        license="Apache-2.0",
        hub="openlifescienceai/medmcqa",
        files=files_of("validation"),
        columns=("id", "question", *_OPTIONS, "cop"),
        read=_item,
        closed=True,
        needs_image=False,
    ),
)
