"""MMRP: its questions in words and its questions on images; the published rows, and the test split of ``chiron build release``."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from chiron.evaluation.benchmarks.benchmark import Benchmark, Row
from chiron.evaluation.benchmarks.fields import choice, gold_by_text, read_options
from chiron.evaluation.item import Item


def _belongs(part: str, raw: Mapping[str, Any]) -> bool:
    return bool(raw.get("part", part) == part)


def _item(row: Row) -> Item:
    # Published golds are now and then wrapped in emphasis.
    answer = row.text("answer").strip("* ")
    listed = row.raw.get("img_name")
    images = row.images("images") if listed is None else tuple(row.material.locate(name) for name in read_options(listed))
    modalities = row.raw.get("modalities")
    labels = row.label("answer_type", "body_system") | ({"modality": " + ".join(map(str, modalities))} if modalities else {})
    options = read_options(row.raw.get("options"))
    group = str(row.raw.get("patient") or row.raw.get("group") or "") or " ".join(images)
    if options:
        return choice(row.text("id"), row.text("question"), options, gold_by_text(answer, options), images, labels, group)
    return Item(row.text("id"), row.text("question"), answer, images, group=group, labels=labels)


def _part(name: str, part: str, title: str, protocol: str) -> Benchmark:
    return Benchmark(
        name=f"mmrp_{name}",
        title=title,
        size="as many rows as the file has",
        n=None,
        licence="that of its cases",
        # Never a build's rows.jsonl, which hold what is trained on too.
        files=(f"data/{part}/test-*.parquet", f"*/data/{part}/test-*.parquet", f"mmrp_{name}*.json*", f"*{name}*.json*"),
        archives=("images.zip",),
        columns=("id", "question", "answer"),
        read=_item,
        belongs=partial(_belongs, part),
        pictured=part != "text",
        protocol=protocol,
        how=(
            f"give --data DIR with the folder that 'chiron build release' made, if its test split has rows of the part '{part}'"
            " (the rows.jsonl of a build are not taken: they hold what is trained on),"
            " or with the published rows as a JSON or JSONL file beside their images"
        ),
    )


BENCHMARKS = (
    _part("text", "text", "MMRP, questions in words", "huatuo_closed"),
    _part("reasoning", "cot", "MMRP, reasoning on images", "chiron_judge"),
)
