"""Agreement of judges and people on the same answers: share of equal grades, and Cohen's kappa."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from chiron.errors import InputError
from chiron.evaluation.items import ItemResult
from chiron.evaluation.read_runs import REAL, Evaluated
from chiron.evaluation.tables.formats import EMPTY, Cell, Grid, cell, percent
from chiron.io import parse_jsonl
from chiron.terminal import printable

JUDGED = ("grade:", "judge:")
"""Prefixes of the scores that a judge gave."""
PEOPLE = "people"
Key = tuple[str, str, str, int]
"""Model, benchmark, item and seed."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How well two graders agree."""

    of: int
    """Number of answers that both graded."""
    same: float
    """Share of answers with equal grades."""
    kappa: float | None
    """Cohen's kappa; ``None`` if both gave one and the same grade to all answers."""
    weighted: float | None
    """Kappa with linear weights: 0 against 0.5 is half as bad as 0 against 1."""


def cohen_kappa(first: Sequence[float], second: Sequence[float], *, weighted: bool = False) -> float | None:
    """Compute Cohen's kappa: 1 is perfect agreement, 0 is that of chance (J. Cohen, 1960, and with linear weights 1968).

    Args:
        first: grades of one grader.
        second: grades of the other, in the same order.
        weighted: count a disagreement by its size.

    Returns:
        ``None`` if no disagreement is possible by chance, because all grades are equal.

    Raises:
        ValueError: the sequences are empty or have different lengths.
    """
    if not first or len(first) != len(second):
        raise ValueError(f"{len(first)} grades and {len(second)} grades are not pairs")

    def weight(a: float, b: float) -> float:
        return abs(a - b) if weighted else float(a != b)

    observed = sum(map(weight, first, second)) / len(first)
    ours, theirs = Counter(first), Counter(second)
    by_chance = sum(weight(a, b) * m * n for a, m in ours.items() for b, n in theirs.items()) / len(first) ** 2
    return 1 - observed / by_chance if by_chance else None


def agreement(pairs: Sequence[tuple[float, float]]) -> Agreement:
    """Measure the agreement of two graders.

    Raises:
        ValueError: there are no pairs.
    """
    first, second = [a for a, _ in pairs], [b for _, b in pairs]
    same = sum(a == b for a, b in pairs) / len(pairs) if pairs else 0.0
    return Agreement(len(pairs), same, cohen_kappa(first, second), cohen_kappa(first, second, weighted=True))


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
    rows: dict[str, dict[str, Agreement]] = {}
    benchmarks = dict.fromkeys(r.benchmark for m in models for r in m.results)
    for model in models:
        for benchmark in benchmarks:
            # An answer that could not be read is 0 for every judge, without being asked.
            results = [r for r in model.results if r.benchmark == benchmark and r.control == REAL and r.given is not None]
            for pair, values in _pairs(model.name, results, people or {}):
                rows.setdefault(f"{model.name}, {pair}", {})[benchmark] = agreement(values)
    if not rows:
        return []
    shown = [b for b in benchmarks if any(b in row for row in rows.values())]
    cells = tuple((name, tuple(_cell(row.get(b)) for b in shown)) for name, row in rows.items())
    notes = (
        "Cohen's kappa: 1 is perfect agreement, 0 that of chance. With linear weights, 0 against 0.5 is half as bad as 0 against 1.",
        "Same: equal grades in percent. n: answers that both graded; answers without a grade are left out.",
    )
    return [Grid("Agreement of graders", ("model, graders", *shown), cells, notes)]


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


def _cell(found: Agreement | None) -> Cell:
    if found is None:
        return EMPTY
    kappa, weighted = ("not defined" if k is None else f"{k:.2f}" for k in (found.kappa, found.weighted))
    return cell(f"kappa {kappa}", f"weighted {weighted}", f"same {percent(found.same)}", f"n {found.of:,}")
