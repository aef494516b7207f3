"""The miniature's held-out cases, from the folder that ``chiron demo`` creates (``DIR/data``)."""

from collections.abc import Callable

from chiron.evaluation.benchmarks.benchmark import Benchmark, BenchmarkRecord
from chiron.evaluation.benchmarks.fields import choice, gold_by_text
from chiron.evaluation.items import Item


def _case(row: BenchmarkRecord) -> Item:
    images = row.images("images")
    labels = row.label("modality", "body_system")
    return Item(row.text("id"), row.text("question"), row.text("answer"), images, group=" ".join(images), labels=labels)


def _choice(row: BenchmarkRecord) -> Item:
    from chiron.phantom.world import DIAGNOSES  # every command reads this file, and few need numpy

    options = tuple(sorted(DIAGNOSES))  # the same order for every case, so that shuffle-options is the only change of order
    gold = gold_by_text(row.text("answer"), options)
    return choice(row.text("id"), row.text("question"), options, gold, row.images("images"), row.label("modality", "body_system"))


def _part(name: str, files: tuple[str, ...], words: str, read: Callable[[BenchmarkRecord], Item] = _case) -> Benchmark:
    return Benchmark(
        name=name,
        title=f"the miniature: new cases of {words}",
        size="as many as the demonstration drew",
        n=None,
        license="made by this program",
        files=("|".join(files), "|".join(f"data/{file}" for file in files)),
        columns=("id", "question", "answer", "images"),
        read=read,
        protocol="exact",
        instructions="run 'chiron demo --dir DIR' (or --quick) and give its folder 'data' with --data",
        bare=True,
    )


_SEEN, _HELD_OUT = "new-seen.jsonl", "new-held-out.jsonl"
BENCHMARKS = (
    _part("miniature_seen", (_SEEN,), "combinations whose diagnosis was shown with images"),
    _part("miniature_held_out", (_HELD_OUT,), "combinations whose diagnosis never was"),
    _part("miniature_choice", (_SEEN, _HELD_OUT), "both kinds, with the world's nine diagnoses as options", _choice),
)
