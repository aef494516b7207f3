"""The ablation's figures as tables: mean over seeds, and from the lowest to the highest."""

from collections.abc import Callable, Sequence
from typing import Any

from chiron.miniature.lessons import ATTRIBUTES

STRONG, WEAK = "base", "weak"
"""The model of stage 2, which arms start from and which is the intern; and one of a quarter of its steps, an intern now and then."""
AS_BEFORE = "nothing"
"""The variation that varies nothing."""
_BASES = {"(none: the model of stage 2)": STRONG, "(none: the weak intern)": WEAK}


def tables(results: Sequence[dict[str, Any]]) -> str:
    """Markdown, from the figures of each seed."""
    seeds = ", ".join(str(r["seed"]) for r in results)
    head = f"Seeds {seeds}; scale {results[0]['scale']}; mean, and in brackets the lowest and the highest. Chance is 0.167.\n"
    arms = _table(("stage 3 on", "rows", "pure rows", "seen", "held out"), [*_BASES, *_names(results, "arms")], results, _arm)
    found = [_with_first_cases(r) for r in results]
    searches = _table(
        ("search", "cases", "retained", "pure of retained", "evaluations a pure path", "seen", "held out"),
        _names(found, "searches"),
        found,
        lambda r, name: _search(r["searches"].get(name), r["varied"].get(name)),
    )
    seen = _table(
        ("stage 3 on", *(f"{name} right" for name in ATTRIBUTES), "no final answer"),
        [*_BASES, *_names(results, "arms")],
        results,
        _perception,
    )
    return f"{head}\n{arms}\n{searches}\n{seen}"


def _names(results: Sequence[dict[str, Any]], part: str) -> list[str]:
    return list(dict.fromkeys(name for r in results for name in r[part]))


def _with_first_cases(result: dict[str, Any]) -> dict[str, Any]:
    """The result, and beside each long search the figures of as many of its cases as the short ones have, to compare them with."""
    searches: dict[str, Any] = {}
    varied = dict(result["varied"])
    for name, found in result["searches"].items():
        searches[name] = found
        if "first" in found:
            first = f"{name}, the first {found['first']['cases']} of them"
            searches[first] = {**found["first"], "evaluations": None}
            if name == "verified" and AS_BEFORE in varied:
                varied[first] = varied[AS_BEFORE]
    return {**result, "searches": searches, "varied": varied}


def _perception(result: dict[str, Any], name: str) -> tuple[float | None, ...] | None:
    arm = _trained(result, name)
    # A model that was taught no steps says none: it may see well all the same.
    if arm is None or "perception" not in arm or arm.get("pure") == 0:
        return None
    return *(arm["perception"][attribute] for attribute in ATTRIBUTES), arm["without_answer"]


def _arm(result: dict[str, Any], name: str) -> tuple[float | None, ...] | None:
    arm = _trained(result, name)
    if arm is None or name in _BASES:
        return None if arm is None else (None, None, arm["seen"], arm["held_out"])
    return arm["rows"], arm["pure"] / arm["rows"] if arm["rows"] else None, arm["seen"], arm["held_out"]


def _trained(result: dict[str, Any], name: str) -> dict[str, Any] | None:
    found: dict[str, Any] | None = result["bases"].get(_BASES[name]) if name in _BASES else result["arms"].get(name)
    return found


def _search(found: dict[str, Any] | None, varied: dict[str, Any] | None) -> tuple[float | None, ...] | None:
    if found is None:
        return None
    share = found["pure"] / found["retained"] if found["retained"] else None
    price = found["evaluations"] / found["pure"] if found["evaluations"] is not None and found["pure"] else None
    after = (None, None) if varied is None else (varied["seen"], varied["held_out"])
    return found["cases"], found["retained"] / found["cases"], share, price, *after


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
