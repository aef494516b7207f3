"""The full ladder over several seeds, and what changes with the number of true chains and the mentors' faults.

``python -m experiments.ladder --dir DIR`` runs or resumes it, in two single-threaded processes by default. ``DIR/ladder.md`` has the tables
with mean and range. ``DIR/SEED/figures/`` has the results of each part for each seed, as soon as they are known.
"""

import argparse
import json
import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from chiron import build_preferences, parse_reasoning
from chiron.demo import loop
from chiron.demo.curriculum import after_stage_3, first_stages, intern, last_stage, train_recipe
from chiron.demo.data import FULL, QUICK, TINY, Data, Purity, Scale, castings, is_pure, make_data, purity
from chiron.demo.demonstration import check_search
from chiron.demo.ladder import BASE, LADDER, PAPER, VERIFIED, rung_record, true_chains
from chiron.demo.processes import Job, Say, cores, run_jobs
from chiron.demo.stage_rows import ATTRIBUTES, Rows, build_annotated, build_stage_3, described, steps_of, write_cases, write_rows
from chiron.errors import ChironError, InputError
from chiron.evaluation.api import Answered
from chiron.io import read_jsonl, write_atomically
from chiron.mmrp.cot import intern_form
from chiron.mmrp.row import ROWS
from chiron.phantom.sample import SyntheticCase, write_castings
from experiments.score_worth import score_worth
from experiments.tables import tables

SCALES = {scale.name: scale for scale in (FULL, QUICK, TINY)}
Figures = dict[str, Any]
FORMAT = 2
"""Format of the results of a part. Raise it when a field is added or changes its meaning: older results are then computed again, from the
stored models and replies."""


@dataclass(frozen=True)
class Variant:
    """A search that differs from the demonstration's, and the rungs that depend on it."""

    annotated: int | None = None
    """Number of true chains that the interns are made from; ``None``: as many as in the demonstration."""
    mentors: Mapping[str, str] = field(default_factory=loop.mentors)
    rungs: tuple[str, ...] = ("mics_verified",)


VARIANTS: dict[str, Variant] = {
    "5 true chains": Variant(5, rungs=("few_true_chains", "mics_verified")),
    "10 true chains": Variant(10, rungs=("few_true_chains", "mics_verified")),
    "60 true chains": Variant(60, rungs=("few_true_chains", "mics_verified")),
    "240 true chains": Variant(240, rungs=("few_true_chains", "mics_verified")),
    "worse mentors": Variant(mentors=loop.mentors(rights="@0.7,0.5")),
    "better mentors": Variant(mentors=loop.mentors(rights="@0.95,0.8")),
    "mentors with the same faults": Variant(mentors=loop.mentors(("side+level+size", "side+level", "level+size"))),
    "one mentor": Variant(mentors=loop.mentors(loop.SPECIALISTS[:1])),
}
SECOND_ROUND = "second round"
PAIRS, MORE = "preference pairs (DPO)", "more of stage 3 (control)"
"""What the model of ``mics_verified`` is trained on further, for a fifth of its steps."""
AFTER = "after mics_verified"


@dataclass
class _Plan:
    jobs: list[Job] = field(default_factory=list)
    names: list[tuple[int, str, str]] = field(default_factory=list)

    def add(self, folder: Path, scale: Scale, seed: int, part: str, name: str, after: Sequence[int]) -> int:
        self.jobs.append(Job(once, (folder, scale, seed, part, name), tuple(after)))
        self.names.append((seed, part, name))
        return len(self.jobs) - 1


def run_study(
    folder: Path, scale: Scale, seeds: Sequence[int], *, only_ladder: bool, processes: int, tell: Callable[[str], None]
) -> list[Figures]:
    """Run all parts for all seeds, each in its own process, and return the results of each seed.

    Raises:
        InputError: The folder contains a study of another scale, or a search stopped.
        DiskError: The disk is full.
    """
    _claim(folder, scale)
    plan = _Plan()
    for seed in seeds:

        def add(part: str, name: str, *after: int, seed: int = seed) -> int:
            return plan.add(folder, scale, seed, part, name, after)

        base = add("ladder", BASE)
        interns = [add("interns", name, base) for name in loop.INTERNS]
        searches = {VERIFIED: add("searches", VERIFIED, *interns)}
        searches[PAPER] = add("searches", PAPER, searches[VERIFIED])
        rungs = {name: add("ladder", name, searches.get(rung.search or "", base)) for name, rung in LADDER.items() if name != BASE}
        for name in (PAIRS, MORE):
            add(AFTER, name, rungs["mics_verified"])
        if only_ladder:
            continue
        add(SECOND_ROUND, SECOND_ROUND, rungs["mics_verified"])
        for name, variant in VARIANTS.items():
            search = add("searches", name, base, *interns)
            for rung in variant.rungs:
                add("variants", f"{name}: {rung}", search)
    hear = lambda number, news: tell("seed {}, {}, {}: ".format(*plan.names[number]) + str(news))  # noqa: E731
    figures = run_jobs(plan.jobs, at_once=processes, hear=hear)
    results: list[Figures] = [{"seed": seed, "scale": scale.name} for seed in seeds]
    for (seed, part, name), found in zip(plan.names, figures, strict=True):
        results[list(seeds).index(seed)].setdefault(part, {})[name] = found
    return results


def _claim(folder: Path, scale: Scale) -> None:
    """Record the scale in the folder, so that results of different scales are not mixed."""
    path, wanted = folder / "scale.json", json.dumps(asdict(scale), indent=1) + "\n"
    if path.is_file() and path.read_text() != wanted:
        raise InputError(f"{folder} contains a study of another scale: name another --dir")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, [wanted])


def once(say: Say, folder: Path, scale: Scale, seed: int, part: str, name: str) -> Figures:
    """Compute the results of one part, or read them if they exist."""
    study = Study(folder / str(seed), scale, seed)
    path = study.own / "figures" / f"{part}-{name}.json".replace(" ", "-").replace(":", "")
    if path.is_file():
        stored: Figures = json.loads(path.read_text())
        if stored.get("format") == FORMAT:
            return stored
    import torch

    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    began, used = time.monotonic(), time.process_time()
    found = study.compute(part, name)
    found |= {"format": FORMAT, "seconds": round(time.monotonic() - began), "cpu_seconds": round(time.process_time() - used)}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, [json.dumps(found, indent=1) + "\n"])
    say(json.dumps({key: found[key] for key in ("seen", "held_out", "retained", "pure", "seconds") if key in found}))
    return found


class Study:
    """Parts of the study of one seed."""

    def __init__(self, own: Path, scale: Scale, seed: int) -> None:
        """``own``: Folder of the seed."""
        self.own, self.scale, self.seed = own, scale, seed
        self.data = make_data(own / "data", scale, seed=seed)

    def compute(self, part: str, name: str) -> Figures:
        """Compute one part."""
        if part == "interns":
            model = self._train_intern(name, self.own / name, "annotated.jsonl")
            return self._measured(name, model, self.own / name, self.scale.annotated)
        if part == "searches":
            return self._search(name)
        if part == "variants":
            variant, rung = name.split(": ")
            return self._variant_rung(variant, rung)
        if part == SECOND_ROUND:
            return self._second_round()
        if part == AFTER:
            return self._after(name)
        return self._rung(name)

    def _rung(self, name: str) -> Figures:
        if name == BASE:
            model = train_recipe(first_stages(self.data, self.scale, seed=self.seed), self.data, self.own / BASE)
            return self._measured(name, model, self.own / BASE, 0)
        rung = LADDER[name]
        return self._trained(name, None if rung.rows is None else rung.rows(self.data, self.own, self.seed))

    def _trained(self, name: str, rows: Rows | None, data: Data | None = None) -> Figures:
        """Train stage 3 on rows from the model of stage 2, and evaluate."""
        slug = name.replace(" ", "-").replace(":", "")
        file = None
        if rows is not None:
            file = f"rung-{slug}.jsonl"
            write_rows(self.data.folder / file, rows)
        if rows == []:  # a search may retain no path; that is a valid result, without training
            return {"rows": 0}
        out = self.own / slug
        model = train_recipe(last_stage(self.own / BASE / "model", file, self.scale, name="rung", seed=self.seed), self.data, out)
        truth = _truth((*(data or self.data).seen, *self._annotated(240)))
        pure = sum(is_pure(row["messages"][-1]["content"], truth[row["case_id"]]) for row in rows or ())
        return {**self._measured(name, model, out, len(rows or ())), "pure": pure}

    def _train_intern(self, name: str, out: Path, rows: str) -> Path:
        seed = len(loop.INTERNS) * self.seed + loop.INTERNS.index(name)
        return train_recipe(intern(self.own / BASE / "model", rows, self.scale, seed=seed), self.data, out)

    def _search(self, name: str) -> Figures:
        run = self.own / (name if name in {VERIFIED, PAPER} else f"search-{name}".replace(" ", "-"))
        interns = {intern: self.own / intern / "model" for intern in loop.INTERNS}
        variant = VARIANTS.get(name, Variant())
        if variant.annotated is not None:
            interns = self._variant_interns(variant.annotated)
        if name == PAPER:
            team = loop.team(interns, self.data, seed=self.seed, policy="paper")
            summary = loop.replay(team, self.own / VERIFIED, run)
        else:
            team = loop.team(interns, self.data, seed=self.seed, taught_by=variant.mentors)
            summary = loop.search(team, self.data, run)
        if summary.halted is not None or summary.pending:
            check_search(summary)
        found = purity(run, self.data)
        worth = score_worth(run, _truth(self.data.seen), list(interns))
        return {**_counts(found), "score_worth": worth}

    def _variant_interns(self, count: int) -> dict[str, Path]:
        rows = f"annotated-{count}.jsonl"
        if not (self.data.folder / rows).is_file():
            folder = self.data.folder / f"annotated-{count}"
            cases = self._annotated(count)
            write_castings(cases, self.data.images)
            folder.mkdir(exist_ok=True)
            (folder / "textbook.jsonl").write_bytes((self.data.folder / "textbook.jsonl").read_bytes())
            made = build_annotated(map(described, cases), folder, self.data.loaded_prompts(), seed=self.seed)
            write_rows(self.data.folder / rows, made)
        return {name: self._train_intern(name, self.own / f"{name}-of-{count}", rows) for name in loop.INTERNS}

    def _variant_rung(self, name: str, rung: str) -> Figures:
        run = self.own / f"search-{name}".replace(" ", "-")
        if rung == "few_true_chains":
            rows = true_chains(self.data, self._annotated(VARIANTS[name].annotated or self.scale.annotated))
        else:
            rows = build_stage_3(run, self.own / f"chains-{name}".replace(" ", "-"))
        return self._trained(f"{name}: {rung}", rows)

    def _second_round(self) -> Figures:
        """Search as many new cases with the model of the first round as intern; stage 3 from the model of stage 2 on these paths."""
        cases = castings("seen", replace(self.scale, cases=2 * self.scale.cases), seed=self.seed)[self.scale.cases :]
        write_castings(cases, self.data.images)
        file = write_cases(self.data.folder / "cases-2.jsonl", (c.case for c in cases))
        run = self.own / "search-2"
        team = loop.team({"student": self.own / "mics_verified" / "model"}, self.data, seed=self.seed, temperatures=[0.2, 0.7, 1.2])
        data = replace(self.data, seen=cases)
        check_search(loop.search(team, data, run, cases=file))
        rows = build_stage_3(run, self.own / "chains-2")
        return {**self._trained(SECOND_ROUND, rows, data), "search": _counts(purity(run, data))}

    def _after(self, name: str) -> Figures:
        """Train the model of ``mics_verified`` further: on preference pairs of its search, or on its own rows as a control."""
        file, out = "rung-mics_verified.jsonl", self.own / ("dpo" if name == PAIRS else "more")
        if not (self.own / "mics_verified" / "model").is_dir():  # the search retained no path
            return {"rows": 0}
        rows = None
        if name == PAIRS:
            file, rows = "pairs.jsonl", _build_pairs(self.own / VERIFIED, self.own / "pairs")
            write_rows(self.data.folder / file, rows)
        recipe = after_stage_3(
            self.own / "mics_verified" / "model", file, self.scale, preferences=name == PAIRS, name=out.name, seed=self.seed
        )
        model = train_recipe(recipe, self.data, out)
        return self._measured(name, model, out, len(rows or ()))

    def _annotated(self, count: int) -> tuple[SyntheticCase, ...]:
        return castings("annotated", replace(self.scale, annotated=count), seed=self.seed)

    def _measured(self, name: str, model: Path, out: Path, rows: int) -> Figures:
        measured = loop.measure(model, self.data, out / "answers")
        answered = (*measured.seen, *measured.held_out)
        return {
            **rung_record(name, rows, measured.seen_share, measured.held_out_share),
            "combinations": {"seen": _by_combination(measured.seen), "held_out": _by_combination(measured.held_out)},
            "without_answer": sum(a.answer is None for a in answered) / len(answered),
            "perception": _perception(answered, self.data),
        }


def _build_pairs(run: Path, out: Path) -> Rows:
    """Create preference pairs from a run's search trees, with the exact prompts of its interns.

    Raises:
        InputError: the trees have no pair.
    """
    build_preferences([run], out, form=intern_form(run))
    pairs = (line.value for line in read_jsonl(out / ROWS))
    return [
        {
            "id": pair["id"],
            "images": pair["images"],
            "prompt": pair["messages"][:-1],
            "chosen": pair["messages"][-1:],
            "rejected": [{"role": "assistant", "content": pair["signal"]["rejected"]}],
        }
        for pair in pairs
    ]


def _perception(answered: Sequence[Answered], data: Data) -> dict[str, float]:
    """Share of evaluated cases whose reply states an attribute correctly, by attribute; a missing statement counts as wrong."""
    attributes = {c.case.id: c.attributes for c in (*data.seen_evaluated, *data.held_out_evaluated)}
    stated = [(attributes[a.case.id], set(parse_reasoning(a.reply or "").steps)) for a in answered]
    return {name: sum(steps_of(true)[k] in steps for true, steps in stated) / len(stated) for k, name in enumerate(ATTRIBUTES)}


def _by_combination(answered: Sequence[Answered]) -> list[list[int]]:
    """Count the right answers and all answers of each combination, as JSON stores them."""
    groups: dict[tuple[str, ...], list[bool]] = {}
    for one in answered:
        groups.setdefault(loop.combination_of(one), []).append(one.correct)
    return [[sum(correct), len(correct)] for correct in groups.values()]


def _truth(cases: Sequence[SyntheticCase]) -> dict[str, set[str]]:
    return {c.case.id: set(steps_of(c.attributes)) for c in cases}


def _counts(found: Purity) -> Figures:
    return {"cases": found.cases, "retained": found.retained, "pure": found.pure, "evaluations": found.evaluations}


def main() -> int:
    """Run the study from the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--dir", type=Path, default=Path("ladder"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scale", choices=sorted(SCALES), default="full")
    parser.add_argument("--only-ladder", action="store_true", help="leave out the variations and the second round")
    parser.add_argument("--processes", type=int, default=min(2, cores()), help="number of parallel single-threaded processes")
    chosen = parser.parse_args()
    began = time.monotonic()

    def tell(line: str) -> None:
        sys.stderr.write(f"{time.monotonic() - began:6.0f} s  {line}\n")

    try:
        results = run_study(
            chosen.dir,
            SCALES[chosen.scale],
            range(chosen.seeds),
            only_ladder=chosen.only_ladder,
            processes=chosen.processes,
            tell=tell,
        )
        write_atomically(chosen.dir / "ladder.json", [json.dumps(results, indent=1) + "\n"])
        write_atomically(chosen.dir / "ladder.md", [tables(results)])
    except ChironError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except KeyboardInterrupt:
        return 130
    sys.stdout.write(tables(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
