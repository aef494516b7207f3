"""Verdicts by a model: as the search's judge is asked, or as the published evaluation asked one; and options read by a model."""

from dataclasses import dataclass

from chiron.conversation.markup import own_turn
from chiron.conversation.thinking import escape_markup, said
from chiron.evaluation.answers.extraction import extract
from chiron.evaluation.item import Item
from chiron.evaluation.prompts import EvaluationPrompts
from chiron.evaluation.protocols.protocol import Finding
from chiron.evaluation.rendering import as_judged, in_words
from chiron.mics.panel import Panel, TooFewAnswers
from chiron.mics.prompts import MAX_GIVEN_ANSWER
from chiron.mics.team import Policy, Seat, Team
from chiron.models.call import Ask, Call, Message, Picture, Reply, Text
from chiron.models.failures import CallFailed
from chiron.models.prompt_texts import fill
from chiron.models.sections import section

PUBLISHED_TEMPERATURE = 0.9
_MOST = 8000
"""Characters of a reply that an extractor is shown: its end, where the answer stands."""


@dataclass(frozen=True)
class Judging:
    """A judge."""

    seat: Seat
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
        panel = Panel(as_judged(item), (), Team((), (), self.seat), ask, Policy(), self.prompts.search)
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
            Call("judge", seat.name, seat.identity, (Message("user", (Text(body),)),), PUBLISHED_TEMPERATURE, seat.max_tokens)
        )
        return "yes" in own_turn(said(reply.text)).lower()


@dataclass(frozen=True)
class JudgeColumn:
    """``judge:NAME``: 1 if a judge takes the answer for the known one, 0 if not or if there is none; never the verdict."""

    judging: Judging

    async def scores(self, item: Item, pictures: tuple[Picture, ...], reply: Reply, finding: Finding, ask: Ask) -> dict[str, float | None]:
        """As :class:`~chiron.evaluation.asking.Column`."""
        del pictures, reply
        verdict = await self.judging.verdict(item, finding.given, ask) if finding.given is not None else False
        return {f"judge:{self.judging.seat.name}": None if verdict is None else float(verdict)}


@dataclass(frozen=True)
class ExtractorColumn:
    """``extractor:NAME``: 1 if the option that a model reads out of the reply is the right one, 0 if not; for questions with options."""

    seat: Seat
    prompts: EvaluationPrompts

    async def scores(self, item: Item, pictures: tuple[Picture, ...], reply: Reply, finding: Finding, ask: Ask) -> dict[str, float | None]:
        """As :class:`~chiron.evaluation.asking.Column`."""
        del pictures, finding
        if not item.options:
            return {}
        body = fill(
            self.prompts.own["extractor"],
            question=section("question", in_words(item)),
            reasoning=section("reasoning", reply.text[-_MOST:]),
        )
        seat = self.seat
        read = await ask(Call("extractor", seat.name, seat.identity, (Message("user", (Text(body),)),), 0.0, seat.max_tokens))
        return {f"extractor:{seat.name}": float(extract(read.text, item.options).index == item.gold)}
