"""Scores in addition to the protocol's verdict: judges, graders, an extractor, ratings of replies, and the MICS-Score of the reasoning."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

from chiron.client.call import Ask, ImagePart, Message, Reply, RoleModel, TextPart
from chiron.client.failures import CallFailed, Transient
from chiron.client.prompts import fill, own_marks, section
from chiron.client.prompts import user_message as message_with_images
from chiron.conversation.markup import escape_markup, own_turn, said
from chiron.conversation.reasoning import parse_reasoning, render_steps, reward_question
from chiron.evaluation.answers.extraction import extract
from chiron.evaluation.config import EvaluationConfig, EvaluationPrompts
from chiron.evaluation.items import Item, as_case, as_judged, in_words
from chiron.evaluation.protocols.protocol import ParsedReply, Protocol
from chiron.evaluation.samples import RANK, REWARD
from chiron.jobs.roles import Roles
from chiron.mics.answer_leak import steps_before_answer
from chiron.mics.case_team import JUDGE_SAMPLES, CaseTeam, TooFewAnswers, together
from chiron.mics.prompts import MAX_GIVEN_ANSWER
from chiron.mics.team import Policy, Score, Team

PUBLISHED_TEMPERATURE = 0.9
_MOST = 8000
"""Number of characters, from the end of a reply, that an extractor sees; the answer is usually at the end."""


@dataclass(frozen=True)
class Judging:
    """A judge with its prompts."""

    role: RoleModel
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
        case_team = CaseTeam(as_judged(item), (), Team((), (), self.role), ask, Policy(), self.prompts.search)
        try:
            return await case_team.is_right(given)
        except TooFewAnswers as problem:
            if isinstance(problem.__cause__, CallFailed):
                raise problem.__cause__ from None
            return None

    async def _as_published(self, item: Item, given: str, ask: Ask) -> bool:
        """Ask as the published judge: it sees both answers but not the question, and decides whether they mean something similar."""
        body = fill(self.prompts.own["published_judge"], **_both_answers(item, given))
        reply = await ask(self.role.call("judge", _asked(body), PUBLISHED_TEMPERATURE))
        return "yes" in own_turn(said(reply.text)).lower()


def _asked(body: str) -> tuple[Message]:
    return (Message("user", (TextPart(body),)),)


def _both_answers(item: Item, given: str) -> dict[str, str]:
    """Return the known and the given answer, in sections that their text cannot leave; the given one on one line, cut to its limit."""
    one_line = " ".join(given.split())[:MAX_GIVEN_ANSWER]
    return {
        "known_answer": section("known_answer", escape_markup(item.answer)),
        "given_answer": section("given_answer", escape_markup(one_line)),
    }


@dataclass(frozen=True)
class AnsweredItem:
    """One answer of the model, to be scored."""

    item: Item
    pictures: tuple[ImagePart, ...]
    reply: Reply
    parsed: ParsedReply


Scores = dict[str, float | None]
"""By name; ``None`` where the metric does not apply."""


class ExtraScore(ABC):
    """A metric of an answer that costs calls."""

    @abstractmethod
    async def scores(self, answered: AnsweredItem, ask: Ask) -> Scores:
        """Score an answer.

        Raises:
            CallFailed: a call got no answer.
            RunStopped: no more calls are sent.
        """


@dataclass(frozen=True)
class JudgeColumn(ExtraScore):
    """``judge:NAME``: 1 if a judge accepts the answer, 0 if not or if there is no answer. It never changes the verdict."""

    judging: Judging

    async def scores(self, answered: AnsweredItem, ask: Ask) -> Scores:
        given = answered.parsed.given
        verdict = await self.judging.verdict(answered.item, given, ask) if given is not None else False
        return {f"judge:{self.judging.role.name}": None if verdict is None else float(verdict)}


_VALUE = r"(?<![\w.,/-])(0[.,]5|1/2|\u00bd|[01](?:[.,]0)?)(?![\w/%]|[.,]\d)"
_GRADE = re.compile(_VALUE)
_LABELED_GRADE = re.compile(rf"\bgrade[\s*_]*[:=]?[\s*_]*{_VALUE}", re.IGNORECASE)
_GRADES = {"0": 0.0, "1": 1.0, "1/2": 0.5, "\u00bd": 0.5}


def read_grade(reply: str) -> float | None:
    """Read a grade of 0, 0.5 or 1 from a grader's reply; ``None`` if it gives none or several."""
    text = own_turn(said(reply))
    found = _LABELED_GRADE.findall(text) or _GRADE.findall(text)
    grades = {_GRADES[value] if value in _GRADES else float(value.replace(",", ".")) for value in found}
    return grades.pop() if len(grades) == 1 else None


@dataclass(frozen=True)
class GraderColumn(ExtraScore):
    """``grade:NAME``: 0, 0.5 or 1 for an open answer, by the rubric in the prompt ``grade``. It never changes the verdict.

    An answer that could not be read is 0. If the grader, asked twice, gives no readable grade, the score is missing.
    """

    role: RoleModel
    prompts: EvaluationPrompts

    async def scores(self, answered: AnsweredItem, ask: Ask) -> Scores:
        given = answered.parsed.given
        if answered.item.kind != "open":
            return {}
        grade = await self._grade(answered.item, given, ask) if given is not None else 0.0
        return {f"grade:{self.role.name}": grade}

    async def _grade(self, item: Item, given: str, ask: Ask) -> float | None:
        question = section("question", escape_markup(in_words(item)))
        body = fill(self.prompts.own["grade"], question=question, **_both_answers(item, given))
        for index in range(JUDGE_SAMPLES):
            graded = await ask(self.role.call("grader", _asked(body), 0.0, index))
            if (grade := read_grade(graded.text)) is not None:
                return grade
        return None


@dataclass(frozen=True)
class ExtractorColumn(ExtraScore):
    """``extractor:NAME``: 1 if a model reads the right option from the reply, else 0. Only for questions with options."""

    role: RoleModel
    prompts: EvaluationPrompts

    async def scores(self, answered: AnsweredItem, ask: Ask) -> Scores:
        item = answered.item
        if not item.options:
            return {}
        body = fill(
            self.prompts.own["extractor"],
            question=section("question", in_words(item)),
            reasoning=section("reasoning", answered.reply.text[-_MOST:]),
        )
        read = await ask(self.role.call("extractor", _asked(body), 0.0))
        return {f"extractor:{self.role.name}": float(extract(read.text, item.options).index == item.gold)}


_RATING = re.compile(r"\D*(\d{1,3})(?:\.0+)?\s*(?:/\s*100|%)?\D*")


@dataclass(frozen=True)
class RankColumn(ExtraScore):
    """``rank:NAME``: how likely a model that sees images, question and reply, but not the known answer, finds the reply right, in [0, 1].

    There is no score if the model names no number from 0 to 100, or several.
    """

    role: RoleModel
    prompts: EvaluationPrompts

    async def scores(self, answered: AnsweredItem, ask: Ask) -> Scores:
        body = fill(
            self.prompts.own["rank"],
            question=section("question", in_words(answered.item)),
            reasoning=section("reasoning", escape_markup(answered.reply.text[-_MOST:])),
        )
        rated = await ask(self.role.call("ranker", (message_with_images(body, answered.pictures),), 0.0))
        found = _RATING.fullmatch(own_turn(said(rated.text)).strip())
        value = None if found is None else int(found[1])
        return {f"{RANK}{self.role.name}": value / 100 if value is not None and value <= 100 else None}


@dataclass(frozen=True)
class RewardColumn(ExtraScore):
    """``reward:NAME``: share of a reply's steps that a process reward model finds good, in [0, 1].

    The model is asked in the form of ``chiron build rewards`` (InternVL's): first the question with the first two steps, then one step at a
    time, and it answers ``+`` or ``-``. A reply without steps is one unit. There is no score if an answer is neither.
    """

    role: RoleModel

    async def scores(self, answered: AnsweredItem, ask: Ask) -> Scores:
        name = f"{REWARD}{self.role.name}"
        steps = parse_reasoning(answered.reply.text).steps
        parts = [(1, steps[:2]), *((n, (step,)) for n, step in enumerate(steps[2:], start=3))] if steps else []
        first, *units = [render_steps(part, first=n) for n, part in parts] or [own_turn(said(answered.reply.text))]
        question = own_marks(as_case(answered.item).question)
        turns: tuple[Message, ...] = (message_with_images(reward_question(question, first), answered.pictures),)
        good = []
        for unit in (*units, None):
            answer = (await ask(self.role.call("reward_model", turns, 0.0))).text.strip()
            if answer[:1] not in {"+", "-"}:
                return {name: None}
            good.append(answer.startswith("+"))
            if unit is not None:
                turns = (*turns, Message("assistant", (TextPart(answer[:1]),)), *_asked(unit))
        return {name: sum(good) / len(good)}


@dataclass(frozen=True)
class MicsColumn(ExtraScore):
    """MICS-Score of a reply's reasoning.

    ``mics_score`` covers all steps before the first one that names the known answer. ``mics_score@k`` is the score after step k, and ``@0``
    is the score with no steps. ``mics_score_whole`` is the paper's Eq. 4 as printed: interns see every step, also those with the answer.

    Interns could copy the answer from a step that names it, so that step and later ones are not shown. A reply without steps, or one that
    names the answer in its first step, has the score of no reasoning.
    """

    team: Team
    policy: Policy
    prompts: EvaluationPrompts

    async def scores(self, answered: AnsweredItem, ask: Ask) -> Scores:
        steps = parse_reasoning(answered.reply.text).steps
        shown = steps_before_answer(steps, answered.item.answer)
        case_team = CaseTeam(as_case(answered.item), answered.pictures, self.team, ask, self.policy, self.prompts.search)
        prefixes = [*(shown[:depth] for depth in range(len(shown) + 1)), *([steps] if steps != shown else [])]
        values = [_value(score) for score in await together(case_team.score(prefix, restart=0) for prefix in prefixes)]
        guarded = values[: len(shown) + 1]
        by_depth = {f"mics_score@{depth}": value for depth, value in enumerate(guarded)}
        return {"mics_score": guarded[-1], "mics_score_whole": values[-1], **by_depth}


def _value(score: Score) -> float:
    if not score.has_quorum:
        problem = next((e.problem for e in score.evaluations if e.correct is None and e.problem), "no interns")
        raise Transient(f"the reasoning has {score.answered} of {score.planned} evaluations: {problem}")
    return score.value


def extra_scores(roles: Roles, chosen: EvaluationConfig, protocol: Protocol, prompts: EvaluationPrompts) -> Iterator[ExtraScore]:
    """Yield the scores of the configured models."""
    yield from (ExtractorColumn(role, prompts) for role in roles.all("extractor"))
    yield from (RankColumn(role, prompts) for role in roles.all("ranker"))
    yield from (RewardColumn(role) for role in roles.all("reward_model"))
    yield from (GraderColumn(role, prompts) for role in roles.all("grader"))
    for judge in roles.all("judge"):
        if not protocol.judged:
            yield JudgeColumn(Judging(judge, prompts))
        if interns := roles.all("intern"):
            policy = Policy(temperatures=chosen.intern_temperatures, seed=chosen.seed, image_side=chosen.image_side)
            yield MicsColumn(Team((), interns, judge), policy, prompts)
