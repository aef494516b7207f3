"""Training rows of the three stages, created with the same functions as `chiron build`."""

import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from chiron import BuildSummary, Case, InputError, build_alignment, build_cot, build_text
from chiron.conversation.reasoning import render_reasoning
from chiron.io import read_jsonl, write_atomically
from chiron.jobs.job import JobSummary
from chiron.mics.prompts import Prompts
from chiron.mmrp.config import BuildFile
from chiron.mmrp.cot import intern_form
from chiron.mmrp.row import ROWS
from chiron.mmrp.templates import InternTemplate
from chiron.phantom.sample import SyntheticCase
from chiron.phantom.wording import QUESTIONS, choose
from chiron.phantom.world import COMBINATIONS, Attributes, World

DESCRIBE: Final = "What does the lesion look like?"
"""Question of stage 2; the answer consists of steps without a diagnosis."""
ATTRIBUTES: Final = ("side", "level", "size", "density", "margin")
"""Attributes in the order of the reasoning steps."""


def steps_of(attributes: Attributes) -> tuple[str, ...]:
    """Return the five true reasoning steps."""
    return tuple(f"The {name} is {getattr(attributes, name)}." for name in ATTRIBUTES)


def chain(attributes: Attributes, answer: str) -> str:
    """Format the true reasoning path as in the published data."""
    return render_reasoning(steps_of(attributes), answer)


def rule_cases(world: World, *, copies: int, seed: int) -> Iterator[Case]:
    """Generate ``copies`` stage 1 cases of each rule, without images: the findings in words, in random order."""
    rng = np.random.default_rng([seed, 1])
    for number in range(copies):
        for index, attributes in enumerate(COMBINATIONS):
            steps = steps_of(attributes)
            yield Case(
                id=f"rule-{number}-{index}",
                question=choose(QUESTIONS, rng),
                answer=world.diagnose(attributes),
                images=(),
                findings=tuple(steps[k] for k in rng.permutation(len(steps))),
            )


def described(casting: SyntheticCase) -> Case:
    """Convert to a stage 2 case whose findings are its attributes in order."""
    return replace(casting.case, findings=steps_of(casting.attributes))


def answer_row(case: Case, prompts: Prompts, reply: str) -> dict[str, Any]:
    """Create a stage 3 row without a search: the intern's prompt without a prefix, and a reply."""
    (dialogue,) = InternTemplate(prompts).of_path(case, reply)
    turns = [{"role": turn.role, "content": turn.text} for turn in dialogue.turns]
    return {"id": case.id, "case_id": case.id, "images": list(case.images), "messages": turns}


Rows = list[dict[str, Any]]
_TRAINED = ("id", "case_id", "images", "messages")


def build_stage_1(cases: Iterable[Case], folder: Path, prompts: Prompts, *, seed: int) -> Rows:
    """Create the rows of stage 1: questions on cases in words. ``folder`` contains the textbook; output goes to ``text/`` in it."""
    file = write_cases(folder / "rules.jsonl", cases)
    form = InternTemplate(prompts, begun="each")
    return _rows(build_text(file, _config(folder, seed), folder / "text", form=form))


def build_annotated(cases: Iterable[Case], folder: Path, prompts: Prompts, *, seed: int) -> Rows:
    """Create the interns' rows of the annotated cases: the true chain and the diagnosis, once from each length of the reasoning so far."""
    file = write_cases(folder / "annotated-cases.jsonl", cases)
    form = InternTemplate(prompts, begun="each", concludes=True)
    return _rows(build_alignment(file, folder / "annotated", config=_config(folder, seed), form=form))


def build_looks(cases: Iterable[Case], folder: Path, name: str, prompts: Prompts, *, seed: int) -> Rows:
    """Create rows of images with their attributes; a quarter of the rows continue from given steps."""
    file = write_cases(folder / f"{name}.jsonl", cases)
    return _rows(build_alignment(file, folder / name, config=_config(folder, seed), form=InternTemplate(prompts, begun="some")))


def build_stage_3(run: Path, out: Path) -> Rows:
    """Create stage 3 rows from a run's retained paths, with the exact prompts of its interns. Empty if no path was retained."""
    if not (run / "paths.jsonl").stat().st_size:
        return []
    return _rows(build_cot([run], out, form=intern_form(run)))


def write_cases(path: Path, cases: Iterable[Case]) -> Path:
    """Write cases as JSONL in the tidy format and return ``path``."""
    write_rows(path, (case.to_record() for case in cases))
    return path


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows as JSONL, atomically.

    Raises:
        DiskError: The disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def words_of(*rows: Rows) -> Iterator[str]:
    """Yield the text of all turns."""
    return (turn["content"] for row in itertools.chain(*rows) for turn in row["messages"])


def _config(folder: Path, seed: int) -> BuildFile:
    """Create the build configuration, with rule-based offline models and the single request of stage 2."""
    request = folder / "describe.txt"
    if not request.is_file():
        write_atomically(request, [f"{DESCRIBE}\n"])
    models = {"author": {"provider": "offline", "model": "author/rules"}, "reader": {"provider": "offline", "model": "reader/rules"}}
    build = {"author": "author", "reader": "reader", "seed": seed, "prompts": {"describe": str(request.resolve())}}
    return BuildFile.check({"models": models, "build": build}, origin=folder / "build.yaml")


def need_complete(built: JobSummary) -> None:
    """Require that a job has no pending cases.

    Raises:
        InputError: It has, or it was stopped.
    """
    if built.halted is not None or built.pending:
        raise InputError(f"{built.directory}: {built.pending} cases pending ({built.halted}); run the same command again to resume")


def _rows(built: BuildSummary) -> Rows:
    need_complete(built)
    # Drop the provenance, which contains local paths, so that a moved folder gives the same training data.
    return [{name: line.value[name] for name in _TRAINED} for line in read_jsonl(built.file.parent / ROWS)]
