"""The ablation: what each part of the system does to the answers, in the miniature, over several seeds.

``python -m experiments.ablation --dir DIR`` runs or resumes it, in two single-threaded processes by default. ``DIR/ablation.md`` has the
tables with mean and range. ``DIR/SEED/figures/`` has the results of each part for each seed.
"""

import argparse
import json
import logging
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from chiron.demo import loop
from chiron.demo.data import FULL, QUICK, TINY, Data, Scale, is_pure, make_data, perception, purity
from chiron.demo.processes import Job, Say, cores, run_jobs
from chiron.demo.stage_rows import ATTRIBUTES, build_stage_3, steps_of, write_rows
from chiron.errors import ChironError, InputError
from chiron.io import write_atomically
from experiments.arms import ALONE, ARMS, NEEDS, VERIFIED, Rows

STRONG, WEAK = "base", "weak"
"""Names of the stage 2 model (the start of all arms and the usual intern) and of a weak intern with a quarter of its steps."""
AS_BEFORE = "nothing"
"""Name of the control: the unchanged search on the cases of the variations."""
_BASES = {"(none: the model of stage 2)": STRONG, "(none: the weak intern)": WEAK}


def tables(results: Sequence[dict[str, Any]]) -> str:
    """Format the results of all seeds as Markdown tables."""
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
    """Add to each full search the results on the first cases only, for comparison with the shorter searches."""
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
    arm = _trained_on(result, name)
    # A model trained without steps does not state any, so its perception cannot be measured.
    if arm is None or "perception" not in arm or arm.get("pure") == 0:
        return None
    return *(arm["perception"][attribute] for attribute in ATTRIBUTES), arm["without_answer"]


def _arm(result: dict[str, Any], name: str) -> tuple[float | None, ...] | None:
    arm = _trained_on(result, name)
    if arm is None or name in _BASES:
        return None if arm is None else (None, None, arm["seen"], arm["held_out"])
    return arm["rows"], arm["pure"] / arm["rows"] if arm["rows"] else None, arm["seen"], arm["held_out"]


def _trained_on(result: dict[str, Any], name: str) -> dict[str, Any] | None:
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


SCALES = {scale.name: scale for scale in (FULL, QUICK, TINY)}
SEARCHES: dict[str, dict[str, Any]] = {
    "verified": {},
    "paper": {"policy": "paper"},
}
"""Searches whose retained paths are used for stage 3, with their differences from the demonstration's search."""
_PAIRS = tuple("+".join(pair) for pair in combinations(ATTRIBUTES, 2))
VARIATIONS: dict[str, dict[str, Any]] = {
    "one mentor": {"taught_by": loop.mentors(["side+size"])},
    "two mentors": {"taught_by": loop.mentors(["side+size", "density+margin"])},
    "six mentors": {"taught_by": loop.mentors(_PAIRS)},
    "worse mentors: .7 on what they know": {"taught_by": loop.mentors(rights="@0.7,0.5")},
    "better mentors: .8 on the rest": {"taught_by": loop.mentors(rights="@0.95,0.8")},
    "a weak intern": {"interns": (WEAK,)},
    "a strong and a weak intern": {"interns": (loop.INTERN, WEAK)},
    "temperature 0.2 only": {"temperatures": [0.2]},
    "temperature 1.2 only": {"temperatures": [1.2]},
    "depth 1": {"depth": 1},
    "depth 2": {"depth": 2},
    "threshold 0.9": {"threshold": 0.9},
    "threshold 0.3": {"threshold": 0.3},
    "no restart": {"restarts": 0},
}
"""Searches of fewer cases, with their differences. Stage 3 is trained on their retained paths, and for comparison on the paths of the first
search for the same cases."""
VARIED_CASES = 150

Figures = dict[str, Any]


def run_ablation(folder: Path, scale: Scale, seeds: Sequence[int], *, processes: int, tell: Callable[[str], None]) -> list[Figures]:
    """Run all parts for all seeds, each in its own process, and return the results of each seed.

    Raises:
        InputError: The folder contains an ablation of another scale, or a search stopped.
        DiskError: The disk is full.
    """
    _claim(folder, scale)
    jobs: list[Job] = []
    names: list[tuple[int, str, str]] = []

    def add(seed: int, part: str, name: str, after: tuple[int, ...]) -> int:
        jobs.append(Job(_once, (folder, scale, seed, part, name), after))
        names.append((seed, part, name))
        return len(jobs) - 1

    bases = {seed: add(seed, "bases", STRONG, ()) for seed in seeds}
    weak = {seed: add(seed, "bases", WEAK, ()) for seed in seeds}
    for seed in seeds:
        searched = {name: add(seed, "searches", name, (bases[seed],)) for name in SEARCHES}
        for name in ARMS:
            add(seed, "arms", name, (searched[NEEDS[name]] if name in NEEDS else bases[seed],))
        add(seed, "varied", AS_BEFORE, (searched["verified"],))
        for name, change in VARIATIONS.items():
            asked = (weak[seed],) if WEAK in change.get("interns", ()) else ()
            add(seed, "varied", name, (add(seed, "searches", name, (bases[seed], *asked)),))
    figures = run_jobs(jobs, at_once=processes, hear=lambda number, said: tell(f"seed {names[number][0]}, {names[number][2]}: {said}"))
    results: list[Figures] = [{"seed": seed, "scale": scale.name, "bases": {}, "searches": {}, "arms": {}, "varied": {}} for seed in seeds]
    for (seed, part, name), found in zip(names, figures, strict=True):
        results[list(seeds).index(seed)][part][name] = found
    return results


def _claim(folder: Path, scale: Scale) -> None:
    """Record the scale in the folder, so that results of different scales are not mixed."""
    path, wanted = folder / "scale.json", json.dumps(asdict(scale), indent=1) + "\n"
    if path.is_file() and path.read_text() != wanted:
        raise InputError(f"{folder} holds an ablation of another scale: name another --dir")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, [wanted])


def _once(say: Say, folder: Path, scale: Scale, seed: int, part: str, name: str) -> Figures:
    """Compute the results of one part, or read them if they exist."""
    own = folder / str(seed)
    path = own / "figures" / f"{part}-{_slug(name)}.json"
    if path.is_file():
        found: Figures = json.loads(path.read_text())
        return found
    import torch

    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    began, used = time.monotonic(), time.process_time()
    data = make_data(own / "data", scale, seed=seed)
    if part == "bases":
        steps = scale.alignment_steps if name == STRONG else max(1, scale.alignment_steps // 4)
        model = loop.train_first(data, replace(scale, alignment_steps=steps), own / name, seed=seed)
        found = _measured(model, data, own / name)
    elif part == "searches":
        found = _searched(own, data, seed, name)
    elif part == "varied":
        found = _varied(own, data, scale, seed, name)
    else:
        found = _trained(own, data, scale, seed, name, ARMS[name](data, own, seed))
    found |= {"seconds": round(time.monotonic() - began), "cpu_seconds": round(time.process_time() - used)}
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, [json.dumps(found, indent=1) + "\n"])
    say(json.dumps(found))
    return found


def _searched(own: Path, data: Data, seed: int, name: str) -> Figures:
    run = own / f"search-{_slug(name)}"
    limit = VARIED_CASES if name in VARIATIONS else None
    change = {"interns": (loop.INTERN,), **{**SEARCHES, **VARIATIONS}[name]}
    interns = {intern: own / (WEAK if intern == WEAK else STRONG) / "model" for intern in change["interns"]}
    summary = loop.search(loop.team(**{**change, "interns": interns}, data=data, seed=seed), data, run, limit=limit)
    if summary.halted is not None or summary.pending:
        raise InputError(f"{run}: {summary.pending} cases pending ({summary.halted}); run the same command again to go on")
    found = purity(run, data)
    figures: Figures = {"cases": summary.total, "retained": found.retained, "pure": found.pure, "evaluations": found.evaluations}
    if limit is None:
        first = purity(run, data, first=VARIED_CASES)
        figures["first"] = {"cases": first.cases, "retained": first.retained, "pure": first.pure}
    return figures


def _varied(own: Path, data: Data, scale: Scale, seed: int, name: str) -> Figures:
    """Train on a search of fewer cases, for half as many steps as the arms with all cases, and evaluate."""
    first = {c.case.id for c in data.seen[:VARIED_CASES]}
    run = own / (VERIFIED if name == AS_BEFORE else f"search-{_slug(name)}")
    rows = [row for row in build_stage_3(run, data.folder / f"chains-{_slug(name)}") if row["case_id"] in first]
    return _trained(own, data, replace(scale, final_steps=max(1, scale.final_steps // 2)), seed, f"varied {name}", rows)


def _trained(own: Path, data: Data, scale: Scale, seed: int, name: str, rows: Rows) -> Figures:
    slug = _slug(name)
    rows = write_rows(data.folder / f"arm-{slug}.jsonl", rows)
    if not rows:  # a search may retain no path; that is a valid result, without training
        return {"rows": 0, "pure": 0, "seen": None, "held_out": None}
    file, out = f"arm-{slug}.jsonl", own / f"arm-{slug}"
    if name == ALONE:
        model = loop.train_alone(data, file, scale, out, seed=seed)
    else:
        model = loop.train_last(own / STRONG / "model", data, file, scale, out, name="arm", seed=seed)
    truth = {c.case.id: set(steps_of(c.attributes)) for c in data.seen}
    pure = sum(is_pure(row["messages"][-1]["content"], truth[row["case_id"]]) for row in rows)
    return {"rows": len(rows), "pure": pure, **_measured(model, data, out)}


def _measured(model: Path, data: Data, out: Path) -> Figures:
    measured = loop.measure(model, data, out / "answers")
    answered = (*measured.seen, *measured.held_out)
    return {
        "seen": measured.seen_share.value,
        "held_out": measured.held_out_share.value,
        "without_answer": sum(a.answer is None for a in answered) / len(answered),
        "perception": perception(answered, data),
    }


def _slug(name: str) -> str:
    return "-".join(re.findall(r"[a-z0-9.]+", name.lower()))


def main() -> int:
    """Run the ablation from the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--dir", type=Path, default=Path("ablation"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scale", choices=sorted(SCALES), default="full")
    parser.add_argument("--processes", type=int, default=min(2, cores()), help="at one time, of one thread each")
    chosen = parser.parse_args()
    began = time.monotonic()

    def tell(line: str) -> None:
        sys.stderr.write(f"{time.monotonic() - began:6.0f} s  {line}\n")

    try:
        results = run_ablation(chosen.dir, SCALES[chosen.scale], range(chosen.seeds), processes=chosen.processes, tell=tell)
        write_atomically(chosen.dir / "ablation.md", [tables(results)])
    except ChironError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except KeyboardInterrupt:
        return 130
    sys.stdout.write(tables(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
