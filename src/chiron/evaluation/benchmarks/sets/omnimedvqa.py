"""OmniMedVQA, the open part: choices of two to four on images of 42 data sets.

Schema: the data set's card, and MedEvalKit's reader (``utils/OmniMedVQA``).
"""

from chiron.evaluation.benchmarks.benchmark import Benchmark, BenchmarkRecord
from chiron.evaluation.benchmarks.fields import choice, gold_by_text
from chiron.evaluation.items import Item

_OPTIONS = ("option_A", "option_B", "option_C", "option_D")


def _item(row: BenchmarkRecord) -> Item:
    options = tuple(row.text(column) for column in _OPTIONS if row.raw.get(column) not in (None, ""))
    gold = gold_by_text(row.text("gt_answer"), options)
    # One published record names its modality in another column.
    labels = row.label("dataset", "question_type", "modality") | row.label("modality_type=modality")
    return choice(row.text("question_id"), row.text("question"), options, gold, row.images("image_path"), labels)


BENCHMARKS = (
    Benchmark(
        name="omnimedvqa",
        title="OmniMedVQA, open-access part",
        size="88,996 choices; 82,059 images",
        n=88996,
        license="those of its 42 sources",
        files=("QA_information/Open-access/*.json",),
        columns=("question_id", "question", "gt_answer", "image_path", "option_A", "option_B"),
        read=_item,
        closed=True,
        instructions=(
            "download OmniMedVQA.zip (10.7 GB) of the data set foreverbeliever/OmniMedVQA ('hf download foreverbeliever/OmniMedVQA"
            " --repo-type dataset'), unpack it, and give --data DIR with the folder that contains QA_information and Images"
        ),
    ),
)
