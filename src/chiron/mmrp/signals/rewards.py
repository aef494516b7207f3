"""Step rewards: a prefix and a step, with the MICS-Score as the label of a process reward model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NotRequired, TypedDict, Unpack

from chiron.client.call import Ask
from chiron.conversation.reasoning import parse_reasoning
from chiron.errors import InputError
from chiron.jobs.job import run_job
from chiron.mics.tree import TreeCandidate, TreeLevel, TreeScore
from chiron.mmrp.part import BuildSummary, Made
from chiron.mmrp.reviewed import Decisions, ReviewMode
from chiron.mmrp.row import MmrpRow
from chiron.mmrp.signals.source import (
    CaseTrees,
    SearchedRun,
    SignalRun,
    SourceOptions,
    drop,
    form_of,
    keys_of,
    open_runs,
    prompt_of,
    score_of,
    scored,
    short_name,
    signal_row,
    signal_run,
    unit_text,
)
from chiron.mmrp.templates import ConversationTemplate

RULES: Final = 2
"""Version of the rules; increase it when the same trees would give other rows."""


class RewardSignal(TypedDict):
    """Signal of a row of ``rewards``. Lists have one entry per scored unit; a unit is a step, or the first two steps together."""

    units: list[str]
    """Text of each unit: ``### Step 1: ...``."""
    scores: list[float]
    """Soft label: MICS-Score of everything up to and including the unit."""
    labels: list[bool]
    """Hard label: whether the score exceeds the threshold."""
    threshold: float
    answered: list[int]
    """Number of evaluations behind each score."""
    mentor: str
    """Mentor of the last unit."""
    depth: int
    attempt: int
    whole_path: bool
    """Whether the last unit is the rest of a whole path, scored by the policy ``verified``."""
    human_labels: NotRequired[list[str | None]]
    """Reviewers' verdict on each unit, ``accept``, ``edit`` or ``reject``, if they reviewed a path that begins with these steps.
    ``None`` for units that they did not see, or on which they disagree."""


@dataclass(frozen=True)
class RewardOptions:
    """How scores become labels.

    Raises:
        InputError: a value is out of range.
    """

    threshold: float = 0.5
    """A unit is good if its score exceeds this."""

    def __post_init__(self) -> None:
        """Check the values."""
        if not 0 <= self.threshold < 1:
            raise InputError(f"the threshold must be at least 0 and below 1 (got {self.threshold:g})")


def build_rewards(
    runs: Sequence[Path],
    out: Path,
    *,
    options: RewardOptions | None = None,
    reviews: ReviewMode = "prefer",
    **source: Unpack[SourceOptions],
) -> BuildSummary:
    """Build process-reward rows from the search trees of runs, without a model: one row per scored candidate.

    Writes ``rows.jsonl``, ``dropped.jsonl``, and the rows in TRL's form to ``exports/``; a release adds InternVL's form. Arguments
    and errors are those of :func:`chiron.mmrp.signals.preferences.build_preferences`. Labels of reviewers are added to the rows of the
    paths that they reviewed, unless ``reviews`` is ``ignore``; ``require`` keeps only rows whose last unit has such a label.
    """
    return run_job(prepare_rewards(runs, out, options=options, reviews=reviews, **source))


def prepare_rewards(
    runs: Sequence[Path],
    out: Path,
    *,
    options: RewardOptions | None = None,
    reviews: ReviewMode = "prefer",
    **source: Unpack[SourceOptions],
) -> SignalRun:
    """Prepare :func:`build_rewards`: validate its inputs without running it."""
    chosen, wording = options or RewardOptions(), form_of(source)
    read = open_runs(runs, source)
    decisions = Decisions.read([run.path for run in read], reviews)
    identity = {"rules": RULES, **vars(chosen), **wording.identity(), **decisions.identity()}
    return signal_run("rewards", read, out, _Rewards(wording, chosen, decisions).rows, identity, source, nothing="scored step")


@dataclass(frozen=True)
class Scored:
    """A unit of steps and its score."""

    text: str
    steps: tuple[str, ...]
    score: TreeScore


@dataclass(frozen=True)
class _Rewards:
    """Convert the trees of a case to rows."""

    form: ConversationTemplate
    options: RewardOptions
    decisions: Decisions

    async def rows(self, unit: CaseTrees, ask: Ask) -> Made:
        """Build the rows of a case."""
        del ask
        rows: dict[str, MmrpRow] = {}
        below = False
        for run, tree in unit.trees:
            for attempt, levels in enumerate(tree["attempts"]):
                for row in self._of_attempt(unit, run, attempt, levels):
                    if self.decisions.mode != "require" or row.signal.get("human_labels", [None])[-1] is not None:
                        rows.setdefault(row.id, row)
                below = below or any(c["steps"] and not c["quorum"] for level in levels for c in level["candidates"])
        if not rows:
            unreviewed = self.decisions.mode == "require"
            return drop("rewards", unit, "not reviewed" if unreviewed else "scores below the quorum" if below else "no candidate")
        return Made(tuple(rows.values()))

    def _of_attempt(self, unit: CaseTrees, run: SearchedRun, attempt: int, levels: Sequence[TreeLevel]) -> Iterator[MmrpRow]:
        before: list[Scored] = []
        calls: list[str | None] = []
        for level in levels:
            first = len(level["prefix"]) + 1
            for candidate in scored(level["candidates"]):
                units = [*before, Scored(unit_text(candidate["steps"], first), tuple(candidate["steps"]), candidate)]
                yield self._row(unit, run, attempt, level, candidate, units, [*calls, candidate["key"]])
            chosen = next((c for c in level["candidates"] if c["chosen"]), None)
            if chosen is None:
                return
            if chosen["steps"]:  # a finished path offers the prefix again
                before = [*before, Scored(unit_text(chosen["steps"], first), tuple(chosen["steps"]), chosen)]
            calls = [*calls, chosen["key"]]
            if (rest := _rest(level, chosen, before)) is not None:
                yield self._row(unit, run, attempt, level, chosen, [*before, rest], calls, whole=True)

    def _row(
        self,
        unit: CaseTrees,
        run: SearchedRun,
        attempt: int,
        level: TreeLevel,
        candidate: TreeCandidate,
        units: Sequence[Scored],
        calls: Sequence[str | None],
        *,
        whole: bool = False,
    ) -> MmrpRow:
        scores = [score_of(each.score) for each in units]
        signal: RewardSignal = {
            "units": [each.text for each in units],
            "scores": scores,
            "labels": [score > self.options.threshold for score in scores],
            "threshold": self.options.threshold,
            "answered": [each.score["answered"] for each in units],
            "mentor": candidate["mentor"],
            "depth": level["depth"],
            "attempt": attempt,
            "whole_path": whole,
        }
        if (labels := human_labels([each.steps for each in units], run, unit.id, self.decisions)) is not None:
            signal["human_labels"] = labels
        said = "\n".join(signal["units"])
        return signal_row(
            "rewards",
            short_name(said, *scores),
            unit.case,
            prompt_of(self.form, unit.case),
            said,
            signal=signal,
            provenance=run.provenance([*calls, *(key for each in units for key in keys_of(each.score))]),
            depth=level["depth"],
        )


def _rest(level: TreeLevel, chosen: TreeCandidate, before: Sequence[Scored]) -> Scored | None:
    """Return the rest of the chosen whole path as a unit, if it was scored at quorum and shows further steps."""
    whole = level["whole_path"]
    if whole is None or not whole["quorum"] or chosen["rest"] is None:
        return None
    given = len(level["prefix"]) + len(chosen["steps"])
    further = chosen["rest"][: max(0, whole["steps_shown"] - given)]
    if not further or sum(len(each.steps) for each in before) != given:
        return None
    return Scored(unit_text(further, given + 1), tuple(further), whole)


def chosen_units(levels: Sequence[TreeLevel]) -> list[Scored]:
    """Return the scored units of the path that an attempt ended with; empty if one of its steps has no score at quorum."""
    units: list[Scored] = []
    for level in levels:
        chosen = next((c for c in level["candidates"] if c["chosen"]), None)
        if chosen is None or not chosen["quorum"] or chosen["mics_score"] is None:
            return []
        if chosen["steps"]:
            units.append(Scored("", tuple(chosen["steps"]), chosen))
        if (rest := _rest(level, chosen, units)) is not None:
            return [*units, rest]
    return units


def human_labels(units: Sequence[Sequence[str]], run: SearchedRun, case_id: str, decisions: Decisions) -> list[str | None] | None:
    """Return the reviewers' verdict on each unit (a sequence of steps): reject before edit before accept.

    ``None`` if the case's path is not reviewed, or none of the units is the beginning of that path.
    """
    if not decisions.by_run.get(run.path):
        return None
    result = run.reader.ledger.result(case_id)
    reasoning = result.record.get("reasoning") if result is not None else None
    decision = decisions.of(run.path, case_id, reasoning)
    if decision is None:
        return None
    path = parse_reasoning(str(reasoning)).steps
    found: list[str | None] = []
    at, same = 0, True
    for unit in units:
        end = at + len(unit)
        same = same and tuple(unit) == path[at:end]
        given = set(decision.labels[at:end]) if same else {None}
        found.append(None if None in given else next(verdict for verdict in ("reject", "edit", "accept") if verdict in given))
        at = end
    return found if any(found) else None
