"""Step rewards: a prefix and a step, with the MICS-Score as the label of a process reward model."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NotRequired, TypedDict, Unpack

from chiron.client.call import Ask
from chiron.conversation.reasoning import parse_reasoning
from chiron.errors import InputError
from chiron.jobs.job import run_job
from chiron.mics.tree import TreeCandidate, TreeEvaluation, TreeLevel, TreeScore
from chiron.mmrp.part import BuildSummary, Made
from chiron.mmrp.path_sources import Decisions, ReviewMode
from chiron.mmrp.row import MmrpRow
from chiron.mmrp.signals.source import (
    CaseTrees,
    SearchedRun,
    SignalRun,
    SourceOptions,
    form_of,
    open_runs,
    scored,
    short_name,
    signal_row,
    signal_run,
    unit_text,
)
from chiron.mmrp.templates import ConversationTemplate

RULES: Final = 3
"""Version of the rules; increase it when the same trees would give other rows."""


class RewardSignal(TypedDict):
    """Signal of a row of ``rewards``. Lists have one entry per scored unit; a unit is a step, or the first two steps together."""

    units: list[str]
    """Text of each unit: ``### Step 1: ...``."""
    scores: list[float]
    """Soft label: MICS-Score of everything up to and including the unit, over all attempts of the run that evaluated it."""
    labels: list[bool]
    """Hard label: whether the score exceeds the threshold."""
    threshold: float
    answered: list[int]
    """Number of evaluations behind each score."""
    mentor: str
    """Mentor of the last unit; of several attempts, as ``depth`` and ``attempt``, that of the first."""
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
    """Build process-reward rows from the search trees of runs, without a model: one row per scored prefix and step.

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
    text: str
    steps: tuple[str, ...]
    score: TreeScore


_Prefix = tuple[str, ...]
"""Steps that the interns were shown."""


@dataclass(frozen=True)
class _Drafted:
    """A scored candidate, as one attempt evaluated it."""

    attempt: int
    depth: int
    mentor: str
    units: tuple[Scored, ...]
    calls: tuple[str | None, ...]
    """Ledger keys of the mentors' replies."""
    whole: bool

    def prefix(self, units: int) -> _Prefix:
        """Return the steps of the first ``units`` units."""
        return tuple(step for unit in self.units[:units] for step in unit.steps)


@dataclass(frozen=True)
class _Rewards:
    form: ConversationTemplate
    options: RewardOptions
    decisions: Decisions

    async def rows(self, unit: CaseTrees, ask: Ask) -> Made:
        del ask
        rows: dict[str, MmrpRow] = {}
        below = False
        for run, tree in unit.trees:
            drafts: dict[_Prefix, list[_Drafted]] = {}
            evaluations: dict[_Prefix, dict[object, TreeEvaluation]] = {}
            for attempt, levels in enumerate(tree["attempts"]):
                for draft in _drafts(attempt, levels):
                    drafts.setdefault(draft.prefix(len(draft.units)), []).append(draft)
                    for count, of_unit in enumerate(draft.units, start=1):
                        known = evaluations.setdefault(draft.prefix(count), {})
                        for place, evaluation in enumerate(of_unit.score["evaluations"]):
                            name = evaluation["key"] or (attempt, place)
                            if name not in known or known[name]["correct"] is None:  # the same call, whose verdict may have come later
                                known[name] = evaluation
                below = below or any(c["steps"] and not c["quorum"] for level in levels for c in level["candidates"])
            for same in drafts.values():
                row = self._row(unit, run, same, evaluations)
                if self.decisions.mode != "require" or row.signal.get("human_labels", [None])[-1] is not None:
                    rows.setdefault(row.id, row)
        if not rows:
            unreviewed = self.decisions.mode == "require"
            return Made.drop("rewards", unit.case, "not reviewed" if unreviewed else "scores below the quorum" if below else "no candidate")
        return Made(tuple(rows.values()))

    def _row(
        self, unit: CaseTrees, run: SearchedRun, same: Sequence[_Drafted], evaluations: Mapping[_Prefix, Mapping[object, TreeEvaluation]]
    ) -> MmrpRow:
        """Build the row of a prefix and step that one or more attempts of a run evaluated.

        Attempts draw their own samples, so all evaluations are counted together: the same step never has two labels.
        """
        first = max(same, key=lambda draft: len(draft.units))  # the first of those with the most labels
        pooled = [list(evaluations[first.prefix(count)].values()) for count in range(1, len(first.units) + 1)]
        verdicts = [[each["correct"] for each in of_unit if each["correct"] is not None] for of_unit in pooled]
        shares = [sum(of_unit) / len(of_unit) for of_unit in verdicts]
        signal: RewardSignal = {
            "units": [each.text for each in first.units],
            "scores": shares,
            "labels": [share > self.options.threshold for share in shares],
            "threshold": self.options.threshold,
            "answered": [len(of_unit) for of_unit in verdicts],
            "mentor": first.mentor,
            "depth": first.depth,
            "attempt": first.attempt,
            "whole_path": first.whole,
        }
        if (labels := human_labels([each.steps for each in first.units], run, unit.case.id, self.decisions)) is not None:
            signal["human_labels"] = labels
        said = "\n".join(signal["units"])
        keys = [key for of_unit in pooled for each in of_unit for key in (each["key"], each["judge_key"])]
        return signal_row(
            "rewards",
            short_name(said, *shares),
            unit.case,
            self.form,
            said,
            signal=signal,
            provenance=run.provenance([*(call for draft in same for call in draft.calls), *keys]),
            depth=first.depth,
        )


def _drafts(attempt: int, levels: Sequence[TreeLevel]) -> Iterator[_Drafted]:
    """Yield the scored candidates of an attempt, each with the scored units before it."""
    before: tuple[Scored, ...] = ()
    calls: tuple[str | None, ...] = ()
    for level in levels:
        first = len(level["prefix"]) + 1
        for candidate in scored(level["candidates"]):
            units = (*before, Scored(unit_text(candidate["steps"], first), tuple(candidate["steps"]), candidate))
            yield _Drafted(attempt, level["depth"], candidate["mentor"], units, (*calls, candidate["key"]), whole=False)
        chosen = next((c for c in level["candidates"] if c["chosen"]), None)
        if chosen is None:
            return
        if chosen["steps"]:  # a finished path offers the prefix again
            before = (*before, Scored(unit_text(chosen["steps"], first), tuple(chosen["steps"]), chosen))
        calls = (*calls, chosen["key"])
        if (rest := _rest(level, chosen, before)) is not None:
            yield _Drafted(attempt, level["depth"], chosen["mentor"], (*before, rest), calls, whole=True)


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
