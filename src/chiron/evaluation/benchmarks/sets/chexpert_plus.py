"""Report generation from the chest X-rays of CheXpert Plus, validation split.

Schema: ``df_chexpert_plus_240401.csv`` of Stanford AIMI, with one row per image.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from chiron.evaluation.benchmarks.benchmark import Benchmark, BenchmarkRecord
from chiron.evaluation.items import Item


def _section(section: str, question: str, row: BenchmarkRecord) -> Item:
    path = PurePosixPath(row.text("path_to_image"))
    # The CSV names the JPEG files of the older CheXpert; the release has PNG files in chunks that unpack to PNG/.
    names = [f"{folder}{name}" for name in (path.with_suffix(".png"), path) for folder in ("PNG/", "PNG/PNG/", "", "images/")]
    image = next((name for name in names if row.image_source.has(name)), names[0])
    labels = row.label("frontal_lateral=view", "ap_pa", "sex")
    return Item(str(path.with_suffix("")), question, row.text(section), (image,), group=str(path.parent), labels=labels)


def _frontal_with(section: str, raw: Mapping[str, Any]) -> bool | None:
    """Whether the row is a frontal view of the validation split whose report has the section."""
    if not raw.get("split") or not raw.get("frontal_lateral"):
        return None
    frontal = str(raw["split"]).casefold() == "valid" and str(raw["frontal_lateral"]).casefold() == "frontal"
    return frontal and bool(str(raw.get(section) or "").strip())


def _chexpert_plus(part: str) -> Benchmark:
    question = f"Write the {part} section of the radiology report for this chest X-ray study."
    section = f"section_{part}"
    return Benchmark(
        name=f"chexpert_plus_{part}",
        title=f"CheXpert Plus, validation, {part}",
        size=f"frontal views whose report has {part}",
        n=None,
        license="Stanford University Dataset Research Use Agreement",
        files=("df_chexpert_plus_*.csv", "chexpert_plus/df_chexpert_plus_*.csv"),
        columns=("path_to_image", "frontal_lateral", "split", section),
        read=partial(_section, section, question),
        belongs=partial(_frontal_with, section),
        protocol="report",
        instructions=(
            "get df_chexpert_plus_240401.csv and the PNG images of CheXpert Plus from Stanford AIMI (its agreement must be accepted), and"
            " give --data DIR with the CSV file and the folder PNG/"
        ),
    )


BENCHMARKS = (_chexpert_plus("findings"), _chexpert_plus("impression"))
