"""Agreement of judges and people on the same answers: share of equal grades, and Cohen's kappa."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from chiron.errors import InputError
from chiron.evaluation.items import ItemResult
from chiron.evaluation.read_runs import REAL, Evaluated
from chiron.evaluation.tables.formats import Cell, Grid, cell, grid_of, percent
from chiron.io import parse_jsonl
from chiron.reviews.agreement import cohens_kappa
from chiron.terminal import printable

JUDGED = ("grade:", "judge:")
"""Prefixes of the scores that a judge gave."""
PEOPLE = "people"
Key = tuple[str, str, str, int]
"""Model, benchmark, item and seed."""


def read_grades(path: Path, models: Sequence[Evaluated]) -> dict[Key, float]:
    """Read grades that people gave: lines of ``{"benchmark", "id", "grade"}``, and optionally ``model``, ``seed`` and ``given``.

    Raises:
        InputError: a line is unusable, names an unknown answer, was given to another answer, or grades an answer twice.
    """
    answers = {(m.name, r.benchmark, r.id, r.seed): r for m in models for r in m.results if r.control == REAL}
    grades: dict[Key, float] = {}
    fix = 'write {"benchmark": ..., "id": ..., "grade": 0, 0.5 or 1}, with "model" if several are compared'
    for key, grade, given in parse_jsonl(path, lambda raw: _grade(raw, models), "grade", fix):
        shown = f"{path}: item {printable(key[2])!r} of {printable(key[1])} ({printable(key[0])}, seed {key[3]})"
        if key not in answers:
            raise InputError(f"{shown} is not in these runs: grade the answers of their items.jsonl")
        if given is not None and given != answers[key].given:
            raise InputError(f"{shown} was graded for another answer ('given' differs): grade the answer of this run")
        if key in grades:
            raise InputError(f"{shown} has two grades: keep one")
        grades[key] = grade
    return grades


def _grade(raw: Any, models: Sequence[Evaluated]) -> tuple[Key, float, str | None]:
    model = raw["model"] if "model" in raw or len(models) != 1 else models[0].name
    grade = raw["grade"]
    if isinstance(grade, bool) or grade not in (0, 0.5, 1):
        raise ValueError(f"its grade is {grade!r}")
    return (str(model), str(raw["benchmark"]), str(raw["id"]), int(raw.get("seed", 0))), float(grade), raw.get("given")


def agreement_grids(models: Sequence[Evaluated], people: Mapping[Key, float] | None = None) -> list[Grid]:
    """Build a table of every two graders of the same answers; none if there is one grader.

    Args:
        models: the models with their results.
        people: from :func:`read_grades`.
    """
    cells: dict[tuple[str, str], Cell] = {}
    benchmarks = list(dict.fromkeys(r.benchmark for m in models for r in m.results))
    for model in models:
        for benchmark in benchmarks:
            # An answer that could not be read is 0 for every judge, without being asked.
            results = [r for r in model.results if r.benchmark == benchmark and r.control == REAL and r.given is not None]
            for graders, pairs in _pairs(model.name, results, people or {}):
                cells[f"{model.name}, {graders}", benchmark] = _cell(pairs)
    if not cells:
        return []
    notes = (
        "Cohen's kappa: 1 is perfect agreement, 0 that of chance. With linear weights, 0 against 0.5 is half as bad as 0 against 1.",
        "Same: equal grades in percent. n: answers that both graded; answers without a grade are left out.",
    )
    return [grid_of("Agreement of graders", "model, graders", cells, notes, benchmarks)]


def _pairs(model: str, results: Sequence[ItemResult], people: Mapping[Key, float]) -> Iterator[tuple[str, list[tuple[float, float]]]]:
    graders: dict[str, dict[tuple[str, int], float]] = {}
    for result in results:
        for name, value in result.scores.items():
            if name.startswith(JUDGED) and value is not None:
                graders.setdefault(name, {})[result.id, result.seed] = value
        if (grade := people.get((model, result.benchmark, result.id, result.seed))) is not None:
            graders.setdefault(PEOPLE, {})[result.id, result.seed] = grade
    for (first, a), (second, b) in combinations(graders.items(), 2):
        if both := [(a[key], b[key]) for key in a if key in b]:
            yield f"{first} and {second}", both


def _cell(pairs: Sequence[tuple[float, float]]) -> Cell:
    linear = cohens_kappa(pairs, lambda first, second: abs(first - second))
    kappa, weighted = ("not defined" if k is None else f"{k:.2f}" for k in (cohens_kappa(pairs), linear))
    same = sum(a == b for a, b in pairs) / len(pairs)
    return cell(f"kappa {kappa}", f"weighted {weighted}", f"same {percent(same)}", f"n {len(pairs):,}")
