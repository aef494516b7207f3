"""PathMMU: choices on pathology images of five sources, in one file of records by source and split.

Schema: the authors' repository (``data/instructions.md`` and ``eval/utils/data_utils.py``). As there, "test" includes "test_tiny".
"""

import re

from chiron.evaluation.benchmarks.benchmark import Benchmark, BenchmarkRecord, having
from chiron.evaluation.benchmarks.fields import choice, gold_by_letter, read_options
from chiron.evaluation.items import Item

_LEAD = re.compile(r"^\s*[A-Z]\s*\)\s*")


def _item(row: BenchmarkRecord) -> Item:
    options = tuple(_LEAD.sub("", option) for option in read_options(row.raw["options"]))
    source, split = row.text("key_1"), row.text("key_2")
    gold = gold_by_letter(row.text("answer")[0], options)
    name = f"{source}-{split}-{row.text('No')}"
    return choice(name, row.text("question"), options, gold, row.images("img"), {"source": source})


def _part(name: str, title: str, size: str, n: int | None, *splits: str) -> Benchmark:
    return Benchmark(
        name=name,
        title=title,
        size=size,
        n=n,
        license="CC-BY-ND-4.0 and those of its sources; the hub asks you to apply for access",
        hub="jamessyx/PathMMU",
        files=("data.json",),
        archives=("images.zip",),
        columns=("No", "img", "question", "options", "answer"),
        read=_item,
        belongs=having("key_2", *splits),
        closed=True,
        instructions=(
            "its hub page needs a login and an application, and some images come from their own sources: see data/instructions.md of"
            " PathMMU-Benchmark/PathMMU on GitHub; an item without its image is unusable and counts as wrong"
        ),
    )


BENCHMARKS = (
    _part("pathmmu", "PathMMU, test", "9,677 choices; 7,213 images", 9677, "test", "test_tiny"),
    _part("pathmmu_tiny", "PathMMU, the small test set", "part of pathmmu", None, "test_tiny"),
)
