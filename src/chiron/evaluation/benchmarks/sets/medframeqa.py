"""MedFrameQA: choices on two to five frames of medical videos.

Schema: MedEvalKit's reader (``utils/MedFrameQA``), and the card of the copy OctoMed/MedFrameQA, which lists the other columns.
"""

from chiron.evaluation.benchmarks.benchmark import Benchmark, BenchmarkRecord, files_of
from chiron.evaluation.benchmarks.fields import choice, gold_by_letter, read_options
from chiron.evaluation.items import Item

_IMAGES = tuple(f"image_{n}" for n in range(1, 6))


def _item(row: BenchmarkRecord) -> Item:
    options = read_options(row.raw["options"])
    labels = row.label("system=body_system", "organ", "modality")
    gold = gold_by_letter(row.text("correct_answer"), options)
    # Questions on frames of one video depend on each other.
    group = str(row.raw.get("video_id") or "")
    return choice(row.text("question_id"), row.text("question"), options, gold, row.images(*_IMAGES), labels, group)


BENCHMARKS = (
    Benchmark(
        name="medframeqa",
        title="MedFrameQA, test",
        size="2,851 choices, two to five images each",
        n=2851,
        license="CC-BY-4.0",
        hub="SuhaoYu1020/MedFrameQA",
        files=(*files_of("test"), "data/*.parquet"),
        columns=("question_id", "question", "options", "correct_answer", *_IMAGES),
        read=_item,
        closed=True,
    ),
)
