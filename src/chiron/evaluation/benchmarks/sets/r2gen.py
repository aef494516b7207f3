"""Report generation from chest X-rays: IU X-Ray and MIMIC-CXR as R2Gen splits them.

Schema: ``annotation.json`` as ``modules/datasets.py`` of R2Gen (Chen et al., EMNLP 2020) reads it, with the splits ``train``,
``val`` and ``test``.
"""

from chiron.evaluation.benchmarks.benchmark import Benchmark, BenchmarkRecord, having
from chiron.evaluation.items import Item

_QUESTION = "Write the findings section of the radiology report for this chest X-ray study."


def _item(row: BenchmarkRecord) -> Item:
    study = row.raw.get("study_id")
    images = row.images("image_path")
    return Item(row.text("id"), _QUESTION, row.text("report"), images, group=f"study {study}" if study else " ".join(images))


def _part(name: str, title: str, size: str, n: int, terms: str, where: str) -> Benchmark:
    return Benchmark(
        name=name,
        title=title,
        size=size,
        n=n,
        license=terms,
        files=("annotation.json",),
        columns=("id", "report", "image_path"),
        read=_item,
        belongs=having("key_1", "test"),
        protocol="report",
        instructions=f"get annotation.json and images/ in R2Gen's form ({where}), and put both into DIR/{name}",
    )


BENCHMARKS = (
    _part(
        "iu_xray",
        "IU X-Ray, test, findings",
        "590 reports with two images each",
        590,
        "CC-BY-NC-ND-4.0",
        "linked from cuhksz-nlp/R2Gen on GitHub",
    ),
    _part(
        "mimic_cxr",
        "MIMIC-CXR, test, findings",
        "3,858 images, each with the report of its study",
        3858,
        "PhysioNet Credentialed Health Data License 1.5.0",
        "linked from cuhksz-nlp/R2Gen on GitHub; access to MIMIC-CXR-JPG on PhysioNet is required",
    ),
)
