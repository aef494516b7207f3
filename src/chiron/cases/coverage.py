"""The map of a file of cases: how many there are of each modality in each body system."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chiron.cases.body_systems import BODY_SYSTEMS, body_system_of_case
from chiron.cases.case import BadCase, Case
from chiron.cases.modalities import MODALITIES, findings_without_images, modalities_of_case
from chiron.cases.reading import read_cases


@dataclass(frozen=True, slots=True)
class Coverage:
    """Cases counted by modality and body system. A case with images of two modalities counts under both."""

    cases: int = 0
    """Cases that could be read."""
    bad: int = 0
    """Records that could not."""
    cells: dict[tuple[str, str], int] = field(default_factory=dict)
    """Counts by names of modality and body system."""
    no_modality: int = 0
    """Cases of which nothing tells the modality."""
    no_system: int = 0
    """Cases of which nothing tells the body system for certain."""
    unplaced: int = 0
    """Cases that lack one or both, and stand in no cell."""
    findings_without_images: tuple[str, ...] = ()
    """Ids of cases whose findings describe images of a modality that they have none of."""

    def count(self, modality: str, system: str) -> int:
        """Cases in a cell."""
        return self.cells.get((modality, system), 0)

    def to_record(self) -> dict[str, Any]:
        """For ``--json``: every cell, empty ones included."""
        rows = {m.name: {s.name: self.count(m.name, s.name) for s in BODY_SYSTEMS} for m in MODALITIES}
        return {
            "cases": self.cases,
            "bad": self.bad,
            "unplaced": self.unplaced,
            "no_modality": self.no_modality,
            "no_body_system": self.no_system,
            "findings_without_images": list(self.findings_without_images),
            "map": rows,
        }


def coverage_of(cases: Iterable[Case | BadCase]) -> Coverage:
    """Place every case."""
    cells: Counter[tuple[str, str]] = Counter()
    counts: Counter[str] = Counter()
    hollow: list[str] = []
    for case in cases:
        if isinstance(case, BadCase):
            counts["bad"] += 1
            continue
        modalities, system = modalities_of_case(case), body_system_of_case(case)
        counts["cases"] += 1
        counts["no_modality"] += not modalities
        counts["no_system"] += system is None
        counts["unplaced"] += not modalities or system is None
        if findings_without_images(case):
            hollow.append(case.id)
        if system is not None:
            cells.update((modality.name, system.name) for modality in modalities)
    return Coverage(cells=dict(cells), findings_without_images=tuple(hollow), **counts)


def coverage_of_file(cases: Path | str) -> Coverage:
    """Place every case of a file, those without a question too.

    Raises:
        InputError: the file is not there.
    """
    return coverage_of(read_cases(cases, unlabeled=True))
