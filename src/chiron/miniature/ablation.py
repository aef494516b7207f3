"""The ablation: what each part of the system does to the answers, in the miniature, over several seeds.

``python -m chiron.miniature.ablation --dir DIR`` runs it on as many processes as there are cores, a seed each, and goes on where it was
left. ``DIR/ablation.md`` has the tables with mean and spread, ``DIR/SEED/results.json`` the figures of each seed.
"""

import argparse
import json
import logging
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from chiron.files import write_atomically
from chiron.mics.reasoning import render_reasoning
from chiron.miniature import loop
from chiron.miniature.ablation_tables import tables
from chiron.miniature.data import Data, make_data, rows_of_paths, write_rows
from chiron.miniature.lessons import answer_row, chain, steps_of
from chiron.miniature.purity import Purity, is_pure, purity
from chiron.miniature.scale import FULL, QUICK, TINY, Scale

SCALES = {scale.name: scale for scale in (FULL, QUICK, TINY)}
SEARCHES: dict[str, dict[str, Any]] = {
    "verified": {},
    "paper": {"policy": "paper"},
}
"""Whose retained paths stage 3 is trained on; what differs from the demonstration's search."""
VARIATIONS: dict[str, dict[str, Any]] = {
    "one mentor": {"mentors": ["specialist-side-size"]},
    "two mentors": {"mentors": ["specialist-side-size", "specialist-density-margin"]},
    "temperature 0.2 only": {"temperatures": [0.2]},
    "temperature 1.2 only": {"temperatures": [1.2]},
    "depth 1": {"depth": 1},
    "depth 2": {"depth": 2},
    "threshold 0.9": {"threshold": 0.9},
    "no restart": {"restarts": 0},
}
"""Searches of fewer cases, for purity and yield alone."""
VARIED_CASES = 150


def run_seed(folder: Path, scale: Scale, seed: int) -> dict[str, Any]:
    """Everything for one seed; the figures, which are also written as ``results.json``."""
    import torch

    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    began = time.monotonic()
    data = make_data(folder / "data", scale, seed=seed)
    base = loop.train_first(data, scale, folder / "base", seed=seed)
    results: dict[str, Any] = {"seed": seed, "scale": scale.name, "base": _measured(base, data, folder / "base")}
    results |= {"arms": {}, "searches": {}}

    def keep() -> None:
        results["seconds"] = round(time.monotonic() - began)
        write_atomically(folder / "results.json", [json.dumps(results, indent=1) + "\n"])

    for name, changes in SEARCHES.items():
        results["searches"][name] = _searched(folder / f"search-{name}", base, data, seed, changes)
        keep()
    for name, changes in VARIATIONS.items():
        run = folder / f"search-{name.replace(' ', '-')}"
        results["searches"][name] = _searched(run, base, data, seed, changes, limit=VARIED_CASES)
        keep()
    for name, rows in stage_3(data, folder, seed):
        file = f"arm-{name.replace(' ', '-')}.jsonl"
        write_rows(data.folder / file, rows)
        if not rows:  # a search may retain nothing; that is a result, and there is nothing to train on
            results["arms"][name] = {"rows": 0, "pure": 0, "seen": None, "held_out": None}
            continue
        out = folder / file.removesuffix(".jsonl")
        if name == "no curriculum":
            model = loop.train_alone(data, file, scale, out, seed=seed)
        else:
            model = loop.train_last(base, data, file, scale, out, name="arm", seed=seed)
        pure = sum(is_pure(row["messages"][-1]["content"], truth) for row, truth in _with_truth(rows, data))
        results["arms"][name] = {"rows": len(rows), "pure": pure, **_measured(model, data, out)}
        keep()
    return results


def stage_3(data: Data, folder: Path, seed: int) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The ways of stage 3: their names and rows."""
    prompts = data.loaded_prompts()

    def rows(say: Callable[[Any], str]) -> list[dict[str, Any]]:
        return [answer_row(c.case, prompts, say(c)) for c in data.seen]

    yield "true chains", rows(lambda c: chain(c.attributes, c.case.answer))
    yield "direct answers", rows(lambda c: render_reasoning((), c.case.answer))
    yield (
        "answer, then rationale",
        rows(lambda c: f"{render_reasoning((), c.case.answer)}\n{chain(c.attributes, c.case.answer).rsplit(chr(10), 1)[0]}"),
    )
    for name in SEARCHES:
        yield f"MICS {name}", rows_of_paths(folder / f"search-{name}" / "paths.jsonl", data)
    yield "MICS verified, unfiltered", unfiltered_rows(folder / "search-verified", data)
    by_mentor = mentor_paths(folder / "search-verified")
    dice = random.Random(seed)  # noqa: S311 - to be repeated, not to be secret
    yield "a random mentor", rows(lambda c: dice.choice(sorted(by_mentor[c.case.id].items()))[1])
    yield "best single mentor", rows(lambda c: by_mentor[c.case.id][_best(by_mentor, data)])
    yield "no curriculum", rows(lambda c: render_reasoning((), c.case.answer))


def mentor_paths(run: Path) -> dict[str, dict[str, str]]:
    """Each mentor's first whole path of every case, by case and mentor, as the search's ledger has it."""
    from chiron.models.ledger import Ledger

    found: dict[str, dict[str, str]] = {}
    with Ledger.read(run / "ledger.sqlite") as ledger:
        for result in ledger.results():
            for candidate in result.record["tree"][0][0]["candidates"]:
                reply = ledger.get(candidate["key"]) if candidate["key"] else None
                if reply is not None:
                    found.setdefault(result.case_id, {})[candidate["mentor"]] = reply.text
    return found


def unfiltered_rows(run: Path, data: Data) -> list[dict[str, Any]]:
    """The path that the search ended with in every case, retained or not; of an unsolved case there is none."""
    from chiron.models.ledger import Ledger

    prompts = data.loaded_prompts()
    cases = {c.case.id: c.case for c in data.seen}
    with Ledger.read(run / "ledger.sqlite") as ledger:
        ended = [(r.case_id, r.record["reasoning"]) for r in ledger.results()]
    return [answer_row(cases[case_id], prompts, reasoning) for case_id, reasoning in ended if reasoning]


def _best(by_mentor: dict[str, dict[str, str]], data: Data) -> str:
    """The mentor with most pure paths."""
    truth = {c.case.id: set(steps_of(c.attributes)) for c in data.seen}
    counts: dict[str, int] = {}
    for case_id, paths in by_mentor.items():
        for mentor, path in paths.items():
            counts[mentor] = counts.get(mentor, 0) + is_pure(path, truth[case_id])
    return max(sorted(counts), key=lambda mentor: counts[mentor])


def _searched(run: Path, base: Path, data: Data, seed: int, changes: dict[str, Any], limit: int | None = None) -> dict[str, Any]:
    summary = loop.search(loop.team(base, data, seed=seed, **changes), data, run, limit=limit)
    if summary.halted is not None or summary.pending:
        raise RuntimeError(f"{run}: {summary.pending} pending, {summary.halted}")
    found: Purity = purity(run, data)
    return {"cases": summary.total, "retained": found.retained, "pure": found.pure, "evaluations": found.evaluations}


def _measured(model: Path, data: Data, out: Path) -> dict[str, Any]:
    measured = loop.measure(model, data, out / "answers")
    return {"seen": measured.seen_share.value, "held_out": measured.held_out_share.value}


def _with_truth(rows: list[dict[str, Any]], data: Data) -> Iterator[tuple[dict[str, Any], set[str]]]:
    truth = {c.case.id: set(steps_of(c.attributes)) for c in data.seen}
    return ((row, truth[row["id"]]) for row in rows)


def main() -> None:
    """Run the ablation from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--dir", type=Path, default=Path("ablation"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scale", choices=sorted(SCALES), default="full")
    chosen = parser.parse_args()
    os.environ.update(OMP_WAIT_POLICY="PASSIVE", OMP_NUM_THREADS="1")
    scale = SCALES[chosen.scale]
    workers = min(chosen.seeds, os.cpu_count() or 1)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(run_seed, chosen.dir / str(seed), scale, seed) for seed in range(chosen.seeds)]
        results = [job.result() for job in jobs]
    write_atomically(chosen.dir / "ablation.md", [tables(results)])
    sys.stdout.write(tables(results))


if __name__ == "__main__":
    main()
