"""Reflections: a wrong step of the search tree, why it does not fit, and the right step (the reflective form of Mulberry)."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import ClassVar, Final, TypedDict, Unpack

from chiron.cases.case import Case
from chiron.cases.images import ImageProblem
from chiron.cases.reader import Selection
from chiron.client.call import Ask, Call, ImagePart, Message, Reply, RoleModel, resized
from chiron.client.failures import CallerFault
from chiron.client.prompts import PromptSet, own_marks, section, user_message
from chiron.conversation.markup import own_turn, said
from chiron.conversation.reasoning import parse_reasoning, render_reasoning, render_steps
from chiron.errors import InputError
from chiron.jobs.job import run_job, units_in_flight
from chiron.jobs.roles import identity_of
from chiron.mics.answer_leak import leak_phrase, names_answer
from chiron.mics.config import RunConfig
from chiron.mics.prompts import patient
from chiron.mics.setup import SearchSetup
from chiron.mmrp.part import BuildSummary, Made
from chiron.mmrp.row import Dropped, MmrpRow, Provenance
from chiron.mmrp.signals.preferences import Pair, PairRules, PreferenceOptions, drop_without_pair, need_siblings
from chiron.mmrp.signals.source import (
    CaseTrees,
    SignalRun,
    SourceOptions,
    form_of,
    open_runs,
    score_of,
    short_name,
    signal_row,
    signal_run,
    unit_text,
)
from chiron.mmrp.templates import ConversationTemplate, plain

RULES: Final = 2
"""Version of the rules; increase it when the same trees and replies would give other rows."""
SAMPLES: Final = 2
"""Maximum number of replies requested for one reason: a reply that cannot be used is requested once more."""
LONGEST: Final = 800
"""Maximum number of characters of a reason."""


@dataclass(frozen=True)
class _Prompts(PromptSet):
    package: ClassVar[str] = "chiron.mmrp"
    placeholders: ClassVar[Mapping[str, frozenset[str]]] = {
        "reflection_system": frozenset(),
        "reflection": frozenset({"question", "history", "findings", "answer", "reasoning", "wrong_step", "right_step"}),
    }


class ReflectionSignal(TypedDict):
    """Signal of a row of ``reflections``. The row's own target contains prefix, wrong step, reason, right step and the rest."""

    wrong: str
    """The wrong step as it appears in the target. A trainer may exclude it from the loss."""
    reason: str
    """Why it does not fit, as the mentor wrote it."""
    wrong_score: float
    """MICS-Score of the prefix with the wrong step."""
    right_score: float
    """MICS-Score of the prefix with the right step."""
    wrong_mentor: str
    right_mentor: str
    asked: str
    """The mentor that gave the reason."""
    depth: int
    attempt: int
    prefix_steps: int


@dataclass(frozen=True)
class ReflectionOptions:
    """Which steps are reflected on.

    Raises:
        InputError: a value is out of range.
    """

    min_gap: float = 0.5
    """Minimum difference of the MICS-Scores of the right and the wrong step."""
    max_wrong_score: float = 0.5
    """A step counts as wrong if its score is at most this."""
    per_case: int = 1
    """Maximum number of reflections of a case, those with the largest gaps."""

    def __post_init__(self) -> None:
        if not 0 <= self.max_wrong_score < 1:
            raise InputError(f"the maximum score of a wrong step must be at least 0 and below 1 (got {self.max_wrong_score:g})")
        self.pairs()

    def pairs(self) -> PairRules:
        """Return the rules that select pairs of a right and a wrong step."""
        return PairRules(PreferenceOptions("path", self.min_gap, inf, self.per_case), self.max_wrong_score, reflective=True)


def build_reflections(
    runs: Sequence[Path],
    config: RunConfig,
    out: Path,
    *,
    options: ReflectionOptions | None = None,
    **source: Unpack[SourceOptions],
) -> BuildSummary:
    """Build reflections from the search trees of runs. Mentors are asked why the wrong steps do not fit.

    A rerun resumes, and no call is made twice.

    Args:
        runs: run directories of ``chiron search``.
        config: configuration with the mentors, from :func:`chiron.mics.config.load_config`.
        out: output directory, used by this part only.
        options: which steps are reflected on.
        source: where cases and images are now, and the wording: see :class:`SourceOptions`.

    Raises:
        InputError: a run or the configuration cannot be used, or the runs give no reflection.
        DiskError: a file cannot be written.
    """
    return run_job(prepare_reflections(runs, config, out, options=options, **source))


def prepare_reflections(
    runs: Sequence[Path],
    config: RunConfig,
    out: Path,
    *,
    options: ReflectionOptions | None = None,
    **source: Unpack[SourceOptions],
) -> SignalRun:
    """Prepare :func:`build_reflections`: validate its inputs without running it."""
    chosen, wording = options or ReflectionOptions(), form_of(source)
    read = open_runs(runs, source)
    need_siblings(read)
    setup = SearchSetup.of(Selection(read[0].cases), config, Path(str(read[0].about.get("images"))))
    prompts = _Prompts.load()
    endpoints = {name: setup.roles.endpoints[name] for name in config.search.mentors}
    identity = {
        "rules": RULES,
        **vars(chosen),
        **wording.identity(),
        "mentors": [identity_of(mentor) for mentor in setup.team.mentors],
        "temperature": config.search.mentor_temperature,
        "image_side": setup.policy.image_sides["mentor"],
        "reflection_prompts": prompts.hashes(),
    }
    return signal_run(
        "reflections",
        read,
        out,
        _Reflections(setup, prompts, wording, chosen.pairs()).rows,
        identity,
        source,
        nothing="reflection",
        endpoints=endpoints,
        budget_usd=config.search.budget_usd,
        in_flight=units_in_flight(config.search.cases_in_flight, endpoints),
    )


@dataclass(frozen=True)
class _Reflections:
    """Convert the trees of a case to rows, with the help of mentors."""

    setup: SearchSetup
    prompts: _Prompts
    form: ConversationTemplate
    rules: PairRules

    async def rows(self, unit: CaseTrees, ask: Ask) -> Made:
        """Build the rows of a case.

        Raises:
            CallFailed: a reply is missing.
            RunStopped: no more calls are sent.
        """
        pairs, reasons = self.rules.select(unit)
        if not pairs:
            return drop_without_pair("reflections", unit, reasons)
        try:
            pictures = await asyncio.to_thread(self.setup.load_images, unit.case)
        except (ImageProblem, CallerFault) as problem:
            return Made.drop("reflections", unit.case, "bad image", str(problem))
        try:
            made = [await self._one(unit, pair, pictures, ask) for pair in pairs]
        finally:
            self.setup.release_images(pictures)
        return Made(tuple(m for m in made if isinstance(m, MmrpRow)), tuple(m for m in made if isinstance(m, Dropped)))

    async def _one(self, unit: CaseTrees, pair: Pair, pictures: tuple[ImagePart, ...], ask: Ask) -> MmrpRow | Dropped:
        messages = self._messages(unit.case, pair, resized(pictures, self.setup.policy.image_sides["mentor"]))
        mentor = self._mentor(pair)
        problem, text = "", ""
        for sample_index in range(SAMPLES):
            temperature = self.setup.policy.mentor_temperature
            call = mentor.call("mentor", messages, temperature, sample_index)
            reply = await ask(call)
            text = reason_of(reply)
            problem = why_unusable(text, reply, unit.case)
            if not problem:
                return self._row(unit, pair, text, call)
        return Dropped.of("reflections", unit.case, problem, f"of {mentor.name}", text[:LONGEST])

    def _mentor(self, pair: Pair) -> RoleModel:
        """Return the mentor of the right step, or the first one if the configuration has no such mentor."""
        mentors = self.setup.team.mentors
        return next((mentor for mentor in mentors if mentor.name == pair.chosen["mentor"]), mentors[0])

    def _messages(self, case: Case, pair: Pair, pictures: tuple[ImagePart, ...]) -> tuple[Message, ...]:
        prefix = pair.level["prefix"]
        first = len(prefix) + 1
        body = self.prompts.fill(
            "reflection",
            question=section("question", own_marks(case.question)),
            history=section("history", patient(case)),
            findings=section("findings", "\n".join(case.findings) or "None given."),
            answer=section("answer", case.answer),
            reasoning=section("reasoning", render_steps(tuple(prefix)) or "Nothing yet."),
            wrong_step=section("wrong_step", render_steps(tuple(pair.rejected["steps"]), first=first)),
            right_step=section("right_step", render_steps(tuple(pair.chosen["steps"]), first=first)),
        )
        return self.prompts.with_system("reflection_system", user_message(body, pictures))

    def _row(self, unit: CaseTrees, pair: Pair, reason: str, call: Call) -> MmrpRow:
        level, chosen, rejected = pair.level, pair.chosen, pair.rejected
        steps = (*level["prefix"], *rejected["steps"], reason, *chosen["steps"], *(chosen["rest"] or ()))
        target = plain(render_reasoning(steps, chosen["final_answer"] or ""))
        signal: ReflectionSignal = {
            "wrong": unit_text(rejected["steps"], len(level["prefix"]) + 1),
            "reason": reason,
            "wrong_score": score_of(rejected),
            "right_score": score_of(chosen),
            "wrong_mentor": rejected["mentor"],
            "right_mentor": chosen["mentor"],
            "asked": call.model,
            "depth": level["depth"],
            "attempt": pair.attempt,
            "prefix_steps": len(level["prefix"]),
        }
        of_run = pair.run.provenance([*pair.calls(), call.key])
        prompts = {**of_run.prompts, **self.prompts.hashes()}
        models = {**of_run.models, f"reflection {call.model}": call.identity}
        return signal_row(
            "reflections",
            short_name(target),
            unit.case,
            self.form,
            target,
            signal=signal,
            provenance=Provenance(of_run.run, of_run.calls, prompts, models),
            reasoning=target,
            depth=level["depth"],
        )


def reason_of(reply: Reply) -> str:
    """Return the reason of a reply on one line, without thinking and step marks."""
    text = own_turn(said(reply.text))
    steps = parse_reasoning(text).steps
    return plain(" ".join((" ".join(steps) if steps else text).split()))


def why_unusable(text: str, reply: Reply, case: Case) -> str:
    """Explain why a reason is unusable; empty if it is usable."""
    if reply.cut_off:
        return "reason cut off"
    if not text:
        return "no reason"
    if len(text) > LONGEST or "###" in text:
        return "reason not in the requested form"
    if leak_phrase(text) is not None:
        return "reason reveals that the answer was known"
    return "reason names the answer" if names_answer(text, case.answer) else ""
