"""MMLU: the six medical subjects, those of MultiMedQA (K. Singhal et al., Nature 2023), without images.

Schema: the tasks ``mmlu_*`` and ``multimedqa`` of lm-evaluation-harness. Zero-shot here; their tables are often five-shot.
"""

from chiron.evaluation.benchmarks.benchmark import Benchmark, BenchmarkRecord, files_of, having
from chiron.evaluation.benchmarks.fields import choice, gold_by_position, read_options
from chiron.evaluation.items import Item

SUBJECTS = ("anatomy", "clinical_knowledge", "college_biology", "college_medicine", "medical_genetics", "professional_medicine")


def _item(row: BenchmarkRecord) -> Item:
    options = read_options(row.raw["choices"])
    return choice(row.name, row.text("question"), options, gold_by_position(row.raw["answer"], options), (), row.label("subject"))


BENCHMARKS = (
    Benchmark(
        name="mmlu_medical",
        title="MMLU, six medical subjects, test",
        size="1,089 choices of four, no image",
        n=1089,
        license="MIT",
        hub="cais/mmlu",
        files=("|".join(f"{subject}/test-*.parquet" for subject in SUBJECTS), "all/test-*.parquet", *files_of("test")),
        columns=("question", "subject", "choices", "answer"),
        read=_item,
        belongs=having("subject", *SUBJECTS),
        closed=True,
        needs_image=False,
    ),
)
