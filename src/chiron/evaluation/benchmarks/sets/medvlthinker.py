"""MedVLThinker-Eval: six benchmarks in one format, cleaner than the bundle. Its VQA-RAD is the split of 272."""

import json
from functools import partial

from chiron.evaluation.benchmarks.benchmark import Benchmark, BenchmarkRecord, files_of, having
from chiron.evaluation.benchmarks.fields import choice, gold_by_letter, read_options
from chiron.evaluation.items import Item

_LABELS = ("modality", "body_system", "question_type", "medical_task", "subset")


def _item(source: str, row: BenchmarkRecord) -> Item:
    options = read_options(row.raw["options"])
    name = f"{source}-{row.text('dataset_index')}"
    return choice(name, row.text("question"), options, gold_by_letter(row.raw["answer_label"], options), row.images("images"), _labels(row))


def _labels(row: BenchmarkRecord) -> dict[str, str]:
    """Labels from ``misc``, whose content differs between sources. Nothing depends on them."""
    try:
        misc = json.loads(str(row.raw.get("misc") or "{}"))
    except ValueError:
        return {}
    return {name: str(misc[name]) for name in _LABELS if misc.get(name)} if isinstance(misc, dict) else {}


def _part(name: str, source: str, n: int | None = None) -> Benchmark:
    return Benchmark(
        name=f"medvlthinker_{name}",
        title=f"{source} in MedVLThinker-Eval",
        size=f"{n:,} closed" if n else "closed questions",
        n=n,
        license="those of its sources",
        hub="UCSC-VLAA/MedVLThinker-Eval",
        files=files_of("test"),
        columns=("images", "question", "options", "answer_label", "dataset_name", "dataset_index"),
        read=partial(_item, source),
        belongs=having("dataset_name", source),
        closed=True,
    )


BENCHMARKS = (
    _part("vqa_rad", "vqa_rad_closed", 272),
    _part("slake", "slake_closed"),
    _part("path_vqa", "pathvqa_closed"),
    _part("pmc_vqa", "pmc_vqa"),
    _part("mmmu", "MMMU-medical"),
    _part("medxpertqa", "MedXpertQA-MM"),
)
