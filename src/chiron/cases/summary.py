"""Summarize a file of cases: problems to fix before any API call is paid for, and counts by modality and body system."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chiron.cases.body_systems import BODY_SYSTEMS, body_system_of_case
from chiron.cases.case import BadCase, Case
from chiron.cases.choices import letter_without_options
from chiron.cases.formats import LONG_TEXT, NO_QUESTION, image_marks
from chiron.cases.images import ImageProblem, image_folder
from chiron.cases.modalities import MODALITIES, findings_without_images, modalities_of_case
from chiron.cases.reader import read_cases
from chiron.errors import InputError
from chiron.extras import need
from chiron.io import FIGURE_FORMATS, write_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class Remark:
    """Result of checking one case."""

    line: int
    """Line in a JSONL file or position in a JSON list, from 1."""
    id: str | None
    usable: bool
    problem: str | None
    """What is wrong, or a warning about a usable case."""
    lacks_question: bool = False
    """Whether the only problem is that the case is unlabeled."""


LONG_FINDINGS = 8_000
"""Maximum characters of findings. Longer ones take up the context that most models need for images."""


def check_cases(cases: Path, images: Path | None = None, *, unlabeled: bool = False) -> Iterator[Remark]:
    """Check each case in order, decoding every image.

    Args:
        cases: file of cases.
        images: image folder; by default ``images/`` next to the file.
        unlabeled: accept cases without a question.

    Raises:
        InputError: the file or the image folder does not exist.
    """
    folder = image_folder(cases, images)
    for case in read_cases(cases, unlabeled=unlabeled):
        if isinstance(case, BadCase):
            yield Remark(case.line, case.id, usable=False, problem=case.problem, lacks_question=case.problem == NO_QUESTION)
            continue
        problems = []
        for name in case.images:
            try:
                folder.check(name)
            except ImageProblem as problem:
                problems.append(str(problem))
        if problems:
            yield Remark(case.line, case.id, usable=False, problem="; ".join(problems))
        else:
            yield Remark(case.line, case.id, usable=True, problem="; ".join(_notes(case)) or None)


def _notes(case: Case) -> Iterator[str]:
    """Yield warnings about a usable case."""
    if letter_without_options(case.question, case.answer):
        yield f"the answer is the letter '{case.answer}' alone, and the question has no such option: give the option's words"
    for name in ("question", "answer", "history"):
        if (length := len(getattr(case, name))) > LONG_TEXT:
            yield f"field '{name}' has {length:,} characters, more than most models read: keep what belongs to the case"
    if not case.findings:
        yield "no findings: mentors see only images and history"
    if (spoken_of := image_marks(case.findings)) > len(case.images):
        yield f"findings speak of image {spoken_of}, but there are {len(case.images)}"
    if missing := findings_without_images(case):
        yield f"findings describe {', '.join(m.name for m in missing)}, which the case has no image of"
    if (length := sum(len(text) for text in case.findings)) > LONG_FINDINGS:
        yield f"findings of {length:,} characters: keep those that belong to the images"


@dataclass(frozen=True, slots=True)
class Coverage:
    """Cases counted by modality and body system. A case with images of two modalities counts under both."""

    cases: int = 0
    """Number of readable cases."""
    bad: int = 0
    """Number of unreadable records."""
    cells: dict[tuple[str, str], int] = field(default_factory=dict)
    """Counts by (modality name, body system name)."""
    no_modality: int = 0
    """Cases with unknown modality."""
    no_system: int = 0
    """Cases with unknown or uncertain body system."""
    unplaced: int = 0
    """Cases without modality or body system, which are in no cell."""
    findings_without_images: tuple[str, ...] = ()
    """Ids of cases whose findings describe images of a modality that the case does not have."""

    def count(self, modality: str, system: str) -> int:
        """Return the number of cases in a cell."""
        return self.cells.get((modality, system), 0)

    def to_record(self) -> dict[str, Any]:
        """Return the JSON output, including empty cells."""
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
    """Count cases by modality and body system."""
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
    """Count the cases of a file, including unlabeled ones.

    Raises:
        InputError: the file does not exist.
    """
    return coverage_of(read_cases(cases, unlabeled=True))


def draw_coverage(coverage: Coverage, path: Path, *, noun: str = "cases") -> None:
    """Draw the coverage map; colors use a logarithmic scale and each cell shows its count.

    Args:
        coverage: counts to draw.
        path: output file: ``.svg``, ``.png`` or ``.pdf``.
        noun: name of the counted items in the title.

    Raises:
        InputError: the file's suffix is not supported, or matplotlib is not installed.
        DiskError: the file cannot be written.
    """
    if path.suffix.lower().removeprefix(".") not in FIGURE_FORMATS:
        raise InputError(f"{path}: a figure is written as .svg, .png or .pdf: name one of them")
    need("matplotlib", "a figure")
    from matplotlib import rc_context

    with rc_context({"font.size": 9}):
        write_figure(_figure(coverage, noun), path)


def _figure(coverage: Coverage, noun: str) -> "Figure":
    import numpy as np
    from matplotlib.figure import Figure

    counts = np.array([[coverage.count(m.name, s.name) for s in BODY_SYSTEMS] for m in MODALITIES])
    figure = Figure(figsize=(11, 5.6), layout="constrained")
    axes = figure.add_subplot()
    shades = np.ma.masked_equal(np.log1p(counts), 0)
    axes.imshow(shades, cmap="Blues", vmin=0, vmax=max(1.0, float(np.log1p(counts.max())) * 1.15), aspect="auto")
    axes.set_xticks(range(len(BODY_SYSTEMS)), [s.name for s in BODY_SYSTEMS], rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(MODALITIES)), [m.name for m in MODALITIES])
    axes.set_xticks([i - 0.5 for i in range(1, len(BODY_SYSTEMS))], minor=True)
    axes.set_yticks([i - 0.5 for i in range(1, len(MODALITIES))], minor=True)
    axes.grid(which="minor", color="#dddddd", linewidth=0.6)
    axes.tick_params(which="both", length=0)
    dark = float(counts.max()) ** 0.6
    for (row, column), count in np.ndenumerate(counts):
        if count:
            axes.text(column, row, f"{count:,}", ha="center", va="center", color="white" if count > 1 and count > dark else "black")
    placed = coverage.cases - coverage.unplaced
    axes.set_title(f"{placed:,} of {coverage.cases:,} {noun} placed by modality and body system", loc="left")
    return figure
