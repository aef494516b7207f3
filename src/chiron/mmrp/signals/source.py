"""The searched cases of one or more runs, each with its trees: what every training signal is made of."""

import hashlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self, TypedDict

from chiron.cases.case import BadCase, Case
from chiron.cases.choices import read_options
from chiron.cases.reader import read_cases
from chiron.client.call import Ask
from chiron.conversation.reasoning import render_steps
from chiron.errors import InputError
from chiron.evaluation.reward import is_right
from chiron.jobs.directory import WorkDirectory
from chiron.mics.result import Outcome
from chiron.mics.tree import TreeCandidate, TreeLevel, TreeReader, TreeRecord, TreeScore
from chiron.mmrp.exports.export import export_signal
from chiron.mmrp.part import BuildSummary, Made, PartRun, placed
from chiron.mmrp.path_sources import SearchRun, about_sources, open_sources
from chiron.mmrp.row import ROWS, MmrpRow, Part, Provenance
from chiron.mmrp.templates import ConversationTemplate, PaperTemplate, plain
from chiron.providers.local.dialogue import Turn


@dataclass(frozen=True)
class SearchedRun(SearchRun):
    """A run of ``chiron search`` as a source of trees."""

    @classmethod
    def read(cls, path: Path, cases: Path | None) -> Self:
        """Open a run's trees and cases.

        Raises:
            InputError: this is not a run of this version, its cases are missing, or it has no result yet.
        """
        return cls.of(path, cases, cls.read_ledger(path).about)

    @classmethod
    def read_ledger(cls, path: Path) -> Self:
        """Open a run's trees only; its file of cases may be missing.

        Raises:
            InputError: this is not a run of this version, or it has no result yet.
        """
        with TreeReader.open(path) as reader:
            if not reader.ledger.result_heads():
                raise InputError(f"no case was searched yet ({path}): run the search first")
            return cls(path, Path(str(reader.about.get("cases"))), dict(reader.about))

    def mentors(self) -> list[str]:
        return [str(mentor[0]) for mentor in self.identity["mentors"]]

    @cached_property
    def reader(self) -> TreeReader:
        """The open ledger, for the thread that first uses it. :meth:`close` it after the build."""
        return TreeReader.open(self.path)

    def close(self) -> None:
        if (reader := self.__dict__.pop("reader", None)) is not None:
            reader.close()

    def tree(self, case_id: str) -> TreeRecord:
        result = self.reader.ledger.result(case_id)
        if result is None:
            raise InputError(f"the result of case '{case_id}' is missing ({self.path}): wait until its search has ended, then build again")
        return self.reader.tree_of(result)

    def fingerprints(self) -> dict[str, str]:
        """Return the fingerprint of each searched case by its id."""
        heads = self.reader.ledger.result_heads()
        return {name: head.fingerprint for name, head in heads.items() if head.outcome != Outcome.BAD_CASE}

    def provenance(self, calls: Sequence[str | None]) -> Provenance:
        """Return the provenance of a row that was made from these calls."""
        return Provenance(self.path.resolve().name, tuple(dict.fromkeys(key for key in calls if key)), self.prompts(), self.models())


class SourceOptions(TypedDict, total=False):
    """Keyword arguments that the builds of all signals share."""

    cases: Path | None
    """One case file for all runs, if it is no longer at its recorded path."""
    images: Path | None
    """Image folder, if it is no longer at its recorded path."""
    limit: int | None
    """Use only the first ``limit`` searched cases."""
    form: ConversationTemplate | None
    """Conversation template; by default that of the published models."""


def form_of(source: SourceOptions) -> ConversationTemplate:
    return source.get("form") or PaperTemplate()


def open_runs(runs: Sequence[Path], source: SourceOptions) -> list[SearchedRun]:
    """Open the runs that a signal is made of.

    Raises:
        InputError: see :func:`~chiron.mmrp.path_sources.open_sources`, or the image folder does not exist.
    """
    images = source.get("images")

    def read(path: Path) -> SearchedRun:
        run = SearchedRun.read(path, source.get("cases"))
        if images is None:
            return run
        if not images.is_dir():
            raise InputError(f"image folder {images} does not exist: name an existing one with --images DIR")
        return replace(run, about={**run.about, "images": str(images.resolve())})

    return open_sources(runs, read)


@dataclass(frozen=True)
class SearchedCase:
    """A case, and the runs that searched it."""

    id: str
    line: int
    case: Case | None
    """``None`` if the case is not in the file any more."""
    runs: tuple[SearchedRun, ...]


@dataclass(frozen=True)
class CaseTrees:
    case: Case
    trees: tuple[tuple[SearchedRun, TreeRecord], ...]
    """One per run that searched the case."""


def searched_cases(runs: Sequence[SearchedRun], limit: int | None) -> Iterator[SearchedCase | BadCase]:
    """Yield every searched case once, in the order of the files; then those that are not in a file any more.

    Raises:
        InputError: two runs searched different cases with one id, from different files.
    """
    remaining = {run.path: run.fingerprints() for run in runs}
    _need_one_case_per_id(runs, remaining)
    taken = 0
    for file in dict.fromkeys(run.cases for run in runs):
        for case in read_cases(file):
            # Runs with files of their own may have searched the same case.
            found = tuple(run for run in runs if case.id in remaining[run.path]) if isinstance(case, Case) else ()
            if not isinstance(case, Case) or not found:
                continue
            if taken == limit:
                return
            taken += 1
            for run in found:
                del remaining[run.path][case.id]
            yield SearchedCase(case.id, case.line, case, found)
    if limit is None:
        for run in runs:
            for name in sorted(remaining[run.path]):
                found = tuple(other for other in runs if remaining[other.path].pop(name, None) is not None)
                yield SearchedCase(name, 0, None, found)


def _need_one_case_per_id(runs: Sequence[SearchedRun], fingerprints: Mapping[Path, Mapping[str, str]]) -> None:
    first: dict[str, SearchedRun] = {}
    for run in runs:
        for name, fingerprint in fingerprints[run.path].items():
            other = first.setdefault(name, run)
            # Within one file, the case was edited between the searches; it is then dropped.
            if other.cases != run.cases and fingerprints[other.path][name] != fingerprint:
                raise InputError(
                    f"two cases have the id '{name}' ({other.cases} of {other.path}, {run.cases} of {run.path}): rename one of them and"
                    " search it again, or build from one of the runs"
                )


class NoRows(InputError):
    """No case gave a row of the signal."""


@dataclass(kw_only=True)
class SignalRun(PartRun[SearchedCase]):
    """Build of one signal. It also writes the rows in the forms of the trainers."""

    nothing: str
    """What is missing if there are no rows, for the error message."""
    sources: Sequence[SearchedRun]

    async def execute(self) -> BuildSummary:
        """Build all rows, then write ``exports/``.

        Raises:
            NoRows: no case gave a row.
            InputError: see :meth:`PartRun.execute`.
            DiskError: a file cannot be written.
        """
        try:
            summary = await super().execute()
        finally:
            for run in self.sources:
                run.close()
        if not summary.kept and not summary.pending and summary.halted is None:
            why = "; ".join(f"{count} x {reason}" for reason, count in summary.dropped.items()) or "no case"
            raise NoRows(f"no {self.nothing} could be built ({summary.file.parent}; {why}): see the details in dropped.jsonl")
        export_signal(self.directory.path, Path(str(self.about["images"])))
        return summary


def signal_run(
    part: Part,
    runs: Sequence[SearchedRun],
    out: Path,
    make: Callable[[CaseTrees, Ask], Awaitable[Made]],
    identity: dict[str, Any],
    source: SourceOptions,
    *,
    nothing: str,
    **more: Any,
) -> SignalRun:
    """Prepare the build of a signal. ``make`` converts one searched case to rows; cases that no signal can use are dropped before."""

    async def rows(unit: SearchedCase, ask: Ask) -> Made:
        if unit.case is None:
            return Made.drop(part, unit, "case not in the file", f"not found in {unit.runs[0].cases}")
        try:
            options_of(unit.case)
        except ValueError as problem:
            return Made.drop(part, unit, "options cannot be read", str(problem))
        trees = tuple((run, run.tree(unit.id)) for run in unit.runs)
        if any(tree["case"] != unit.case.fingerprint for _, tree in trees):
            return Made.drop(part, unit, "case has changed", "it was edited after its search: search it again")
        return await make(CaseTrees(unit.case, trees), ask)

    limit = source.get("limit")
    return SignalRun(
        part=part,
        directory=WorkDirectory(out),
        kept_file=ROWS,
        source=lambda: searched_cases(runs, limit),
        make=rows,
        identity=identity,
        about=about_sources(runs, limit),
        nothing=nothing,
        sources=runs,
        **more,
    )


def signal_row(
    part: Part,
    name: str,
    case: Case,
    form: ConversationTemplate,
    target: str,
    *,
    signal: Any,
    provenance: Provenance,
    reasoning: str = "",
    depth: int | None = None,
    difficulty: float | None = None,
) -> MmrpRow:
    """Build a row: the case's question, worded as in part 3 (chains of thought), the training target, and its signal."""
    prompt = form.of_path(case, "")[0].turns[:-1]
    return MmrpRow(
        id=f"{part}:{case.id}:{name}",
        part=part,
        images=case.images,
        turns=(*prompt, Turn("assistant", plain(target))),
        question=case.question,
        answer=case.answer,
        options=options_of(case),
        reasoning=plain(reasoning),
        difficulty=difficulty,
        depth=depth,
        provenance=provenance,
        signal=signal,
        **placed(case),
    )


def options_of(case: Case) -> tuple[str, ...]:
    """Return the options of a multiple-choice case, or ``()``.

    Raises:
        ValueError: they cannot be read. Such a case is dropped before any signal is made of it.
    """
    return read_options(case.meta.get("options"))


def gives_answer(reply: str, case: Case) -> bool:
    """Return whether a reply gives the known answer, by the rules of the evaluation. An answer that cannot be verified is not given."""
    try:
        return is_right(reply, case.answer, options_of(case), case.question)
    except InputError:
        return False


def scored(candidates: Sequence[TreeCandidate]) -> list[TreeCandidate]:
    """Return the candidates with a new step and a score at quorum. Of several with the same steps, the first is kept."""
    found: dict[tuple[str, ...], TreeCandidate] = {}
    for candidate in candidates:
        if candidate["steps"] and candidate["quorum"] and candidate["mics_score"] is not None:
            found.setdefault(tuple(candidate["steps"]), candidate)
    return list(found.values())


def keys_of(score: TreeScore) -> list[str | None]:
    """Return the ledger keys of the evaluations behind a score."""
    return [key for e in score["evaluations"] for key in (e["key"], e["judge_key"])]


def prefix_keys(levels: Sequence[TreeLevel], level: TreeLevel) -> list[str | None]:
    """Return the ledger keys of the mentors' replies that the prefix of a level consists of; ``levels`` are those of its attempt."""
    earlier = (each for each in levels if each["depth"] < level["depth"])
    return [candidate["key"] for each in earlier for candidate in each["candidates"] if candidate["chosen"]]


def score_of(score: TreeScore) -> float:
    """Return the MICS-Score of an answered score."""
    assert score["mics_score"] is not None  # noqa: S101 - :func:`scored` returns only answered candidates
    return score["mics_score"]


def unit_text(steps: Sequence[str], first: int) -> str:
    """Return steps that were scored together, as text: ``### Step 1: ...``."""
    return plain(render_steps(tuple(steps), first=first))


def short_name(*parts: object) -> str:
    """Return a name that depends only on ``parts``: twelve hexadecimal digits."""
    return hashlib.sha256("\0".join(map(str, parts)).encode("utf-8", "surrogatepass")).hexdigest()[:12]
