"""Report generation from chest X-rays: IU X-Ray and MIMIC-CXR as R2Gen splits them, and the validation split of CheXpert Plus.

Schemas: ``annotation.json`` as ``modules/datasets.py`` of R2Gen (Chen et al., EMNLP 2020) reads it, with the splits ``train``, ``val`` and
``test``; and ``df_chexpert_plus_240401.csv`` of Stanford AIMI, with one row per image.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from chiron.evaluation.benchmarks.benchmark import Benchmark, BenchmarkRecord, having
from chiron.evaluation.items import Item

_FINDINGS = "Write the findings section of the radiology report for this chest X-ray study."
_IMPRESSION = "Write the impression section of the radiology report for this chest X-ray study."


def _r2gen(row: BenchmarkRecord) -> Item:
    study = row.raw.get("study_id")
    images = row.images("image_path")
    return Item(row.text("id"), _FINDINGS, row.text("report"), images, group=f"study {study}" if study else " ".join(images))


def _r2gen_set(name: str, title: str, size: str, n: int, terms: str, where: str) -> Benchmark:
    return Benchmark(
        name=name,
        title=title,
        size=size,
        n=n,
        license=terms,
        files=("annotation.json",),
        columns=("id", "report", "image_path"),
        read=_r2gen,
        belongs=having("key_1", "test"),
        protocol="report",
        instructions=f"get annotation.json and images/ in R2Gen's form ({where}), and put both into DIR/{name}",
    )


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


def _chexpert_plus(part: str, question: str) -> Benchmark:
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


BENCHMARKS = (
    _r2gen_set(
        "iu_xray",
        "IU X-Ray, test, findings",
        "590 reports with two images each",
        590,
        "CC-BY-NC-ND-4.0",
        "linked from cuhksz-nlp/R2Gen on GitHub",
    ),
    _r2gen_set(
        "mimic_cxr",
        "MIMIC-CXR, test, findings",
        "3,858 images, each with the report of its study",
        3858,
        "PhysioNet Credentialed Health Data License 1.5.0",
        "linked from cuhksz-nlp/R2Gen on GitHub; access to MIMIC-CXR-JPG on PhysioNet is required",
    ),
    _chexpert_plus("findings", _FINDINGS),
    _chexpert_plus("impression", _IMPRESSION),
)
