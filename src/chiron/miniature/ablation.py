"""The ablation: what each part of the system does to the answers, in the miniature, over several seeds.

``python -m chiron.miniature.ablation --dir DIR`` runs it, two processes of one thread at a time, and goes on where it was left.
``DIR/ablation.md`` has the tables with mean and spread, ``DIR/SEED/figures/`` what was found of each part of each seed.
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

from chiron.errors import ChironError, InputError
from chiron.files import write_atomically
from chiron.miniature import loop
from chiron.miniature.ablation_tables import AS_BEFORE, STRONG, WEAK, tables
from chiron.miniature.arms import ALONE, ARMS, NEEDS, VERIFIED, Rows
from chiron.miniature.data import Data, make_data
from chiron.miniature.lessons import ATTRIBUTES, steps_of
from chiron.miniature.material import build_stage_3, write_rows
from chiron.miniature.processes import Job, Say, cores, run_jobs
from chiron.miniature.purity import is_pure, perception, purity
from chiron.miniature.scale import FULL, QUICK, TINY, Scale

SCALES = {scale.name: scale for scale in (FULL, QUICK, TINY)}
SEARCHES: dict[str, dict[str, Any]] = {
    "verified": {},
    "paper": {"policy": "paper"},
}
"""Whose retained paths stage 3 is trained on; what differs from the demonstration's search."""
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
"""Searches of fewer cases, and what differs in them. What they retain is trained on, too: the first search's paths of the same cases beside
them."""
VARIED_CASES = 150

Figures = dict[str, Any]


def run_ablation(folder: Path, scale: Scale, seeds: Sequence[int], *, processes: int, tell: Callable[[str], None]) -> list[Figures]:
    """All parts of all seeds, each in a process of its own; the figures of each seed.

    Raises:
        InputError: the folder holds an ablation of another scale, or a search stopped.
        DiskError: the disk is full.
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
    """Make the folder this scale's own, lest figures of two be put together."""
    path, wanted = folder / "scale.json", json.dumps(asdict(scale), indent=1) + "\n"
    if path.is_file() and path.read_text() != wanted:
        raise InputError(f"{folder} holds an ablation of another scale: name another --dir")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, [wanted])


def _once(say: Say, folder: Path, scale: Scale, seed: int, part: str, name: str) -> Figures:
    """Find one part's figures, or read them where they were found before."""
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
    """What comes of training on a search of fewer cases, in half as many steps as other arms take on all of them."""
    first = {c.case.id for c in data.seen[:VARIED_CASES]}
    run = own / (VERIFIED if name == AS_BEFORE else f"search-{_slug(name)}")
    rows = [row for row in build_stage_3(run, data.folder / f"chains-{_slug(name)}") if row["case_id"] in first]
    return _trained(own, data, replace(scale, final_steps=max(1, scale.final_steps // 2)), seed, f"varied {name}", rows)


def _trained(own: Path, data: Data, scale: Scale, seed: int, name: str, rows: Rows) -> Figures:
    slug = _slug(name)
    rows = write_rows(data.folder / f"arm-{slug}.jsonl", rows)
    if not rows:  # a search may retain nothing; that is a result, and there is nothing to train on
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
    """Run the ablation from the command line; the exit code."""
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
