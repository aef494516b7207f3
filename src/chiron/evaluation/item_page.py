"""Build the item page: image, question, each model's answer and verdict."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chiron.cases.images import ImageFolder
from chiron.evaluation.figures import shown_scores
from chiron.evaluation.items import ItemResult, Verdict
from chiron.evaluation.read_runs import REAL, Evaluated
from chiron.io import write_atomically
from chiron.reports.shell import embedded_json, legible, render_page
from chiron.reports.thumbnails import Thumbnail, thumbnails

MAX_IMAGES = 600
"""Most thumbnails on a page (about 8 MB). The first items get them; the others show a note."""
MAX_OF_ITEM = 8
MAX_REPLY = 20_000
"""Most characters of a reply."""


@dataclass
class Gathered:
    """All data for the page's script."""

    answerers: list[str] = field(default_factory=list)
    items: list[dict[str, Any]] = field(default_factory=list)
    images: list[dict[str, Any]] = field(default_factory=list)
    verdicts: dict[str, Counter[str]] = field(default_factory=dict)
    """Verdict counts by model."""


def gather(models: Sequence[Evaluated], folders: Mapping[str, Path]) -> Gathered:
    """Collect the items of the real runs (not of controls), for every seed, in the order of the runs.

    Args:
        models: from :func:`chiron.evaluation.read_runs.read_evaluations`.
        folders: image folder of each benchmark; a benchmark without one is shown without images.
    """
    gathered = Gathered()
    places: dict[tuple[str, str, str], dict[str, Any]] = {}
    pictures = _Pictures(folders, gathered.images)
    for model in models:
        real = [result for result in model.results if result.control == REAL]
        for seed in sorted({result.seed for result in real}):
            results = [result for result in real if result.seed == seed]
            name = model.name if seed == 0 else f"{model.name}, seed {seed}"
            answerer = len(gathered.answerers)
            gathered.answerers.append(_clean(name))
            gathered.verdicts[name] = Counter(str(r.verdict) for r in results)
            for result in results:
                key = (result.protocol, result.benchmark, result.id)
                if key not in places:
                    places[key] = _item(result, pictures)
                    gathered.items.append(places[key])
                places[key]["said"].append({"by": answerer, **_said(result)})
    return gathered


class _Pictures:
    """Thumbnails by benchmark and name, up to ``MAX_IMAGES``."""

    def __init__(self, folders: Mapping[str, Path], images: list[dict[str, Any]]) -> None:
        self._folders = {name: ImageFolder(path) for name, path in folders.items()}
        self._images = images
        self._known: dict[tuple[str, str], int] = {}
        self._drawn = 0

    def place(self, benchmark: str, name: str) -> int:
        key = (benchmark, name)
        if key not in self._known:
            self._known[key] = len(self._images)
            self._images.append(self._shown(benchmark, name))
        return self._known[key]

    def _shown(self, benchmark: str, name: str) -> dict[str, Any]:
        if benchmark not in self._folders:
            taken = Thumbnail(name, problem="the image folder of this benchmark is unknown: name it with --images")
        elif self._drawn >= MAX_IMAGES:
            taken = Thumbnail(name, problem=f"the page contains only the first {MAX_IMAGES} images")
        else:
            taken = thumbnails(self._folders[benchmark], [name])[0]
            self._drawn += bool(taken.url)
        size = {"width": taken.width, "height": taken.height}
        return {"name": _clean(taken.caption), "url": taken.url, **size, "problem": _clean(taken.problem)}


def _item(result: ItemResult, pictures: _Pictures) -> dict[str, Any]:
    return {
        "benchmark": _clean(result.benchmark),
        "protocol": _clean(result.protocol),
        "id": _clean(result.id),
        "labels": [f"{_clean(name)}: {_clean(value)}" for name, value in result.labels.items()],
        "question": _clean(result.question),
        "options": [_clean(option) for option in result.options],
        "known": _clean(result.answer),
        "images": [pictures.place(result.benchmark, name) for name in result.images[:MAX_OF_ITEM]],
        "more_images": max(0, len(result.images) - MAX_OF_ITEM),
        "said": [],
    }


def _said(result: ItemResult) -> dict[str, Any]:
    reply = result.reply or ""
    rest = len(reply) - MAX_REPLY
    return {
        "verdict": str(result.verdict),
        "given": None if result.given is None else _clean(result.given),
        "rule": _clean(result.rule),
        "problem": _clean(result.problem),
        "cut": result.cut_off,
        "reply": _clean(reply[:MAX_REPLY]) + (f"\n... and {rest:,} more characters" if rest > 0 else ""),
        "scores": [*(f"{_clean(name)} {value:.2f}" for name, value in shown_scores(result).items()), *_claims(result)],
    }


def _claims(result: ItemResult) -> list[str]:
    return [
        _clean(f"step {claim['step']} {claim['verdict']} ({checker}): {claim['claim']}")
        for checker, claims in result.claims.items()
        for claim in claims
    ]


def _clean(text: str) -> str:
    return str(legible(text))


def write_item_page(models: Sequence[Evaluated], out: Path, folders: Mapping[str, Path]) -> Path:
    """Write the page of all items that the models were asked. Thousands of items are fine, because the page draws a few at a time.

    Args:
        models: from :func:`chiron.evaluation.read_runs.read_evaluations`.
        out: the file to write.
        folders: image folder of each benchmark.

    Returns:
        The file. Only its owner can read it, because it contains patient data.

    Raises:
        DiskError: the file cannot be written.
    """
    gathered = gather(models, folders)
    page = render_page(
        "chiron.evaluation",
        "items.html",
        styles=["report.css", "items.css"],
        script="items.js",
        data=embedded_json({"answerers": gathered.answerers, "items": gathered.items, "images": gathered.images}),
        written=time.strftime("%Y-%m-%d %H:%M %z"),
        verdicts=[str(verdict) for verdict in Verdict],
        counts=list(gathered.verdicts.items()),
        total=len(gathered.items),
    )
    write_atomically(out, page)
    return out
