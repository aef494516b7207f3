"""Options and summary of a release, and its dataset card: contents, sources, checks, and how to load it."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chiron._version import __version__
from chiron.dedup.image_hash import DISTANCE
from chiron.io import write_atomically
from chiron.mmrp.checking import CheckReport, limits_of
from chiron.mmrp.checks.check import checks
from chiron.mmrp.exports.export import exports
from chiron.mmrp.row import ALL_PARTS, PARTS, SIGNALS, Part
from chiron.mmrp.splits import BODY_SYSTEM_NAMES, MODALITY_NAMES, RATIOS, SPLITS, Cell, SplitName, axes
from chiron.reports.shell import environment

if TYPE_CHECKING:
    from huggingface_hub import DatasetCardData

CARD, MAP_FIGURE = "README.md", "map.png"
PRACTICE_TAG = "practice-text"
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"), (10_000_000, "1M<n<10M"))


@dataclass(frozen=True)
class ReleaseOptions:
    """Options of a release."""

    ratios: tuple[float, float, float] = RATIOS
    """Shares of train, validation and test."""
    seed: int = 0
    balance: int | None = None
    """Maximum number of training rows of a part per cell of the coverage map; ``None`` for all."""
    limits: Mapping[str, float] = field(default_factory=limits_of)
    """Limits by check; a dataset that exceeds one is refused."""
    license: str | None = None
    """License of the whole dataset, for the card; by default those of the rows."""
    distance: int = DISTANCE
    """Maximum number of differing bits between perceptual hashes of nearly identical images."""
    replace: bool = False
    """Whether an existing release may be replaced."""
    modalities: tuple[str, ...] = MODALITY_NAMES
    """Rows of the card's coverage map, shown even if empty."""
    body_systems: tuple[str, ...] = BODY_SYSTEM_NAMES
    """Columns of the map, shown even if empty."""


@dataclass(frozen=True)
class ReleaseSummary:
    """Summary of a release."""

    path: Path
    rows: Mapping[tuple[Part, SplitName], int]
    """Number of rows by part and split."""
    images: int
    """Number of image files."""
    left_out: Mapping[str, int]
    """Number of rows left out, by reason."""
    groups: int
    """Number of groups of related rows."""
    largest_group: int
    """Number of rows in the largest group."""
    cells: Mapping[Cell, int]
    """Number of rows by modality and body system."""
    licenses: Mapping[str, int]
    """Number of rows by the license of their source."""
    models: Mapping[str, int]
    """Number of rows by model, as ``role: model``."""
    reviews: Mapping[str, int] = field(default_factory=dict)
    """Number of rows whose path reviewers accepted: ``accepted`` as it is, ``edited`` with changes."""
    practice: int = 0
    """Number of rows made from practice text (``chiron init practice``)."""


def has_practice_text(folder: Path) -> bool:
    """Return whether the card in a folder says that some rows are practice text (``chiron init practice``). False if it has no card."""
    path = folder / CARD
    return path.is_file() and f"- {PRACTICE_TAG}\n" in path.read_text("utf-8", "replace").partition("\n---\n")[0]


def write_card(folder: Path, released: ReleaseSummary, report: CheckReport, options: ReleaseOptions) -> None:
    """Write ``README.md`` and ``recipe.yaml`` to a release folder.

    Raises:
        DiskError: the disk is full.
    """
    counts = Counter(released.cells)
    rows, columns = axes(counts, options.modalities, options.body_systems)
    # Markdown is not HTML: ``cell`` escapes text from other sources, following Markdown's rules.
    template = environment("chiron.mmrp", escape=False).get_template("card.md.jinja")
    page = template.render(
        cell=cell,
        front=_front(released, options.license).to_yaml(),
        released=released,
        total=sum(released.rows.values()),
        parts=[part for part in ALL_PARTS if any((part, split) in released.rows for split in SPLITS)],
        signals=any((part, split) in released.rows for part in SIGNALS for split in SPLITS),
        splits=SPLITS,
        map_rows=rows,
        map_columns=columns,
        counts=counts,
        map_figure=MAP_FIGURE,
        report=report,
        checks=checks(),
        exports=[export for name, export in exports().items() if (folder / "exports" / name).is_dir()],
        version=__version__,
    )
    write_atomically(folder / CARD, [page])
    stages = [part for part in PARTS if (part, "train") in released.rows]
    if stages:  # a release of signals alone has no stage of the curriculum
        write_atomically(folder / "recipe.yaml", [recipe(stages)])


def recipe(stages: Sequence[str]) -> str:
    """Return a recipe for ``chiron train`` with one stage per part that has training rows, and the settings of the paper's 2B model."""
    head = resources.files("chiron.mmrp").joinpath("recipe_head.yaml").read_text("utf-8")
    lines = [
        f"  - {{name: {part}, data: train/{part}.jsonl, epochs: 1, batch: {{rows: 64}}, learning_rate: 4.0e-5, warmup: 0.03}}\n"
        for part in stages
    ]
    return head + "".join(lines)


def cell(text: object) -> str:
    """Escape text for one line of Markdown: without markup, links or line breaks, and of limited length."""
    plain = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    short = plain if len(plain) <= 120 else plain[:117] + "..."
    return re.sub(r"([\\`*_{}\[\]<>()#+!|~&$])", r"\\\1", short)


def _front(released: ReleaseSummary, license_name: str | None) -> "DatasetCardData":
    """Return the card's metadata. The hub knows licenses by identifier; any other is named in the card's text."""
    from huggingface_hub import DatasetCardData

    total = sum(released.rows.values())
    stated = license_name or (next(iter(released.licenses)) if len(released.licenses) == 1 else None)
    known = stated is not None and re.fullmatch(r"[a-z0-9.\-]{2,40}", stated) is not None
    everything = [
        {"split": split, "path": [f"data/{part}/{split}-*.parquet" for part in PARTS if (part, split) in released.rows]}
        for split in SPLITS
        if any((part, split) in released.rows for part in PARTS)
    ]
    # Signals have columns of their own, so they cannot be loaded together with the other parts.
    configs: list[dict[str, Any]] = [{"config_name": "all", "default": True, "data_files": everything}] if everything else []
    for part in ALL_PARTS:
        files = [{"split": s, "path": f"data/{part}/{s}-*.parquet"} for s in SPLITS if (part, s) in released.rows]
        if files:
            configs.append({"config_name": part, "data_files": files})
    return DatasetCardData(
        pretty_name="MMRP",
        license=stated if known else "other",
        license_name=cell(stated) if stated and not known and stated != "not stated" else None,
        language=["en"],
        task_categories=["visual-question-answering", "image-text-to-text", "question-answering"],
        tags=["medical", "reasoning", "chain-of-thought", *([PRACTICE_TAG] if released.practice else [])],
        size_categories=[next((name for most, name in _SIZES if total < most), "n>10M")],
        configs=configs,
    )
