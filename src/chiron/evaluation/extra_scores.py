"""Scores beside the protocol's verdict: a second judge, an extractor, the MICS-Score of the model's own reasoning."""

from dataclasses import dataclass

from chiron.client.call import Ask, Call, ImagePart, Message, Reply, TextPart
from chiron.client.failures import CallFailed, Transient
from chiron.client.prompts import fill, section
from chiron.conversation.markup import escape_markup, own_turn, said
from chiron.conversation.reasoning import parse_reasoning
from chiron.evaluation.answers.extraction import extract
from chiron.evaluation.config import EvaluationPrompts
from chiron.evaluation.items import Item, as_case, as_judged, in_words
from chiron.evaluation.protocols.protocol import Finding
from chiron.mics.answer_leak import steps_before_answer
from chiron.mics.case_team import CaseTeam, TooFewAnswers, together
from chiron.mics.prompts import MAX_GIVEN_ANSWER
from chiron.mics.team import Policy, RoleModel, Score, Team

PUBLISHED_TEMPERATURE = 0.9
_MOST = 8000
"""Characters of a reply that an extractor is shown: its end, where the answer stands."""


@dataclass(frozen=True)
class Judging:
    """A judge."""

    seat: RoleModel
    prompts: EvaluationPrompts
    any_yes: bool = False
    """As published: at temperature 0.9, with a reply that contains "yes" anywhere being a yes."""

    async def verdict(self, item: Item, given: str, ask: Ask) -> bool | None:
        """Whether ``given`` means the same as the known answer; ``None`` if the judge says neither yes nor no.

        Raises:
            CallFailed: it did not answer.
        """
        if self.any_yes:
            return await self._as_published(item, given, ask)
        panel = CaseTeam(as_judged(item), (), Team((), (), self.seat), ask, Policy(), self.prompts.search)
        try:
            return await panel.is_right(given)
        except TooFewAnswers as problem:
            if isinstance(problem.__cause__, CallFailed):
                raise problem.__cause__ from None
            return None

    async def _as_published(self, item: Item, given: str, ask: Ask) -> bool:
        """The published judge sees both answers and not the question, and is asked whether they mean something similar."""
        body = fill(
            self.prompts.own["published_judge"],
            known_answer=section("known_answer", escape_markup(item.answer)),
            given_answer=section("given_answer", escape_markup(" ".join(given.split())[:MAX_GIVEN_ANSWER])),
        )
        seat = self.seat
        reply = await ask(
            Call("judge", seat.name, seat.identity, (Message("user", (TextPart(body),)),), PUBLISHED_TEMPERATURE, seat.max_tokens)
        )
        return "yes" in own_turn(said(reply.text)).lower()


@dataclass(frozen=True)
class JudgeColumn:
    """``judge:NAME``: 1 if a judge takes the answer for the known one, 0 if not or if there is none; never the verdict."""

    judging: Judging

    async def scores(
        self, item: Item, pictures: tuple[ImagePart, ...], reply: Reply, finding: Finding, ask: Ask
    ) -> dict[str, float | None]:
        """As :class:`~chiron.evaluation.item_runner.Column`."""
        del pictures, reply
        verdict = await self.judging.verdict(item, finding.given, ask) if finding.given is not None else False
        return {f"judge:{self.judging.seat.name}": None if verdict is None else float(verdict)}


@dataclass(frozen=True)
class ExtractorColumn:
    """``extractor:NAME``: 1 if the option that a model reads out of the reply is the right one, 0 if not; for questions with options."""

    seat: RoleModel
    prompts: EvaluationPrompts

    async def scores(
        self, item: Item, pictures: tuple[ImagePart, ...], reply: Reply, finding: Finding, ask: Ask
    ) -> dict[str, float | None]:
        """As :class:`~chiron.evaluation.item_runner.Column`."""
        del pictures, finding
        if not item.options:
            return {}
        body = fill(
            self.prompts.own["extractor"],
            question=section("question", in_words(item)),
            reasoning=section("reasoning", reply.text[-_MOST:]),
        )
        seat = self.seat
        read = await ask(Call("extractor", seat.name, seat.identity, (Message("user", (TextPart(body),)),), 0.0, seat.max_tokens))
        return {f"extractor:{seat.name}": float(extract(read.text, item.options).index == item.gold)}


@dataclass(frozen=True)
class MicsColumn:
    """``mics_score``: of all steps up to the first that names the known answer; ``mics_score@k``: after step k; ``@0``: with none.

    ``mics_score_whole`` is the paper's Eq. 4 as printed: the interns see every step, also those that name the answer.

    Following a step that names the answer is copying, so what comes from there on is never shown. A reply without steps, or one that names
    the answer in its first, has the score of no reasoning at all.
    """

    team: Team
    policy: Policy
    prompts: EvaluationPrompts

    async def scores(
        self, item: Item, pictures: tuple[ImagePart, ...], reply: Reply, finding: Finding, ask: Ask
    ) -> dict[str, float | None]:
        """As :class:`~chiron.evaluation.item_runner.Column`."""
        del finding
        steps = parse_reasoning(reply.text).steps
        shown = steps_before_answer(steps, item.answer)
        panel = CaseTeam(as_case(item), pictures, self.team, ask, self.policy, self.prompts.search)
        prefixes = [*(shown[:depth] for depth in range(len(shown) + 1)), *([steps] if steps != shown else [])]
        values = [_value(score) for score in await together(panel.score(prefix, restart=0) for prefix in prefixes)]
        guarded = values[: len(shown) + 1]
        by_depth = {f"mics_score@{depth}": value for depth, value in enumerate(guarded)}
        return {"mics_score": guarded[-1], "mics_score_whole": values[-1], **by_depth}


def _value(score: Score) -> float:
    if not score.has_quorum:
        problem = next((e.problem for e in score.evaluations if e.correct is None and e.problem), "no interns")
        raise Transient(f"the reasoning has {score.answered} of {score.planned} evaluations: {problem}")
    return score.value
