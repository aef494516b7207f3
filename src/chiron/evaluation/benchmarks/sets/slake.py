"""SLAKE: the English questions on radiology images (the Chinese ones are left out). Closed questions are not only yes/no."""

from chiron.evaluation.benchmarks.benchmark import Benchmark, BenchmarkRecord, files_of, having
from chiron.evaluation.benchmarks.fields import yes_or_no
from chiron.evaluation.items import Item


def _item(row: BenchmarkRecord) -> Item:
    images = row.images("img_name")
    answer = row.text("answer")
    word = yes_or_no(answer)
    labels = row.label("modality", "location=body_system", "content_type=question_type", "answer_type")
    return Item(
        row.text("qid"), row.text("question"), word or answer, images, (), None, "yes_no" if word else "open", " ".join(images), labels
    )


BENCHMARKS = (
    Benchmark(
        name="slake",
        title="SLAKE, test, English",
        size="1,061: 416 closed, 645 open; 180 images in both languages",
        n=1061,
        license="CC-BY-4.0",
        hub="BoKelvin/SLAKE",
        files=("test.json", *files_of("test")),
        archives=("imgs.zip",),
        columns=("img_name", "question", "answer", "q_lang", "answer_type", "qid"),
        read=_item,
        belongs=having("q_lang", "en"),
    ),
)
