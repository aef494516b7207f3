"""Looking over a file of cases before anything is paid for."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from chiron.cases.case import BadCase
from chiron.cases.formats import image_marks
from chiron.cases.images import ImageProblem, image_folder
from chiron.cases.reading import read_cases


@dataclass(frozen=True, slots=True)
class Remark:
    """One case, looked over."""

    line: int
    """Line of a JSONL file, position in a JSON list; from 1."""
    id: str | None
    usable: bool
    problem: str | None
    """What is wrong, or worth knowing of a usable case."""


def check_cases(cases: Path, images: Path | None = None) -> Iterator[Remark]:
    """A remark a case, in order, with every image read and decoded.

    Raises:
        InputError: the file or the image folder is not there.
    """
    folder = image_folder(cases, images)
    for case in read_cases(cases):
        if isinstance(case, BadCase):
            yield Remark(case.line, case.id, usable=False, problem=case.problem)
            continue
        problems = []
        for name in case.images:
            try:
                folder.check(name)
            except ImageProblem as problem:
                problems.append(str(problem))
        if problems:
            yield Remark(case.line, case.id, usable=False, problem="; ".join(problems))
        elif not case.findings:
            yield Remark(case.line, case.id, usable=True, problem="no findings: mentors see only images and history")
        elif (spoken_of := image_marks(case.findings)) > len(case.images):
            note = f"findings speak of image {spoken_of}, but there are {len(case.images)}"
            yield Remark(case.line, case.id, usable=True, problem=note)
        else:
            yield Remark(case.line, case.id, usable=True, problem=None)
