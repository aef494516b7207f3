"""Validate a file of cases before any API call is paid for."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from chiron.cases.case import BadCase, Case
from chiron.cases.choices import letter_without_options
from chiron.cases.formats import LONG_TEXT, NO_QUESTION, image_marks
from chiron.cases.images import ImageProblem, image_folder
from chiron.cases.modalities import findings_without_images
from chiron.cases.reader import read_cases


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
