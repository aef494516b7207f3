"""The team around one case: what mentors, interns and judge are asked, and what their replies mean."""

import asyncio
import math
from collections.abc import Awaitable, Iterable
from typing import TypeVar

from chiron.cases.case import Case
from chiron.client.call import Ask, Call, ImagePart, Message, Reply, Role
from chiron.client.failures import CallFailed
from chiron.client.finish_reasons import MORE_SPACE
from chiron.client.missing_calls import CALL_FAILED
from chiron.conversation.reasoning import Defect, continue_from, parse_reasoning
from chiron.conversation.verdict import read_verdict
from chiron.mics.answer_leak import steps_before_answer
from chiron.mics.prompts import Prompts
from chiron.mics.result import Candidate, Path
from chiron.mics.team import CandidateEvaluation, Policy, RoleModel, Sample, Score, Team, reaches_quorum

T = TypeVar("T")
JUDGE_DRAWS = 2
"""A judge whose first word is neither yes nor no is asked once more."""


class TooFewAnswers(Exception):
    """Below the quorum: the case stays pending."""


class Unjudged(TooFewAnswers):
    """Below the quorum because the judge's replies were no verdict: running again would read the same replies."""


class CaseTeam:
    """Mentors, interns and judge, for one case."""

    def __init__(self, case: Case, pictures: tuple[ImagePart, ...], team: Team, ask: Ask, policy: Policy, prompts: Prompts) -> None:
        """``pictures``: the case's images, in its order."""
        self.case, self.pictures, self.team, self.policy, self.prompts = case, pictures, team, policy, prompts
        self._ask = ask
        self._costs: dict[str, float | None] = {}

    @property
    def calls(self) -> int:
        """Distinct calls answered so far."""
        return len(self._costs)

    @property
    def cost_usd(self) -> float | None:
        """What their replies cost when they were paid for; ``None`` if none had a price."""
        priced = [cost for cost in self._costs.values() if cost is not None]
        return math.fsum(priced) if priced else None  # the same sum in whatever order the replies arrived

    async def propose(self, prefix: tuple[str, ...], going_on: Path | None, *, restart: int) -> list[Candidate]:
        """Every mentor's candidate after ``prefix``; the one whose step was chosen goes on with what it already wrote.

        Raises:
            TooFewAnswers: the calls of too many mentors failed.
        """
        draws = self.policy.mentor_draws(self.team)
        candidates = await together(self._propose(draw, prefix, going_on, restart) for draw in draws)
        failed = [c for c in candidates if c.missing]
        if not reaches_quorum(len(candidates) - len(failed), len(candidates)):
            raise TooFewAnswers(f"{len(failed)} of {len(candidates)} mentors did not answer: {failed[0].problem}")
        return candidates

    async def score(self, prefix: tuple[str, ...], *, restart: int) -> Score:
        """Every intern at every temperature goes on from ``prefix``, and the judge compares its answer with the known one."""
        messages = self.prompts.intern(self.case, self.pictures, prefix)
        calls = [self._call("intern", draw, messages, restart) for draw in self.policy.intern_draws(self.team)]
        return Score(tuple(await together(self._evaluate(call) for call in calls)))

    @staticmethod
    def demand_mentors(candidates: list[Candidate]) -> None:
        """Nothing is to be concluded from zeros while a mentor's call failed: it might have known the way.

        Raises:
            TooFewAnswers: a mentor did not answer.
        """
        for candidate in candidates:
            if candidate.missing:
                raise TooFewAnswers(f"no candidate led to the answer, and {candidate.mentor} did not answer: {candidate.problem}")

    async def score_candidates(self, candidates: list[Candidate], *, restart: int) -> None:
        """Score every candidate there is.

        Raises:
            TooFewAnswers: one of them stayed below the quorum, so that the best cannot be told.
        """
        ready = [c for c in candidates if c.path is not None]
        for candidate, score in zip(ready, await together(self.score(c.prefix, restart=restart) for c in ready), strict=True):
            candidate.score = score
        for candidate in ready:
            _demand_quorum(candidate.score, f"the candidate of {candidate.mentor}")

    async def score_whole(self, path: Path, *, restart: int) -> tuple[Score, int]:
        """The score of a whole path without its final answer, and how many of its steps the interns saw.

        They see it up to the first step that names the answer: copying is no reasoning. With nothing left to show, this is the baseline.

        Raises:
            TooFewAnswers: below the quorum.
        """
        shown = steps_before_answer(path.steps, self.case.answer)
        score = await self.score(shown, restart=restart if shown else 0)
        _demand_quorum(score, "the whole path")
        return score, len(shown)

    async def baseline(self) -> Score:
        """The interns with no reasoning at all.

        Raises:
            TooFewAnswers: below the quorum.
        """
        score = await self.score((), restart=0)
        _demand_quorum(score, "the baseline")
        return score

    async def is_right(self, answer: str) -> bool:
        """Whether a final answer means the same as the known one.

        Raises:
            TooFewAnswers: the judge's call failed.
            Unjudged: its replies were no verdict.
        """
        try:
            verdict, problem = await self._judge(answer)
        except CallFailed as failure:
            raise TooFewAnswers(f"the judge did not answer: {failure.public}") from failure
        if verdict is None:
            raise Unjudged(str(problem))
        return verdict

    async def _propose(self, draw: Sample, prefix: tuple[str, ...], going_on: Path | None, restart: int) -> Candidate:
        name = draw.seat.name
        if going_on is not None and going_on.mentor == name:
            return self._candidate(going_on, prefix)
        call = self._call("mentor", draw, self.prompts.mentor(self.case, self.pictures, prefix), restart)
        try:
            reply = await self._reply(call)
        except CallFailed as failure:
            return Candidate(name, None, problem=f"{CALL_FAILED}: {failure.public}", missing=True)
        reasoning = parse_reasoning(reply.text, after=len(prefix))
        if problem := _shortfall(call, reply):
            return Candidate(name, None, problem=problem)
        if not reasoning.steps or Defect.MISSING_FIRST_STEP in reasoning.defects:
            return Candidate(name, None, problem=f"unreadable: {', '.join(reasoning.defects)}")
        return self._candidate(Path(name, continue_from(prefix, reasoning), reasoning.answer, call.key), prefix)

    @staticmethod
    def _candidate(path: Path, prefix: tuple[str, ...]) -> Candidate:
        """The prefix and the next step; the first two steps at the root. A path that has ended offers its last prefix again."""
        end = min(len(path.steps), len(prefix) + (1 if prefix else 2))
        return Candidate(path.mentor, path, path.steps[:end], end - len(prefix))

    async def _evaluate(self, call: Call) -> CandidateEvaluation:
        name, temperature = call.model, call.temperature
        try:
            reply = await self._reply(call)
        except CallFailed as failure:
            return CandidateEvaluation(name, temperature, None, None, f"{CALL_FAILED}: {failure.public}", call.key)
        reasoning = parse_reasoning(reply.text)
        if reasoning.answer is None:
            # It was asked and it answered; coming to nothing is not a failed call.
            why = _shortfall(call, reply) or ", ".join(reasoning.defects)
            return CandidateEvaluation(name, temperature, None, False, f"no answer: {why}", call.key)
        try:
            verdict, problem = await self._judge(reasoning.answer)
        except CallFailed as failure:
            return CandidateEvaluation(name, temperature, reasoning.answer, None, f"not judged: {failure.public}", call.key)
        if verdict is None:
            return CandidateEvaluation(name, temperature, reasoning.answer, None, f"not judged: {problem}", call.key, unjudged=True)
        return CandidateEvaluation(name, temperature, reasoning.answer, verdict, None, call.key)

    async def _judge(self, answer: str) -> tuple[bool | None, str | None]:
        """The verdict, or why there is none."""
        messages = self.prompts.judge(self.case.question, self.case.answer, answer)
        seat = self.team.judge
        problem = ""
        for draw in range(JUDGE_DRAWS):
            call = Call("judge", seat.name, seat.identity, messages, 0.0, seat.max_tokens, draw)
            reply = await self._reply(call)
            if (verdict := read_verdict(reply.text)) is not None:
                return verdict, None
            short = _shortfall(call, reply)
            problem = f"the judge's reply was {short}" if short else "the judge said neither yes nor no"
        return None, problem

    def _call(self, role: Role, draw: Sample, messages: tuple[Message, ...], restart: int) -> Call:
        seat: RoleModel = draw.seat
        return Call(role, seat.name, seat.identity, messages, draw.temperature, seat.max_tokens, draw.index(restart))

    async def _reply(self, call: Call) -> Reply:
        reply = await self._ask(call)
        self._costs[call.key] = reply.cost_usd
        return reply


def _shortfall(call: Call, reply: Reply) -> str | None:
    """Why a reply has no end, or no text at all; ``None`` if it has both."""
    if reply.only_thinking:
        ended = f" up to its limit of {call.max_tokens} tokens" if reply.cut_off else ""
        return f"nothing but thinking{ended}: {MORE_SPACE}"
    return f"cut off at its limit of {call.max_tokens} tokens (search.max_tokens, or the model's own)" if reply.cut_off else None


def _demand_quorum(score: Score, what: str) -> None:
    if not score.has_quorum:
        problem = next((e.problem for e in score.evaluations if e.correct is None and e.problem), "no interns")
        # Those without a verdict stay so: the quorum cannot be reached even if every failed call is answered.
        lasting = not reaches_quorum(score.planned - score.unjudged, score.planned)
        raise (Unjudged if lasting else TooFewAnswers)(f"{what} has {score.answered} of {score.planned} evaluations: {problem}")


async def together(work: Iterable[Awaitable[T]]) -> list[T]:
    """Do all of it at once and wait for all of it; then raise the first error there was, if any.

    Nothing is cancelled: what is under way is being paid for.
    """
    done = await asyncio.gather(*work, return_exceptions=True)
    for result in done:
        if isinstance(result, BaseException):
            raise result
    return [result for result in done if not isinstance(result, BaseException)]
