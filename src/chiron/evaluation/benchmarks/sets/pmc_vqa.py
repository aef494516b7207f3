"""PMC-VQA, the cleaned test set: choices on figures from articles. ``test_2.csv`` is another benchmark and is not read."""

import re

from chiron.evaluation.benchmarks.benchmark import Benchmark, BenchmarkRecord
from chiron.evaluation.benchmarks.fields import choice, gold_by_letter
from chiron.evaluation.items import Item

_LEAD = re.compile(r"^\s*[A-D]\s*:\s*")
_CHOICES = ("Choice A", "Choice B", "Choice C", "Choice D")


def _item(row: BenchmarkRecord) -> Item:
    options = tuple(_LEAD.sub("", row.text(column)).strip() for column in _CHOICES)
    gold = gold_by_letter(row.text("Answer_label"), options)
    return choice(row.name, row.text("Question"), options, gold, row.images("Figure_path"))


BENCHMARKS = (
    Benchmark(
        name="pmc_vqa",
        title="PMC-VQA, cleaned test",
        size="2,000 choices of four; its images.zip has 18.9 GB",
        n=2000,
        license="none shown",
        hub="RadGenome/PMC-VQA",
        files=("test_clean.csv",),
        archives=("images.zip",),
        columns=("Figure_path", "Question", *_CHOICES, "Answer_label"),
        read=_item,
        closed=True,
    ),
)
