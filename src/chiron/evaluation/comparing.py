"""Compare models: one comparison per protocol, with the interval and test of each figure."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from chiron.errors import InputError
from chiron.evaluation.figures import Accuracy, Figure, accuracy, consistency, difference, group_of, scores
from chiron.evaluation.items import Verdict
from chiron.evaluation.read_runs import REAL, Arm, Evaluated
from chiron.evaluation.statistics import Consistency, Pairs, cluster_sign_flip, holm, mcnemar

Test = Literal["McNemar", "image swaps"]


@dataclass(frozen=True)
class Against:
    """The test of one model against the reference of its benchmark."""

    reference: str
    problem: str = ""
    """Why there is no test: ``other items``, ``another judge`` or ``pending items``. Empty if there is a test."""
    difference: Figure | None = None
    """Accuracy of the model minus that of the reference."""
    p: float | None = None
    """P-value of the exact test on the first seed."""
    test: Test = "McNemar"
    """``McNemar`` where every item has its own image. ``image swaps`` (the cluster sign-flip test) where items share images."""
    adjusted: float | None = None
    """``p`` after Holm's correction for all tests of the table."""


@dataclass(frozen=True)
class Compared:
    """One model on one benchmark."""

    arm: Arm
    accuracy: Accuracy
    scores: dict[str, Figure]
    is_reference: bool = False
    """Whether the other models are tested against this one: the best model, or the one asked for."""
    against: Against | None = None
    """``None`` for the reference itself, and where there is no reference."""


@dataclass(frozen=True)
class Controlled:
    """One model on one benchmark under a control, compared with its real run."""

    accuracy: Accuracy
    difference: Figure | None
    """Accuracy under the control minus that of the real run. ``None`` without a real run of the same items, or if items are pending."""
    problem: str = ""
    """Why there is no difference."""
    consistency: Consistency | None = None
    """Only for the control ``shuffle-options``."""


@dataclass(frozen=True)
class Comparison:
    """All measurements under one protocol."""

    protocol: str
    models: tuple[str, ...]
    benchmarks: tuple[str, ...]
    cells: dict[tuple[str, str], Compared]
    """Real runs by (model, benchmark)."""
    controls: dict[tuple[str, str, str], Controlled]
    """By (model, control, benchmark)."""
    reference: str | None
    """The model asked for. ``None`` if the reference is each benchmark's best model."""
    apart: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Runs of one model name that could not be combined: displayed name to the settings in which they differ."""

    @property
    def tests(self) -> int:
        """Number of tests that Holm's correction covers."""
        return sum(cell.against is not None and cell.against.p is not None for cell in self.cells.values())


def compare(models: Sequence[Evaluated], *, reference: str | None = None) -> list[Comparison]:
    """Build one comparison per protocol, in order of appearance. Results of different protocols never share a table.

    Args:
        models: from :func:`chiron.evaluation.read_runs.read_evaluations`.
        reference: name of the model to test the others against. By default, each benchmark's best model.
    """
    protocols = dict.fromkeys(protocol for model in models for protocol, _, _ in model.arms)
    return [_comparison(protocol, models, reference) for protocol in protocols]


def reference_of(models: Sequence[Evaluated], run: Path) -> str:
    """Return the name of the model that a run belongs to.

    Raises:
        InputError: the run is not among those compared.
    """
    for model in models:
        if run.resolve() in {path.resolve() for path in model.runs}:
            return model.name
    raise InputError(f"--reference {run} is not one of the compared runs: choose one of them")


def _comparison(protocol: str, models: Sequence[Evaluated], reference: str | None) -> Comparison:
    asked = [model for model in models if any(p == protocol for p, _, _ in model.arms)]
    benchmarks = tuple(dict.fromkeys(b for model in asked for p, b, _ in model.arms if p == protocol))
    cells: dict[tuple[str, str], Compared] = {}
    for benchmark in benchmarks:
        column = {m.name: arm for m in asked if (arm := m.arm(protocol, benchmark)) is not None}
        cells.update({(name, benchmark): cell for name, cell in _column(column, reference).items()})
    controls = {
        (m.name, control, b): _controlled(arm, m.arm(protocol, b))
        for m in asked
        for (p, b, control), arm in m.arms.items()
        if p == protocol and control != REAL
    }
    apart = {m.name: m.apart for m in asked if m.apart}
    return Comparison(protocol, tuple(m.name for m in asked), benchmarks, _corrected(cells), controls, reference, apart)


def _column(arms: dict[str, Arm], reference: str | None) -> dict[str, Compared]:
    cells = {name: Compared(arm, accuracy(arm.results), scores(arm.results)) for name, arm in arms.items()}
    if len(cells) < 2:
        return cells
    best = max(cells, key=lambda name: cells[name].accuracy.share.value)
    against = reference or best
    if against not in cells:
        return cells
    return {
        name: replace(cell, is_reference=True) if name == against else replace(cell, against=_against(cell, cells[against], against))
        for name, cell in cells.items()
    }


def _against(cell: Compared, reference: Compared, name: str) -> Against:
    if not cell.arm.asks_the_same(reference.arm):
        return Against(name, problem="other items")
    if cell.arm.making.judge != reference.arm.making.judge:
        return Against(name, problem="another judge")
    if cell.accuracy.pending or reference.accuracy.pending:
        return Against(name, problem="pending items")
    theirs = reference.arm.first
    outcomes = [(result.right, theirs[id_].right) for id_, result in cell.arm.first.items()]
    images = [group_of(result) for result in cell.arm.first.values()]
    measured = difference(cell.arm, reference.arm)
    if len(set(images)) == len(images):
        return Against(name, difference=measured, p=mcnemar(Pairs.of(outcomes)))
    p = cluster_sign_flip([int(ours) - int(other) for ours, other in outcomes], images)
    return Against(name, difference=measured, p=p, test="image swaps")


def _corrected(cells: dict[tuple[str, str], Compared]) -> dict[tuple[str, str], Compared]:
    tested = [(key, cell.against.p) for key, cell in cells.items() if cell.against is not None and cell.against.p is not None]
    adjusted = dict(zip((key for key, _ in tested), holm([p for _, p in tested]), strict=True))
    return {
        key: replace(cell, against=replace(cell.against, adjusted=adjusted[key])) if key in adjusted and cell.against else cell
        for key, cell in cells.items()
    }


def _controlled(control: Arm, real: Arm | None) -> Controlled:
    measured = accuracy(control.results)
    same = consistency(control, real) if control.control == "shuffle-options" else None
    problem = _no_difference(control, real)
    if problem or real is None:
        return Controlled(measured, None, problem, same)
    return Controlled(measured, difference(control, real), consistency=same)


def _no_difference(control: Arm, real: Arm | None) -> str:
    if real is None:
        return "no real run"
    if not control.asks_the_same(real):
        return "other items"
    if any(r.verdict == Verdict.PENDING for r in (*control.results, *real.results)):
        return "pending items"
    return ""
