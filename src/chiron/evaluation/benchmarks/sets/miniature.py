"""The miniature's cases that nothing was trained on, from the folder that ``chiron demo`` leaves (``DIR/data``)."""

from chiron.evaluation.benchmarks.benchmark import Benchmark, Row
from chiron.evaluation.item import Item


def _case(row: Row) -> Item:
    images = row.images("images")
    return Item(
        row.text("id"),
        row.text("question"),
        row.text("answer"),
        images,
        group=" ".join(images),
        labels=row.label("modality", "body_system"),
    )


def _part(name: str, file: str, words: str) -> Benchmark:
    return Benchmark(
        name=name,
        title=f"the miniature: new cases of {words}",
        size="as many as the demonstration drew",
        n=None,
        licence="made by this program",
        files=(f"{file}.jsonl", f"data/{file}.jsonl"),
        columns=("id", "question", "answer", "images"),
        read=_case,
        protocol="exact",
        how="run 'chiron demo --dir DIR' and give its data with --data DIR/data",
        bare=True,
    )


BENCHMARKS = (
    _part("miniature_seen", "new-seen", "combinations whose diagnosis was shown with images"),
    _part("miniature_held_out", "new-held-out", "combinations whose diagnosis never was"),
)
