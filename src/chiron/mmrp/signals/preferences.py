"""Preference pairs: at the same prefix, the best candidate of the search tree against the worst."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, permutations
from pathlib import Path
from typing import Final, Literal, TypedDict, Unpack

from chiron.client.call import Ask
from chiron.conversation.reasoning import render_reasoning
from chiron.errors import InputError
from chiron.jobs.job import run_job
from chiron.mics.answer_leak import leak_phrase
from chiron.mics.tree import TreeCandidate, TreeLevel, TreeRecord
from chiron.mmrp.part import BuildSummary, Made
from chiron.mmrp.path_sources import THRESHOLD
from chiron.mmrp.row import MmrpRow, Part
from chiron.mmrp.signals.source import (
    CaseTrees,
    SearchedRun,
    SignalRun,
    SourceOptions,
    form_of,
    gives_answer,
    keys_of,
    open_runs,
    prefix_keys,
    score_of,
    scored,
    short_name,
    signal_row,
    signal_run,
    unit_text,
)
from chiron.mmrp.templates import ConversationTemplate, plain
from chiron.text import normalize_words

RULES: Final = 2
"""Version of the rules; increase it when the same trees would give other rows."""
Completion = Literal["path", "step"]
COMPLETIONS: Final[tuple[Completion, ...]] = ("path", "step")
REPEATED: Final = "better path repeats the step"
WRONG_ANSWER: Final = "better path ends in another answer"
REFUTED: Final = "better path was refuted as a whole"
NO_ANSWER: Final = "no final answer"
UNFINISHED: Final = "candidates not evaluated completely"


class PreferenceSignal(TypedDict):
    """Signal of a row of ``preferences``; the row's own target is the chosen completion."""

    rejected: str
    """The rejected completion. It begins with the same prefix as the chosen one."""
    completion: Completion
    """``path``: both completions are whole paths. ``step``: both end with the step that was scored."""
    chosen_score: float
    """MICS-Score of the prefix with the chosen step."""
    rejected_score: float
    """MICS-Score of the prefix with the rejected step."""
    chosen_mentor: str
    rejected_mentor: str
    depth: int
    attempt: int
    prefix_steps: int
    """Number of steps that both completions share."""


@dataclass(frozen=True)
class PreferenceOptions:
    """Which pairs are made.

    Raises:
        InputError: a value is out of range.
    """

    completion: Completion = "path"
    min_gap: float = 0.3
    """Minimum difference of the two MICS-Scores."""
    max_length_ratio: float = 2.0
    """Maximum ratio of the numbers of words after the prefix, so that a model does not learn to prefer length."""
    per_case: int = 3
    """Maximum number of pairs of a case, those with the largest gaps."""

    def __post_init__(self) -> None:
        if self.completion not in COMPLETIONS:
            raise InputError(f"unknown completion '{self.completion}'; choose path or step")
        if not 0 < self.min_gap <= 1:
            raise InputError(f"the minimum gap must be above 0 and at most 1 (got {self.min_gap:g})")
        if self.max_length_ratio < 1:
            raise InputError(f"the maximum length ratio must be at least 1 (got {self.max_length_ratio:g})")
        if self.per_case < 1:
            raise InputError(f"the number of pairs per case must be at least 1 (got {self.per_case})")


def build_preferences(
    runs: Sequence[Path],
    out: Path,
    *,
    options: PreferenceOptions | None = None,
    **source: Unpack[SourceOptions],
) -> BuildSummary:
    """Build preference pairs from the search trees of runs, without a model.

    Writes ``rows.jsonl``, ``dropped.jsonl``, and the rows in the forms of TRL, ms-swift and LLaMA-Factory to ``exports/``.

    Args:
        runs: run directories of ``chiron search``.
        out: output directory, used by this part only.
        options: which pairs are made.
        source: where cases and images are now, and the wording: see :class:`SourceOptions`.

    Raises:
        InputError: a run cannot be used, the runs give no pair, or the directory belongs to another build.
        DiskError: a file cannot be written.
    """
    return run_job(prepare_preferences(runs, out, options=options, **source))


def prepare_preferences(
    runs: Sequence[Path],
    out: Path,
    *,
    options: PreferenceOptions | None = None,
    **source: Unpack[SourceOptions],
) -> SignalRun:
    """Prepare :func:`build_preferences`: validate its inputs without running it."""
    chosen, wording = options or PreferenceOptions(), form_of(source)
    read = open_runs(runs, source)
    need_siblings(read)
    identity = {"rules": RULES, **vars(chosen), **wording.identity()}
    return signal_run("preferences", read, out, _Preferences(wording, PairRules(chosen)).rows, identity, source, nothing="pair")


def need_siblings(runs: Sequence[SearchedRun]) -> None:
    """Require a run with several mentors.

    Raises:
        InputError: every run has a single mentor, so that no step has a sibling.
    """
    if all(len(run.mentors()) < 2 for run in runs):
        named = "; ".join(f"{run.path}: {', '.join(run.mentors())}" for run in runs)
        raise InputError(f"a search with one mentor has no candidates to compare ({named}): search with two or more mentors")


@dataclass(frozen=True)
class Pair:
    run: SearchedRun
    attempt: int
    level: TreeLevel
    chosen: TreeCandidate
    rejected: TreeCandidate
    whole_score: float | None
    """MICS-Score of the whole chosen path; ``None`` if the search did not evaluate it."""
    before: tuple[str | None, ...]
    """Ledger keys of the replies that the prefix consists of."""

    @property
    def gap(self) -> float:
        return score_of(self.chosen) - score_of(self.rejected)

    def refuted(self) -> bool:
        """Return whether the search rejected the whole chosen path, or found it no better than the rejected step."""
        threshold = float(self.run.identity.get("threshold", THRESHOLD))
        return self.whole_score is not None and self.whole_score <= max(threshold, score_of(self.rejected))

    def calls(self) -> list[str | None]:
        """Return the ledger keys of all replies behind the pair."""
        return [*self.before, self.chosen["key"], self.rejected["key"], *keys_of(self.chosen), *keys_of(self.rejected)]


def whole_path(level: TreeLevel, candidate: TreeCandidate) -> tuple[str, ...]:
    return (*level["prefix"], *candidate["steps"], *(candidate["rest"] or ()))


def whole_scores(tree: TreeRecord) -> dict[tuple[str, ...], float]:
    """Return the MICS-Scores of the whole paths that were evaluated at quorum, by their steps."""
    found: dict[tuple[str, ...], float] = {}
    for level in chain.from_iterable(tree["attempts"]):
        score = level["whole_path"]
        if score is not None and score["quorum"]:
            found |= {whole_path(level, candidate): score_of(score) for candidate in level["candidates"] if candidate["chosen"]}
    return found


def ends_right(pair: Pair, unit: CaseTrees, tree: TreeRecord) -> bool:
    """Return whether the chosen path ends in the known answer: by the judge's stored verdict, else by the rules of the evaluation."""
    answer = pair.chosen["final_answer"] or ""
    if (verdict := pair.run.reader.verdict(tree, answer)) is not None:
        return verdict
    return gives_answer(f"### The final answer is: {answer}", unit.case)


@dataclass(frozen=True)
class PairRules:
    """Select the pairs of a case."""

    options: PreferenceOptions
    max_rejected_score: float = 1.0
    """Maximum MICS-Score of the rejected candidate."""
    reflective: bool = False
    """Whether the target contains the rejected steps too. They may then not reveal that the answer was known, and the chosen path may not
    repeat one: such a step came too early, but is not wrong."""

    def select(self, unit: CaseTrees) -> tuple[list[Pair], Counter[str]]:
        """Return the pairs with the largest gaps, and why the other levels have none."""
        reasons: Counter[str] = Counter()
        found: dict[tuple[str, str], Pair] = {}
        for run, tree in unit.trees:
            wholes = whole_scores(tree)
            for attempt, levels in enumerate(tree["attempts"]):
                for level in levels:
                    before = tuple(prefix_keys(levels, level))
                    pairs = [
                        Pair(run, attempt, level, chosen, rejected, wholes.get(whole_path(level, chosen)), before)
                        for chosen, rejected in permutations(self._candidates(level), 2)
                    ]
                    if (pair := self._best(unit, tree, level, pairs, reasons)) is not None:
                        # Two runs may contain the same replies.
                        found.setdefault((self.text(level, pair.chosen), self.text(level, pair.rejected)), pair)
        ordered = sorted(found.items(), key=lambda each: (-each[1].gap, each[0]))
        return [pair for _, pair in ordered[: self.options.per_case]], reasons

    def text(self, level: TreeLevel, candidate: TreeCandidate) -> str:
        steps = (*level["prefix"], *self._steps(candidate))
        if self.options.completion == "step":
            return unit_text(steps, first=1)
        return plain(render_reasoning(steps, candidate["final_answer"] or ""))

    def _candidates(self, level: TreeLevel) -> list[TreeCandidate]:
        """Return the candidates of a level that give a completion."""
        candidates = scored(level["candidates"])
        return candidates if self.options.completion == "step" else [c for c in candidates if c["final_answer"] is not None]

    def _best(self, unit: CaseTrees, tree: TreeRecord, level: TreeLevel, pairs: list[Pair], reasons: Counter[str]) -> Pair | None:
        """Return the pair of a level with the largest gap (then the most equal lengths), or ``None`` and count the reason."""
        if not pairs:
            reasons[why_few(level)] += 1
            return None
        whole = self.options.completion == "path"
        rules: tuple[tuple[str, Callable[[Pair], bool]], ...] = (
            ("gap too small", lambda p: p.gap >= self.options.min_gap - 1e-9 and score_of(p.rejected) <= self.max_rejected_score + 1e-9),
            (REPEATED, lambda p: not (self.reflective and self._repeats(p))),
            ("reveals that the answer was known", lambda p: leak_phrase("\n".join(self._shown(p))) is None),
            (WRONG_ANSWER, lambda p: not whole or ends_right(p, unit, tree)),
            (REFUTED, lambda p: not (whole and p.refuted())),
            ("lengths differ too much", lambda p: self._ratio(p) <= self.options.max_length_ratio),
        )
        for reason, keeps in rules:
            pairs = [pair for pair in pairs if keeps(pair)]
            if not pairs:
                reasons[reason] += 1
                return None
        return min(pairs, key=lambda pair: (-pair.gap, self._ratio(pair), pair.chosen["mentor"], pair.rejected["mentor"]))

    def _shown(self, pair: Pair) -> list[str]:
        """Return the steps that a model learns to write."""
        rejected = pair.rejected["steps"] if self.reflective else ()
        return [*pair.level["prefix"], *rejected, *self._steps(pair.chosen)]

    def _steps(self, candidate: TreeCandidate) -> list[str]:
        return [*candidate["steps"], *(candidate["rest"] or () if self.options.completion == "path" else ())]

    def _repeats(self, pair: Pair) -> bool:
        words = {normalize_words(step) for step in self._steps(pair.chosen)}
        return any(normalize_words(step) in words for step in pair.rejected["steps"])

    def _ratio(self, pair: Pair) -> float:
        one, other = (max(1, sum(len(step.split()) for step in self._steps(c))) for c in (pair.chosen, pair.rejected))
        return max(one, other) / min(one, other)


def drop_without_pair(part: Part, unit: CaseTrees, reasons: Counter[str]) -> Made:
    """Drop a case without a pair, with the most specific reason."""
    reason = min(reasons, key=_REASONS.index) if reasons else _REASONS[-1]
    return Made.drop(part, unit.case, reason, ", ".join(f"{count} x {why}" for why, count in reasons.most_common()))


@dataclass(frozen=True)
class _Preferences:
    form: ConversationTemplate
    rules: PairRules

    async def rows(self, unit: CaseTrees, ask: Ask) -> Made:
        del ask
        pairs, reasons = self.rules.select(unit)
        if not pairs:
            return drop_without_pair("preferences", unit, reasons)
        return Made(tuple(self._row(unit, pair) for pair in pairs))

    def _row(self, unit: CaseTrees, pair: Pair) -> MmrpRow:
        level, chosen = pair.level, self.rules.text(pair.level, pair.chosen)
        completion = self.rules.options.completion
        signal: PreferenceSignal = {
            "rejected": self.rules.text(level, pair.rejected),
            "completion": completion,
            "chosen_score": score_of(pair.chosen),
            "rejected_score": score_of(pair.rejected),
            "chosen_mentor": pair.chosen["mentor"],
            "rejected_mentor": pair.rejected["mentor"],
            "depth": level["depth"],
            "attempt": pair.attempt,
            "prefix_steps": len(level["prefix"]),
        }
        return signal_row(
            "preferences",
            short_name(completion, chosen, signal["rejected"]),
            unit.case,
            self.form,
            chosen,
            signal=signal,
            provenance=pair.run.provenance(pair.calls()),
            reasoning=chosen,
            depth=level["depth"],
        )


_REASONS: Final = (
    "lengths differ too much",
    REFUTED,
    WRONG_ANSWER,
    "reveals that the answer was known",
    REPEATED,
    "gap too small",
    "scores below the quorum",
    UNFINISHED,
    NO_ANSWER,
    "one candidate only",
    "no candidate",
)
"""Why a case has no pair; of several reasons, the first is named."""


def why_few(level: TreeLevel) -> str:
    """Explain why a level has fewer than two candidates to compare."""
    readable = [c for c in level["candidates"] if c["steps"]]
    if len(scored(readable)) > 1:
        return NO_ANSWER
    if len(readable) > 1 and any(not c["quorum"] for c in readable):
        return "scores below the quorum"
    if len(readable) > 1 and any(c["not_asked"] for c in readable):
        return UNFINISHED
    return "one candidate only" if readable else "no candidate"
