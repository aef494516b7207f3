"""Markdown tables of the study's results, with mean and range over the seeds."""

from collections.abc import Callable, Sequence
from typing import Any

from chiron.demo.ladder import PartAccuracy

Figures = dict[str, Any]


def tables(results: Sequence[Figures]) -> str:
    """Format the results of all seeds: the ladder, the interns, the searches, the variations, and the worth of the score."""
    seeds = ", ".join(str(r["seed"]) for r in results)
    parts = [
        f"Seeds {seeds}; scale {results[0]['scale']}. Mean, lowest and highest of the seeds.\n",
        "In brackets: 95 % interval of all answers (cluster-robust t). The clusters are combinations of attributes of each seed.\n",
        _models(results, "ladder", "stage 3 on"),
        _models(results, "interns", "intern", counted="true chains"),
    ]
    if any("after mics_verified" in r for r in results):
        parts.append(_models(results, "after mics_verified", "after MICS, verified: a fifth of the steps on", counted="pairs"))
    if any("variants" in r for r in results):
        parts += [_models(results, "variants", "variation"), _models(results, "second round", "second round")]
    parts += [_searches(results), _worth(results)]
    return "\n".join(parts)


def _models(results: Sequence[Figures], part: str, title: str, counted: str = "rows") -> str:
    def cells(found: Sequence[Figures]) -> list[str]:
        return [
            _range([f["rows"] for f in found], "{:.0f}"),
            _range([f["pure"] / f["rows"] for f in found if f.get("pure") is not None and f["rows"]], of=len(found)),
            *(_pooled(found, kind) for kind in ("seen", "held_out")),
        ]

    return _table((title, counted, "true rows", "seen", "held out"), _by_name(results, part), cells)


def _searches(results: Sequence[Figures]) -> str:
    def cells(found: Sequence[Figures]) -> list[str]:
        return [
            _range([f["retained"] / f["cases"] for f in found]),
            _range([f["pure"] / f["retained"] for f in found if f["retained"]], of=len(found)),
            _range([f["evaluations"] / f["pure"] for f in found if f["pure"]], "{:.0f}", of=len(found)),
        ]

    return _table(("search", "retained", "true of retained", "evaluations a true path"), _by_name(results, "searches"), cells)


def _worth(results: Sequence[Figures]) -> str:
    rows: dict[str, list[Figures]] = {}
    for name, found in _by_name(results, "searches").items():
        for part in ("all", "by_depth", "by_interns"):
            for f in found:
                split = {"": f["score_worth"][part]} if part == "all" else f["score_worth"][part]
                for key, worth in split.items():
                    label = {"all": name, "by_depth": f"{name}, depth {key}", "by_interns": f"{name}, {key} intern(s)"}[part]
                    rows.setdefault(label, []).append(worth)

    def cells(found: Sequence[Figures]) -> list[str]:
        shares: dict[float, list[Figures]] = {}
        for worth in found:
            for point in worth["calibration"]:
                shares.setdefault(point["score"], []).append(point)
        curve = ", ".join(
            f"{score:g}: {sum(p['n'] * p['true'] for p in points) / sum(p['n'] for p in points):.2f}"
            for score, points in sorted(shares.items())
        )
        return [_range([w["n"] for w in found], "{:.0f}"), _range([w["auc"] for w in found if w["auc"] is not None], of=len(found)), curve]

    return _table(("scores of prefixes", "prefixes", "AUC", "share of true prefixes by score"), rows, cells)


def _by_name(results: Sequence[Figures], part: str) -> dict[str, list[Figures]]:
    names = dict.fromkeys(name for r in results for name in r.get(part, {}))
    return {name: [r[part][name] for r in results if name in r.get(part, {})] for name in names}


def _table(titles: tuple[str, ...], rows: dict[str, list[Figures]], cells: Callable[[Sequence[Figures]], list[str]]) -> str:
    lines = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    lines += [f"| {name} | {' | '.join(cells(found))} |" for name, found in rows.items()]
    return "\n".join(lines) + "\n"


def _range(values: Sequence[float], form: str = "{:.3f}", *, of: int | None = None) -> str:
    """Format mean and range; if only some ``of`` the seeds have a value, also how many."""
    if not values:
        return "-"
    mean, low, high = (form.format(v) for v in (sum(values) / len(values), min(values), max(values)))
    some = f", {len(values)} of {of} seeds" if of is not None and len(values) < of else ""
    return (mean if low == high else f"{mean} ({low} to {high})") + some


def _pooled(found: Sequence[Figures], kind: str) -> str:
    measured = [f for f in found if kind in f]
    if not measured:
        return "-"
    correct: list[bool] = []
    combinations: list[tuple[int, int]] = []
    for seed, figures in enumerate(measured):
        for number, (right, n) in enumerate(figures["combinations"][kind]):
            correct += [True] * right + [False] * (n - right)
            combinations += [(seed, number)] * n
    low, high = PartAccuracy.from_answers(correct, combinations).interval
    return f"{_range([f[kind]['right'] / f[kind]['n'] for f in measured], of=len(found))} [{low:.3f}, {high:.3f}]"
