"""Models side by side: one comparison a protocol, each figure with what is needed to believe it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from chiron.errors import InputError
from chiron.evaluation.figures import Accuracy, Figure, accuracy, consistency, difference, group_of, scores
from chiron.evaluation.items import Verdict
from chiron.evaluation.read_runs import REAL, Arm, Evaluated
from chiron.evaluation.statistics.intervals import Consistency
from chiron.evaluation.statistics.paired import Pairs, cluster_sign_flip, holm, mcnemar

Test = Literal["McNemar", "image swaps"]


@dataclass(frozen=True)
class Against:
    """One model against the reference of its column."""

    reference: str
    problem: str = ""
    """Why there is no test: ``other items``, ``another judge``, ``pending items``; empty if there is one."""
    difference: Figure | None = None
    """Model less reference."""
    p: float | None = None
    """Of the exact test on the first seed."""
    test: Test = "McNemar"
    """``McNemar`` where every item has an image of its own, ``image swaps`` where items share images: the cluster sign-flip test."""
    adjusted: float | None = None
    """The same after Holm's correction for all tests of the table."""


@dataclass(frozen=True)
class Compared:
    """One model on one benchmark."""

    arm: Arm
    accuracy: Accuracy
    scores: dict[str, Figure]
    is_reference: bool = False
    """The one that the column's others are tested against: the best, or the one asked for."""
    against: Against | None = None
    """``None`` of the reference, and where there is none."""


@dataclass(frozen=True)
class Controlled:
    """One model on one benchmark under a control, beside its real run."""

    accuracy: Accuracy
    difference: Figure | None
    """Control less real run; ``None`` if there is no real run of the same items, or items are pending in one of them."""
    problem: str = ""
    """Why there is no difference."""
    consistency: Consistency | None = None
    """Of ``shuffle-options``."""


@dataclass(frozen=True)
class Comparison:
    """Everything that was measured under one protocol."""

    protocol: str
    models: tuple[str, ...]
    benchmarks: tuple[str, ...]
    cells: dict[tuple[str, str], Compared]
    """Real runs by (model, benchmark)."""
    controls: dict[tuple[str, str, str], Controlled]
    """By (model, control, benchmark)."""
    reference: str | None
    """The model asked for; ``None`` if each column's best is the reference."""
    apart: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """In what runs under one name differ, by the names under which they therefore stand apart."""

    @property
    def tests(self) -> int:
        """How many Holm's correction is for."""
        return sum(cell.against is not None and cell.against.p is not None for cell in self.cells.values())


def compare(models: Sequence[Evaluated], *, reference: str | None = None) -> list[Comparison]:
    """One comparison a protocol, in order of appearance: what was counted differently never stands in one table.

    Args:
        models: as :func:`chiron.evaluation.read_runs.read_evaluations` gives them.
        reference: the name of the model to test the others against; each benchmark's best by default.
    """
    protocols = dict.fromkeys(protocol for model in models for protocol, _, _ in model.arms)
    return [_comparison(protocol, models, reference) for protocol in protocols]


def reference_of(models: Sequence[Evaluated], run: Path) -> str:
    """The name of the model whose run this is.

    Raises:
        InputError: the run is none of those that are compared.
    """
    for model in models:
        if run.resolve() in {path.resolve() for path in model.runs}:
            return model.name
    raise InputError(f"--reference {run} is none of the runs compared: name one of them")


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
