"""The ablation's figures as tables: mean over seeds, and from the lowest to the highest."""

from collections.abc import Callable, Sequence
from typing import Any

from chiron.miniature.lessons import ATTRIBUTES


def tables(results: Sequence[dict[str, Any]]) -> str:
    """Markdown, from the figures of each seed."""
    seeds = ", ".join(str(r["seed"]) for r in results)
    head = f"Seeds {seeds}; scale {results[0]['scale']}; mean, and in brackets the lowest and the highest. Chance is 0.167.\n"
    arms = _table(
        ("stage 3 on", "rows", "pure rows", "seen", "held out"),
        ["(none: the model of stage 2)", *_names(results, "arms")],
        results,
        _arm,
    )
    searches = _table(
        ("search", "cases", "retained", "pure of retained", "evaluations a pure path"),
        _names(results, "searches"),
        results,
        lambda r, name: _search(r["searches"].get(name)),
    )
    seen = _table(
        ("stage 3 on", *(f"{name} right" for name in ATTRIBUTES), "no final answer"),
        ["(none: the model of stage 2)", *_names(results, "arms")],
        results,
        _perception,
    )
    return f"{head}\n{arms}\n{searches}\n{seen}"


def _names(results: Sequence[dict[str, Any]], part: str) -> list[str]:
    return list(dict.fromkeys(name for r in results for name in r[part]))


def _perception(result: dict[str, Any], name: str) -> tuple[float | None, ...] | None:
    arm = result["base"] if name.startswith("(") else result["arms"].get(name)
    if arm is None or "perception" not in arm:
        return None
    return *(arm["perception"][attribute] for attribute in ATTRIBUTES), arm["without_answer"]


def _arm(result: dict[str, Any], name: str) -> tuple[float | None, ...] | None:
    if name.startswith("("):
        return None, None, result["base"]["seen"], result["base"]["held_out"]
    arm = result["arms"].get(name)
    return None if arm is None else (arm["rows"], arm["pure"] / arm["rows"] if arm["rows"] else None, arm["seen"], arm["held_out"])


def _search(found: dict[str, Any] | None) -> tuple[float | None, ...] | None:
    if found is None:
        return None
    share = found["pure"] / found["retained"] if found["retained"] else None
    return found["cases"], found["retained"] / found["cases"], share, found["evaluations"] / found["pure"] if found["pure"] else None


def _table(
    titles: tuple[str, ...],
    names: list[str],
    results: Sequence[dict[str, Any]],
    figures: Callable[[dict[str, Any], str], tuple[float | None, ...] | None],
) -> str:
    lines = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    for name in names:
        rows = [row for r in results if (row := figures(r, name)) is not None]
        cells = [_cell([row[k] for row in rows]) for k in range(len(titles) - 1)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(values: Sequence[float | None]) -> str:
    there = [v for v in values if v is not None]
    if not there:
        return "-"
    form: Callable[[float], str] = (lambda v: f"{v:.0f}") if any(isinstance(v, int) or v > 1 for v in there) else (lambda v: f"{v:.3f}")
    mean = form(sum(there) / len(there))
    return mean if len(there) == 1 or min(there) == max(there) else f"{mean} ({form(min(there))} to {form(max(there))})"
