"""Part 3 (chains of thought): the retained paths of one or more searches as training dialogues."""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from chiron.cases.case import BadCase, Case
from chiron.cases.reader import read_cases
from chiron.client.call import Ask
from chiron.conversation.reasoning import parse_reasoning
from chiron.errors import InputError
from chiron.jobs.directory import WorkDirectory
from chiron.jobs.job import run_job
from chiron.mics.prompts import NAMES, Prompts
from chiron.mics.run_directory import RunDirectory
from chiron.mmrp.part import BuildSummary, Made, PartRun, placed
from chiron.mmrp.path_sources import AuthorsSearch, Decisions, ReviewMode, SearchRun, about_sources, apply_decision, open_sources
from chiron.mmrp.row import ROWS, Dropped, MmrpRow, Provenance
from chiron.mmrp.templates import ConversationTemplate, InternTemplate, PaperTemplate, plain
from chiron.reviews.records import Decision

RULES: Final = 1
"""Version of the rules; increase it when the same paths would give other rows."""


def build_cot(
    runs: Sequence[Path],
    out: Path,
    *,
    cases: Path | None = None,
    limit: int | None = None,
    form: ConversationTemplate | None = None,
    reviews: ReviewMode = "prefer",
) -> BuildSummary:
    """Build rows of retained paths, without a model.

    Writes ``rows.jsonl`` and ``dropped.jsonl`` to ``out``.

    If several runs have a path for a case, the row uses the one with the higher MICS-Score; then a verified one, one with more
    answered evaluations, or one with fewer restarts; then the one of the first run.

    Args:
        runs: run directories of ``chiron search``, or ``result.jsonl`` files of the paper's original code.
        out: output directory, used by this part only.
        cases: one case file for all runs, if it is no longer at its recorded path.
        limit: use only the first ``limit`` cases.
        form: conversation template; by default that of the published models. :func:`intern_form` returns that of a run.
        reviews: what reviews of the runs are used for. Unless they are ignored, rejected and disputed paths are dropped, edited steps
            replace the original ones, and accepted paths precede others; ``require`` drops paths without a review.

    Raises:
        InputError: a path is not a run, its cases are missing, or the directory belongs to another build.
        DiskError: the files cannot be written.
    """
    return run_job(prepare_cot(runs, out, cases=cases, limit=limit, form=form, reviews=reviews))


def prepare_cot(
    runs: Sequence[Path],
    out: Path,
    *,
    cases: Path | None = None,
    limit: int | None = None,
    form: ConversationTemplate | None = None,
    reviews: ReviewMode = "prefer",
) -> "PartRun[Retained]":
    """Prepare :func:`build_cot`: validate its inputs without running it."""
    read = open_sources(runs, lambda run: (AuthorsSearch if run.is_file() else SearchRun).read(run, cases))
    wording = form if form is not None else PaperTemplate()
    decisions = Decisions.read(runs, reviews)
    return PartRun(
        part="cot",
        directory=WorkDirectory(out),
        kept_file=ROWS,
        source=lambda: _units(read, limit, decisions),
        make=Chain(wording, decisions).link,
        identity={"rules": RULES, **wording.identity(), **decisions.identity()},
        about={**about_sources(read, limit), **decisions.about()},
    )


def intern_form(run: Path) -> InternTemplate:
    """Return the template of a run's intern prompts.

    Raises:
        InputError: this is not a run directory, or its prompts were not recorded.
    """
    texts = RunDirectory(run).need_run().get("prompts")
    if not isinstance(texts, dict) or not all(isinstance(texts.get(name), str) for name in NAMES):
        raise InputError(f"{run}/run.json does not contain the prompts of its search: search again, or omit --form intern")
    return InternTemplate(Prompts(texts))


@dataclass(frozen=True)
class Retained:
    """A path and its case; one of them may be missing."""

    id: str
    line: int
    run: SearchRun
    path: dict[str, Any]
    case: Case | None = None
    beaten: str = ""
    """The run with a better path for the case."""


@dataclass(frozen=True)
class Chain:
    """Convert paths to rows."""

    form: ConversationTemplate
    decisions: Decisions = field(default_factory=Decisions)

    async def link(self, unit: Retained, ask: Ask) -> Made:
        """Build the row of a path."""
        del ask
        case, path = unit.case, unit.path
        if unit.beaten:
            detail = f"of {unit.run.path}; {unit.beaten} has a better path"
            return Made.drop("cot", unit, "another run's path is better", detail, outcome="beaten")
        if case is None:
            return Made.drop("cot", unit, "case not in the file", f"{unit.run.cases} has no such case")
        known, decision = _known(path), self.decisions.of(unit.run.path, case.id, path.get("reasoning"))
        if refusal := self._refusal(case, path, decision):
            return Made.drop("cot", unit, *refusal)
        text, review = str(path.get("reasoning") or ""), None
        if decision is not None:
            text, review = apply_decision(text, decision)
        reasoning = plain(text)
        read = parse_reasoning(reasoning)
        if not read.steps or read.answer is None:
            return Made(dropped=(Dropped.of("cot", unit, "no steps" if not read.steps else "no final answer", "", reasoning),))
        rows = tuple(
            MmrpRow(
                id=f"cot:{case.id}:{dialogue.suffix}" if dialogue.suffix else f"cot:{case.id}",
                part="cot",
                images=case.images,
                turns=dialogue.turns,
                question=case.question,
                answer=case.answer,
                reasoning=reasoning,
                difficulty=difficulty(path, unit.run.deepest),
                depth=path.get("depth"),
                provenance=Provenance(unit.run.path.resolve().name, _calls(known), unit.run.prompts(), unit.run.models(), review),
                **placed(case),
            )
            for dialogue in self.form.of_path(case, reasoning)
        )
        return Made(rows)

    def _refusal(self, case: Case, path: dict[str, Any], decision: Decision | None) -> tuple[str, str] | None:
        """Return why a path does not become a row, as a reason and details."""
        if _known(path).get("case") not in (None, case.fingerprint):
            return "case has changed", "it was edited since it was searched: search it again"
        if why := path.get("not_retained"):
            return "low score", str(why)
        return self.decisions.refusal(decision)


def difficulty(path: dict[str, Any], deepest: int) -> float | None:
    """Return the difficulty of a case, 0 to 1: ``1 - baseline`` if the search measured a baseline.

    Otherwise it is ``1 - score (1 - (depth - 1) / D) / (1 + restarts)``: 0 if the first candidate had a full score, and more for
    each further depth, wrong intern or restart. ``None`` without a score.
    """
    if isinstance(path.get("difficulty"), int | float):
        return float(path["difficulty"])
    score, depth, restarts = path.get("mics_score"), path.get("depth"), path.get("restarts") or 0
    if not isinstance(score, int | float) or not isinstance(depth, int) or depth < 1:
        return None
    return 1 - score * max(0.0, 1 - (depth - 1) / deepest) / (1 + restarts)


def _units(runs: Sequence[SearchRun], limit: int | None, decisions: Decisions) -> Iterator[Retained | BadCase]:
    """Yield every case with a path, in the order of runs and lines; then paths without a case."""
    ranked = _ranked(runs, decisions)
    taken = 0
    for file in dict.fromkeys(run.cases for run in runs):
        for case in read_cases(file):
            if not isinstance(case, Case) or case.id not in ranked or ranked[case.id][0].run.cases != file:
                continue
            if taken == limit:
                return
            taken += 1
            best, *others = ranked.pop(case.id)
            yield Retained(case.id, case.line, best.run, best.run.line(best.at), case)
            for other in others:
                yield Retained(case.id, case.line, other.run, other.run.line(other.at), case, str(best.run.path))
    if limit is None:
        for name, (best, *_) in ranked.items():
            yield Retained(name, 0, best.run, best.run.line(best.at))


class _PathOffset(NamedTuple):
    """Where a path is. Paths themselves are not kept in memory, because there may be many."""

    worth: tuple[float, ...]
    run: SearchRun
    at: int
    """Byte offset of its line."""


def _ranked(runs: Sequence[SearchRun], decisions: Decisions) -> dict[str, list[_PathOffset]]:
    """Return the paths of each case: the best one (of equal ones, that of the first run), then the others in the order of runs."""
    paths: defaultdict[str, list[_PathOffset]] = defaultdict(list)
    for run in runs:
        for at, path in run.lines():
            paths[path["case_id"]].append(_PathOffset((decisions.rank(run.path, path), *_worth(path)), run, at))
    for of_case in paths.values():
        best = max(of_case, key=lambda path: path.worth)
        of_case.remove(best)
        of_case.insert(0, best)
    return dict(paths)


def _worth(path: dict[str, Any]) -> tuple[float, ...]:
    evaluations, score = path.get("evaluations") or {}, float(path.get("mics_score") or 0.0)
    return (
        score if math.isfinite(score) else -math.inf,
        float(path.get("policy") == "verified"),
        float(evaluations.get("answered") or 0),
        -float(path.get("restarts") or 0),
    )


def _known(path: dict[str, Any]) -> dict[str, Any]:
    value = path.get("provenance")
    return value if isinstance(value, dict) else {}


def _calls(known: dict[str, Any]) -> tuple[str, ...]:
    """Return the distinct ledger keys of the path and its evaluations."""
    keys = [known.get("path"), *(known.get("mentors") or ()), *(known.get("evaluations") or ())]
    return tuple(dict.fromkeys(key for key in keys if isinstance(key, str) and key))
