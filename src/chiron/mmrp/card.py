"""Dataset card: contents of the release, sources, checks, and how to load it."""

import re
from collections import Counter
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from chiron._version import __version__
from chiron.io import write_atomically
from chiron.mmrp.checking import CheckReport
from chiron.mmrp.checks.registry import CHECKS
from chiron.mmrp.coverage import axes
from chiron.mmrp.release_types import ReleaseSummary
from chiron.mmrp.row import ALL_PARTS, PARTS, SIGNALS
from chiron.mmrp.splits import SPLITS

MAP_FIGURE = "map.png"
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"), (10_000_000, "1M<n<10M"))


def write_card(
    folder: Path,
    released: ReleaseSummary,
    report: CheckReport,
    *,
    licence: str | None = None,
    modalities: Sequence[str] = (),
    body_systems: Sequence[str] = (),
) -> None:
    """Write ``README.md`` and ``recipe.yaml`` to a release folder.

    Raises:
        DiskError: the disk is full.
    """
    # Markdown is not HTML: ``cell`` escapes text from other sources, following Markdown's rules.
    env = Environment(  # noqa: S701 - see above
        loader=PackageLoader("chiron.mmrp", ""), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    env.filters["cell"] = cell
    counts = Counter(released.cells)
    rows, columns = axes(counts, modalities, body_systems)
    page = env.get_template("card.md.jinja").render(
        front=yaml.safe_dump(_front(released, licence), sort_keys=False, allow_unicode=True),
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
        checks=CHECKS,
        version=__version__,
    )
    write_atomically(folder / "README.md", [page])
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


def _front(released: ReleaseSummary, licence: str | None) -> dict[str, Any]:
    total = sum(released.rows.values())
    stated = licence or (next(iter(released.licences)) if len(released.licences) == 1 else None)
    front: dict[str, Any] = {
        "pretty_name": "MMRP",
        "license": stated if stated and re.fullmatch(r"[a-z0-9.\-]{2,40}", stated) else "other",
        "language": ["en"],
        "task_categories": ["visual-question-answering", "image-text-to-text", "question-answering"],
        "tags": ["medical", "reasoning", "chain-of-thought"],
        "size_categories": [next((name for most, name in _SIZES if total < most), "n>10M")],
    }
    if front["license"] == "other" and stated and stated != "not stated":
        front["license_name"] = cell(stated)
    everything = [
        {"split": split, "path": [f"data/{part}/{split}-*.parquet" for part in PARTS if (part, split) in released.rows]}
        for split in SPLITS
        if any((part, split) in released.rows for part in PARTS)
    ]
    # Signals have columns of their own, so they cannot be loaded together with the other parts.
    front["configs"] = [{"config_name": "all", "default": True, "data_files": everything}] if everything else []
    for part in ALL_PARTS:
        files = [{"split": s, "path": f"data/{part}/{s}-*.parquet"} for s in SPLITS if (part, s) in released.rows]
        if files:
            front["configs"].append({"config_name": part, "data_files": files})
    return front
