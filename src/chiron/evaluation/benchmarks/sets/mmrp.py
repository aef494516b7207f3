"""MMRP: text questions and image questions, from the published rows or from the test split of ``chiron build release``."""

from functools import partial
from typing import Any

from chiron.evaluation.benchmarks.benchmark import Benchmark, BenchmarkRecord
from chiron.evaluation.benchmarks.fields import belongs, choice, gold_by_text, is_published, named_images, own_turns, read_options
from chiron.evaluation.items import Item


def _item(row: BenchmarkRecord) -> Item:
    # Some published answers are wrapped in emphasis.
    answer = row.text("answer").strip("* ")
    images = row.images("images") if row.raw.get("img_name") is None else named_images(row)
    modalities: Any = row.raw.get("modalities")
    labels = row.label("answer_type", "body_system") | ({"modality": " + ".join(map(str, modalities))} if modalities else {})
    options = read_options(row.raw.get("options"))
    group = str(row.raw.get("patient") or row.raw.get("group") or "") or " ".join(images)
    asked = own_turns(row, plain=not images and not options)
    if options:
        return choice(row.text("id"), row.text("question"), options, gold_by_text(answer, options), images, labels, group, asked)
    return Item(row.text("id"), row.text("question"), answer, images, group=group, labels=labels, asked=asked)


def _part(name: str, part: str, title: str, protocol: str) -> Benchmark:
    return Benchmark(
        name=f"mmrp_{name}",
        title=title,
        size="as many rows as the file has",
        n=None,
        license="that of its cases",
        # Never a build's rows.jsonl, which also contain training data.
        files=(f"data/{part}/test-*.parquet", f"*/data/{part}/test-*.parquet", f"mmrp_{name}*.json*", f"*{name}*.json*"),
        recognize=partial(is_published, part),
        archives=("images.zip",),
        columns=("id", "question", "answer"),
        read=_item,
        belongs=partial(belongs, part),
        needs_image=part != "text",
        counts_all=True,
        protocol=protocol,
        instructions=(
            f"give --data DIR with the folder that 'chiron build release' wrote, if its test split has rows of the part '{part}'"
            " (rows.jsonl of a build is not accepted, because it contains training data),"
            " or with the published rows as a JSON or JSONL file of any name next to their images"
        ),
    )


BENCHMARKS = (
    _part("text", "text", "MMRP, questions in words", "huatuo_closed"),
    _part("reasoning", "cot", "MMRP, reasoning on images", "chiron_judge"),
)
