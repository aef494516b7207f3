"""Ask a model one item: load its pictures, read the reply with the protocol, and compute the verdict and extra scores."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from chiron.cases.images import ImageProblem
from chiron.client.call import MORE_SPACE, Ask, Call, ImagePart, Reply, RoleModel
from chiron.client.failures import CallerFault, CallFailed, RunStopped, UnitAsk
from chiron.client.images import PictureStore
from chiron.evaluation.answers.answer_tags import ReplyFormat
from chiron.evaluation.answers.open_answers import token_recall
from chiron.evaluation.benchmarks.loading import LoadedBenchmark
from chiron.evaluation.claims import ClaimChecker, claim_scores
from chiron.evaluation.config import EvaluationPrompts
from chiron.evaluation.controls import Control, grey
from chiron.evaluation.extra_scores import AnsweredItem, ExtraScore, Judging
from chiron.evaluation.items import BadItem, Item, ItemResult, Verdict
from chiron.evaluation.protocols.protocol import Protocol
from chiron.io import file_sha256

REFUSED = "the endpoint refuses it"
"""Prefix of the problem of an item that the endpoint would refuse again."""
UNSCORED = "a further score is pending"
"""Prefix of the problem of an item that has a verdict but lacks an extra score."""
UNSCORED_FOR_GOOD = "a further score is refused"
"""Prefix used instead of ``UNSCORED`` where every failed call would be refused again."""


@dataclass(frozen=True)
class Unit:
    """One item, asked once."""

    benchmark: LoadedBenchmark
    item: Item | BadItem
    """As it is asked: after the protocol's and the control's changes."""
    control: Control
    sample_index: int
    """Index of the seed."""

    @property
    def id(self) -> str:
        """Name of the item in messages."""
        return f"{self.benchmark.name}/{self.item.id}"


@dataclass(frozen=True)
class ItemRunner:
    model: RoleModel
    protocol: Protocol
    prompts: EvaluationPrompts
    temperature: float
    image_side: int
    max_images: int | None
    family: ReplyFormat | None
    pictures: PictureStore
    blank: Path
    """Folder for the gray images."""
    judging: Judging | None
    """Gives the verdicts that the protocol leaves to a judge."""
    extra_scores: Sequence[ExtraScore]
    checkers: Sequence[ClaimChecker]

    async def __call__(self, unit: Unit, ask: Ask) -> ItemResult:
        """Ask one unit and return its result.

        Raises:
            CallFailed: a call needed for the verdict got no answer, and may get one if it is asked again.
            RunStopped: no more calls are sent, and the verdict needs one.
        """
        item = unit.item
        if isinstance(item, BadItem):
            return self.unusable(unit, item.problem)
        if not item.answer:
            return self.unusable(unit, "its known answer is missing")
        if (most := self.max_images) is not None and len(item.images) > most:
            return self.unusable(unit, f"it has {len(item.images)} images, but the model takes at most {most} (evaluation.max_images)")
        try:
            pictures = await asyncio.to_thread(self._pictures, unit, item)
        except ImageProblem as problem:
            return self.unusable(unit, str(problem))
        call = self._call(unit, item, pictures)
        try:
            reply = await ask(call)
        except CallerFault as fault:
            if fault.misconfigured:
                raise
            return self.unusable(unit, f"{REFUSED}: {fault.public}")
        return await self._result(unit, item, pictures, call, reply, ask)

    def unusable(self, unit: Unit, problem: str) -> ItemResult:
        return self._line(unit, Verdict.UNUSABLE, problem=problem)

    def pending(self, unit: Unit, problem: str) -> ItemResult:
        return self._line(unit, Verdict.PENDING, problem=problem)

    async def _result(self, unit: Unit, item: Item, pictures: tuple[ImagePart, ...], call: Call, reply: Reply, ask: Ask) -> ItemResult:
        parsed = self.protocol.read(item, reply.text, self.family)
        problem, unjudged = f"the reply contains only thinking: {MORE_SPACE}" if reply.only_thinking else "", False
        if parsed.right is None and not self.protocol.scores_only:
            assert self.judging is not None  # noqa: S101 - a protocol that wants a judge has one
            verdict = await self.judging.verdict(item, str(parsed.given), ask)
            if unjudged := verdict is None:
                problem = "the judge said neither yes nor no"
            parsed = replace(parsed, right=verdict is True)
        scores: dict[str, float | None] = {"token_recall": token_recall(parsed.given, item.answer)} if _in_words(item) else {}
        claims: dict[str, list[dict[str, Any]]] = {}
        columns: tuple[ExtraScore | ClaimChecker, ...] = (*self.extra_scores, *self.checkers)
        for column in columns:
            try:
                if isinstance(column, ClaimChecker):
                    found, steps = await column.check(unit.benchmark.name, item, reply.text, ask)
                    if found is not None:
                        claims[column.role.name] = [{**claim} for claim in found]
                        scores.update(claim_scores(column.role.name, found, steps))
                else:
                    scores.update(await column.scores(AnsweredItem(item, pictures, reply, parsed), ask))
            except (CallFailed, RunStopped) as reason:
                # The verdict exists; a failed extra score must not discard it.
                lasting = isinstance(reason, CallFailed) and isinstance(ask, UnitAsk) and ask.is_refused
                words = reason.public if isinstance(reason, CallFailed) else str(reason)
                problem = f"{UNSCORED_FOR_GOOD if lasting else UNSCORED}: {words}"
        verdict_of = {True: Verdict.RIGHT, False: Verdict.WRONG, None: Verdict.SCORED}
        read = Verdict.UNPARSED if parsed.given is None else verdict_of[parsed.right]
        return self._line(
            unit,
            Verdict.UNJUDGED if unjudged else read,
            reply=reply.text,
            given=parsed.given,
            rule=parsed.rule,
            problem=problem,
            cut_off=reply.cut_off,
            call=call.key,
            scores=scores,
            claims=claims,
        )

    def _pictures(self, unit: Unit, item: Item) -> tuple[ImagePart, ...]:
        shown, blank = [], unit.control == Control.BLANK
        for name in item.images:
            image = unit.benchmark.check(name, None if blank else self.pictures.keep)
            sha256, path = image.sha256, image.path
            if blank:
                path = grey((image.width, image.height), self.blank, most=self.image_side)
                sha256 = file_sha256(path)
            self.pictures.add(sha256, path)
            shown.append(ImagePart(sha256, self.image_side))
        return tuple(shown)

    def _call(self, unit: Unit, item: Item, pictures: tuple[ImagePart, ...]) -> Call:
        prompts = self.prompts.bare() if unit.benchmark.bare else self.prompts
        # At temperature 0, another sample would pay twice for the same question.
        sample_index = unit.sample_index if self.temperature > 0 else 0
        return self.model.call("model", self.protocol.request(item, pictures, prompts), self.temperature, sample_index)

    def _line(self, unit: Unit, verdict: Verdict, **found: Any) -> ItemResult:
        """Create the result of a unit at once: copies of a record with many fields take time for every item."""
        item, protocol = unit.item, self.protocol.name
        if isinstance(item, Item):
            known = {name: getattr(item, name) for name in ("kind", "group", "question", "images", "options", "answer")}
            found.update(known, labels=dict(item.labels))
        return ItemResult(unit.benchmark.name, item.id, verdict, protocol, str(unit.control), unit.sample_index, **found)


def _in_words(item: Item) -> bool:
    return item.kind == "open" and any(c.isalnum() for c in item.answer)
