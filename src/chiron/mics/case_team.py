"""Mentors, interns and judge for one case: send their calls and interpret the replies."""

import asyncio
import math
from collections.abc import Awaitable, Iterable
from typing import TypeVar

from chiron.cases.case import Case
from chiron.client.call import MORE_SPACE, Ask, Call, ImagePart, Message, Reply, Role, resized
from chiron.client.failures import CALL_FAILED, CallFailed
from chiron.conversation.reasoning import Defect, continue_from, parse_reasoning
from chiron.conversation.short_answers import read_verdict
from chiron.mics.adaptive import next_evaluations
from chiron.mics.answer_leak import steps_before_answer
from chiron.mics.prompts import Prompts
from chiron.mics.result import Candidate, Path
from chiron.mics.team import CandidateEvaluation, Policy, Sample, Score, Team, reaches_quorum

T = TypeVar("T")
JUDGE_SAMPLES = 2
"""Calls to the judge per answer: if the first reply is not a verdict, the judge is asked once more."""


class TooFewAnswers(Exception):
    """Raised below the quorum of answered calls; the case stays pending."""


class Unjudged(TooFewAnswers):
    """Raised below the quorum because the judge gave no verdict. A rerun would read the same stored replies."""


class CaseTeam:
    """Send the calls of mentors, interns and judge for one case."""

    def __init__(self, case: Case, pictures: tuple[ImagePart, ...], team: Team, ask: Ask, policy: Policy, prompts: Prompts) -> None:
        """Create a team; ``pictures`` are the case's images, in order."""
        self.case, self.pictures, self.team, self.policy, self.prompts = case, pictures, team, policy, prompts
        self.mentor_pictures = pictures if policy.mentor_image_side is None else resized(pictures, policy.mentor_image_side)
        self._ask = ask
        self._costs: dict[str, float | None] = {}

    @property
    def calls(self) -> int:
        """Number of distinct calls answered so far."""
        return len(self._costs)

    @property
    def cost_usd(self) -> float | None:
        """Cost of these replies when they were paid for; ``None`` if no reply had a price."""
        priced = [cost for cost in self._costs.values() if cost is not None]
        return math.fsum(priced) if priced else None  # independent of the order in which replies arrive

    async def propose(self, prefix: tuple[str, ...], unfinished: Path | None, *, restart: int) -> list[Candidate]:
        """Return every mentor's candidate after ``prefix``.

        The mentor of ``unfinished`` (the path chosen last) continues with that path, without a new call.

        Raises:
            TooFewAnswers: the calls of too many mentors failed.
        """
        samples = self.policy.mentor_samples(self.team)
        candidates = await together(self._propose(sample, prefix, unfinished, restart) for sample in samples)
        failed = [c for c in candidates if c.missing]
        if not reaches_quorum(len(candidates) - len(failed), len(candidates)):
            raise TooFewAnswers(f"{len(failed)} of {len(candidates)} mentors did not answer: {failed[0].problem}")
        return candidates

    async def score(self, prefix: tuple[str, ...], *, restart: int, known: Score | None = None, more: int | None = None) -> Score:
        """Score ``prefix``: every intern finishes it at every temperature, and the judge compares the answers with the known one.

        MICS-Score = correct / answered evaluations; a failed call is missing, not wrong.

        Args:
            prefix: the steps to continue.
            restart: number of restarts so far.
            known: evaluations of this prefix that were asked before; they are kept.
            more: number of further evaluations to ask, one temperature after the other; by default all.
        """
        messages = self.prompts.intern(self.case, self.pictures, prefix)
        calls = [self._call("intern", sample, messages, restart) for sample in self.policy.intern_samples(self.team)]
        done = {e.key: e for e in known.evaluations} if known is not None else {}
        waiting = [call for call in calls if call.key not in done]
        if more is not None and more < len(waiting):
            waiting = sorted(waiting, key=lambda call: self.policy.temperatures.index(call.temperature))[:more]
        done |= {e.key: e for e in await together(self._evaluate(call) for call in waiting)}
        return Score(tuple(done[call.key] for call in calls if call.key in done), len(calls) - len(done))

    @staticmethod
    def demand_mentors(candidates: list[Candidate]) -> None:
        """Require a reply from every mentor. Do not conclude "unsolved" from zero scores if any mentor call failed.

        Raises:
            TooFewAnswers: a mentor did not answer.
        """
        for candidate in candidates:
            if candidate.missing:
                raise TooFewAnswers(f"no candidate led to the answer, and {candidate.mentor} did not answer: {candidate.problem}")

    async def score_candidates(self, candidates: list[Candidate], *, restart: int) -> None:
        """Score every candidate that has a path. The policy's ``evaluation`` may leave some unfinished, but never the best one.

        Raises:
            TooFewAnswers: a candidate is below the quorum, so the best one is unknown.
        """
        ready = [c for c in candidates if c.path is not None]
        for candidate in ready:
            candidate.score = Score((), len(self.policy.intern_samples(self.team)))
        while any(counts := next_evaluations(self.policy.evaluation, [c.score for c in ready])):
            await self._evaluate_further([(c, count) for c, count in zip(ready, counts, strict=True) if count], restart)
        for candidate in ready:
            _demand_quorum(candidate.score, f"the candidate of {candidate.mentor}")

    async def complete(self, candidates: Iterable[Candidate], *, restart: int) -> None:
        """Ask the evaluations that were left out.

        Raises:
            TooFewAnswers: a candidate is below the quorum.
        """
        unfinished = [c for c in candidates if c.score.not_asked]
        await self._evaluate_further([(c, c.score.not_asked) for c in unfinished], restart)
        for candidate in unfinished:
            _demand_quorum(candidate.score, f"the candidate of {candidate.mentor}")

    async def _evaluate_further(self, counts: list[tuple[Candidate, int]], restart: int) -> None:
        scores = await together(self.score(c.prefix, restart=restart, known=c.score, more=count) for c, count in counts)
        for (candidate, _), score in zip(counts, scores, strict=True):
            candidate.score = score

    async def score_whole(self, path: Path, *, restart: int) -> tuple[Score, int]:
        """Score a whole path, and return the score with the number of steps shown to the interns.

        Interns see the steps before the first one that names the answer, because copying is not reasoning. If no step remains, the score
        is the baseline.

        Raises:
            TooFewAnswers: below the quorum.
        """
        shown = steps_before_answer(path.steps, self.case.answer)
        score = await self.score(shown, restart=restart if shown else 0)
        _demand_quorum(score, "the whole path")
        return score, len(shown)

    async def baseline(self) -> Score:
        """Score the empty prefix: interns answer without any reasoning.

        Raises:
            TooFewAnswers: below the quorum.
        """
        score = await self.score((), restart=0)
        _demand_quorum(score, "the baseline")
        return score

    async def is_right(self, answer: str) -> bool:
        """Check whether a final answer means the same as the known one.

        Raises:
            TooFewAnswers: the judge's call failed.
            Unjudged: its replies contain no verdict.
        """
        try:
            verdict, problem = await self._judge(answer)
        except CallFailed as failure:
            raise TooFewAnswers(f"the judge did not answer: {failure.public}") from failure
        if verdict is None:
            raise Unjudged(str(problem))
        return verdict

    async def _propose(self, sample: Sample, prefix: tuple[str, ...], unfinished: Path | None, restart: int) -> Candidate:
        name = sample.model.name
        if unfinished is not None and unfinished.mentor == name:
            return self._candidate(unfinished, prefix)
        call = self._call("mentor", sample, self.prompts.mentor(self.case, self.mentor_pictures, prefix), restart)
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
        """Add the path's next step to the prefix (the first two steps at the root). A finished path offers the prefix again."""
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
            # The intern replied without an answer: this counts as wrong, not as a failed call.
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
        """Return the verdict, or ``None`` and the reason."""
        messages = self.prompts.judge(self.case.question, self.case.answer, answer)
        problem = ""
        for index in range(JUDGE_SAMPLES):
            call = self.team.judge.call("judge", messages, 0.0, index)
            reply = await self._reply(call)
            if (verdict := read_verdict(reply.text)) is not None:
                return verdict, None
            short = _shortfall(call, reply)
            problem = f"the judge's reply was {short}" if short else "the judge said neither yes nor no"
        return None, problem

    @staticmethod
    def _call(role: Role, sample: Sample, messages: tuple[Message, ...], restart: int) -> Call:
        return sample.model.call(role, messages, sample.temperature, sample.index(restart))

    async def _reply(self, call: Call) -> Reply:
        reply = await self._ask(call)
        self._costs[call.key] = reply.cost_usd
        return reply


def _shortfall(call: Call, reply: Reply) -> str | None:
    """Explain why a reply is cut off or has no text; ``None`` if it is complete."""
    if reply.only_thinking:
        ended = f" up to its limit of {call.max_tokens} tokens" if reply.cut_off else ""
        return f"nothing but thinking{ended}: {MORE_SPACE}"
    return f"cut off at its limit of {call.max_tokens} tokens (search.max_tokens, or the model's own)" if reply.cut_off else None


def _demand_quorum(score: Score, what: str) -> None:
    if not score.has_quorum:
        problem = next((e.problem for e in score.evaluations if e.correct is None and e.problem), "no interns")
        # A rerun does not help if the quorum is out of reach even when every failed call is answered.
        lasting = not reaches_quorum(score.planned - score.unjudged, score.planned)
        raise (Unjudged if lasting else TooFewAnswers)(f"{what} has {score.answered} of {score.planned} evaluations: {problem}")


async def together(work: Iterable[Awaitable[T]]) -> list[T]:
    """Await all awaitables concurrently and return their results; then raise the first error, if any.

    Nothing is cancelled, because calls in progress are already paid for.
    """
    done = await asyncio.gather(*work, return_exceptions=True)
    for result in done:
        if isinstance(result, BaseException):
            raise result
    return [result for result in done if not isinstance(result, BaseException)]
