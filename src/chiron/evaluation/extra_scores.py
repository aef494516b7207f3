"""Scores in addition to the protocol's verdict: a second judge, an extractor, and the MICS-Score of the model's reasoning."""

from dataclasses import dataclass

from chiron.client.call import Ask, Call, ImagePart, Message, Reply, RoleModel, TextPart
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
from chiron.mics.team import Policy, Score, Team

PUBLISHED_TEMPERATURE = 0.9
_MOST = 8000
"""Number of characters, from the end of a reply, that an extractor sees; the answer is usually at the end."""


@dataclass(frozen=True)
class Judging:
    """A judge with its prompts."""

    seat: RoleModel
    prompts: EvaluationPrompts
    any_yes: bool = False
    """As published: temperature 0.9, and a reply that contains "yes" anywhere counts as yes."""

    async def verdict(self, item: Item, given: str, ask: Ask) -> bool | None:
        """Judge whether ``given`` means the same as the known answer; ``None`` if the judge says neither yes nor no.

        Raises:
            CallFailed: the judge did not answer.
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
        """Ask as the published judge: it sees both answers but not the question, and decides whether they mean something similar."""
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
    """``judge:NAME``: 1 if a judge accepts the answer, 0 if not or if there is no answer. It never changes the verdict."""

    judging: Judging

    async def scores(
        self, item: Item, pictures: tuple[ImagePart, ...], reply: Reply, finding: Finding, ask: Ask
    ) -> dict[str, float | None]:
        """Score as in :class:`~chiron.evaluation.item_runner.ExtraScore`."""
        del pictures, reply
        verdict = await self.judging.verdict(item, finding.given, ask) if finding.given is not None else False
        return {f"judge:{self.judging.seat.name}": None if verdict is None else float(verdict)}


@dataclass(frozen=True)
class ExtractorColumn:
    """``extractor:NAME``: 1 if a model reads the right option from the reply, else 0. Only for questions with options."""

    seat: RoleModel
    prompts: EvaluationPrompts

    async def scores(
        self, item: Item, pictures: tuple[ImagePart, ...], reply: Reply, finding: Finding, ask: Ask
    ) -> dict[str, float | None]:
        """Score as in :class:`~chiron.evaluation.item_runner.ExtraScore`."""
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
    """MICS-Score of a reply's reasoning.

    ``mics_score`` covers all steps before the first one that names the known answer. ``mics_score@k`` is the score after step k, and ``@0``
    is the score with no steps. ``mics_score_whole`` is the paper's Eq. 4 as printed: interns see every step, also those with the answer.

    Interns could copy the answer from a step that names it, so that step and later ones are not shown. A reply without steps, or one that
    names the answer in its first step, has the score of no reasoning.
    """

    team: Team
    policy: Policy
    prompts: EvaluationPrompts

    async def scores(
        self, item: Item, pictures: tuple[ImagePart, ...], reply: Reply, finding: Finding, ask: Ask
    ) -> dict[str, float | None]:
        """Score as in :class:`~chiron.evaluation.item_runner.ExtraScore`."""
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
