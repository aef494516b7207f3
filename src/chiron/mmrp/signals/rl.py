"""Prompts for reinforcement learning with verifiable answers, selected by the pass rate of the interns."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypedDict, Unpack

from chiron.client.call import Ask
from chiron.errors import InputError
from chiron.jobs.job import run_job
from chiron.mics.tree import TreeScore
from chiron.mmrp.part import BuildSummary, Made
from chiron.mmrp.signals.source import (
    CaseTrees,
    SearchedRun,
    SignalRun,
    SourceOptions,
    form_of,
    gives_answer,
    keys_of,
    open_runs,
    score_of,
    short_name,
    signal_row,
    signal_run,
)
from chiron.mmrp.templates import ConversationTemplate

RULES: Final = 2
"""Version of the rules; increase it when the same trees would give other rows."""


class RlSignal(TypedDict):
    """Signal of a row of ``rl``. The row's own target is only the final answer; trainers get the prompt without it."""

    pass_rate: float
    """Share of the interns' answers without any reasoning that are right: the baseline of the search."""
    answered: int
    """Number of these answers."""


@dataclass(frozen=True)
class RlOptions:
    """Window of pass rates.

    Raises:
        InputError: the window is empty or out of range.
    """

    min_pass_rate: float = 0.0
    max_pass_rate: float = 0.9
    """Questions that nearly every intern answers without reasoning teach no reasoning."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_pass_rate <= self.max_pass_rate <= 1:
            raise InputError(
                f"the window of pass rates must be within 0 and 1, the minimum first (got {self.min_pass_rate:g} to {self.max_pass_rate:g})"
            )


def build_rl(
    runs: Sequence[Path],
    out: Path,
    *,
    options: RlOptions | None = None,
    **source: Unpack[SourceOptions],
) -> BuildSummary:
    """Build prompts with verifiable answers from runs that measured a baseline, without a model: one row per case.

    Writes ``rows.jsonl``, ``dropped.jsonl``, and the rows in the GRPO forms of TRL, verl and ms-swift to ``exports/``. The reward
    function is :func:`chiron.evaluation.reward.answer_reward`. Arguments and errors are those of
    :func:`chiron.mmrp.signals.preferences.build_preferences`.
    """
    return run_job(prepare_rl(runs, out, options=options, **source))


def prepare_rl(
    runs: Sequence[Path],
    out: Path,
    *,
    options: RlOptions | None = None,
    **source: Unpack[SourceOptions],
) -> SignalRun:
    """Prepare :func:`build_rl`: validate its inputs without running it."""
    chosen, wording = options or RlOptions(), form_of(source)
    read = open_runs(runs, source)
    for run in read:
        if not run.identity.get("baseline"):
            raise InputError(
                f"the interns' pass rate was not measured ({run.path}): set 'baseline: true' in the section 'search' of its configuration"
                f" and run 'chiron replay {run.path} --config FILE --run NEW', which repeats no call of the search"
            )
    identity = {"rules": RULES, **vars(chosen), **wording.identity()}
    return signal_run("rl", read, out, _Prompts(wording, chosen).rows, identity, source, nothing="prompt")


@dataclass(frozen=True)
class _Prompts:
    """Convert the baseline of a case to a row."""

    form: ConversationTemplate
    options: RlOptions

    async def rows(self, unit: CaseTrees, ask: Ask) -> Made:
        """Build the row of a case. Of several runs, the one with the most answers counts."""
        del ask
        target = f"### The final answer is: {unit.case.answer}"
        if not gives_answer(target, unit.case):
            return Made.drop("rl", unit.case, "answer cannot be verified", f"the reward does not count '{unit.case.answer[:80]}' as right")
        measured: list[tuple[SearchedRun, TreeScore]] = [
            (run, tree["baseline"]) for run, tree in unit.trees if tree["baseline"] is not None and tree["baseline"]["answered"]
        ]
        if not measured:
            return Made.drop(
                "rl", unit.case, "no baseline", "its search has not reached the baseline yet, or it failed: run the search again"
            )
        run, baseline = max(measured, key=lambda each: each[1]["answered"])
        if not baseline["quorum"]:
            return Made.drop("rl", unit.case, "scores below the quorum", f"{baseline['answered']} of {baseline['planned']} answers")
        rate = score_of(baseline)
        if not self.options.min_pass_rate <= rate <= self.options.max_pass_rate:
            return Made.drop(
                "rl", unit.case, "pass rate too low" if rate < self.options.min_pass_rate else "pass rate too high", f"{rate:.2f}"
            )
        signal: RlSignal = {"pass_rate": rate, "answered": baseline["answered"]}
        row = signal_row(
            "rl",
            short_name(unit.case.fingerprint),
            unit.case,
            self.form,
            target,
            signal=signal,
            provenance=run.provenance(keys_of(baseline)),
            difficulty=1 - rate,
        )
        return Made((row,))
