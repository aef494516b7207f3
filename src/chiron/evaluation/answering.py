"""Asking a model every case's question as an intern is asked it from the beginning, and comparing its answers with the known ones."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from chiron.cases.case import Case
from chiron.cases.images import ImageFolder, ImageProblem
from chiron.mics.panel import together
from chiron.mics.prompts import Prompts
from chiron.mics.reasoning import parse_reasoning
from chiron.models.assembly import build_endpoint
from chiron.models.call import Call, Picture
from chiron.models.config import AnyModel, max_tokens_of
from chiron.models.desk import Desk
from chiron.models.failures import CallFailed
from chiron.models.ledger import Ledger
from chiron.models.offline.catalogue import Catalogue
from chiron.models.offline.matching import normalise
from chiron.models.pictures import PictureStore


@dataclass(frozen=True, slots=True)
class Answered:
    """One case and what a model said to it."""

    case: Case
    reply: str | None
    """``None`` if the call failed; ``problem`` says why."""
    answer: str | None
    """The final answer in it; ``None`` if there is none, which is wrong."""
    correct: bool
    """The same words as the known answer, after normalisation."""
    problem: str | None = None


@dataclass(frozen=True)
class Question:
    """How cases are asked."""

    prompts: Prompts
    images: Path
    """The folder that image paths are relative to."""
    max_tokens: int = 1024
    image_side: int = 1536
    """Longest side in pixels of the images as the model sees them."""


async def answer_all(
    cases: Sequence[Case],
    model: AnyModel,
    question: Question,
    ledger: Path,
    *,
    watch: Callable[[int], None] = lambda _: None,
) -> list[Answered]:
    """Every case's answer at temperature 0, in the order of the cases; what the ledger holds is not asked again.

    Args:
        cases: what to ask.
        model: whom; any provider.
        question: in which words.
        ledger: kept across runs; made if it is not there.
        watch: called with the number of cases answered so far.

    Raises:
        InputError: the model or the ledger cannot be used; a case whose image cannot be is answered with a ``problem``.
        Halted: the endpoint is down or refuses every call.
        DiskError: the disk is full.
    """
    pictures, folder = PictureStore(), ImageFolder(question.images)
    endpoint = build_endpoint("model", model, pictures=pictures, catalogue=lambda: Catalogue.of(()))
    done = 0

    async def one(case: Case, desk: Desk, rank: int) -> Answered:
        nonlocal done
        try:
            call = await asyncio.to_thread(_call, case, endpoint.provider.identity, model, question, pictures, folder)
            reply = await desk.ask(call, rank)
        except (CallFailed, ImageProblem) as failure:
            return Answered(case, None, None, correct=False, problem=str(failure))
        finally:
            done += 1
            watch(done)
        answer = parse_reasoning(reply.text).answer
        return Answered(case, reply.text, answer, correct=answer is not None and normalise(answer) == normalise(case.answer))

    with Ledger.open(ledger) as kept:
        desk = Desk({"model": endpoint}, kept)
        try:
            # All of it is waited for, and what is under way is received: it is being paid for.
            answered = await together(one(case, desk, rank) for rank, case in enumerate(cases))
            await desk.drain()
        finally:
            await desk.close()
    return answered


def _call(case: Case, identity: str, model: AnyModel, question: Question, pictures: PictureStore, folder: ImageFolder) -> Call:
    checked = [folder.check(name) for name in case.images]
    for image in checked:
        pictures.add(image.sha256, image.path)
    shown = tuple(Picture(image.sha256, question.image_side) for image in checked)
    messages = question.prompts.intern(case, shown, ())
    return Call("model", "model", identity, messages, 0.0, max_tokens_of(model, question.max_tokens))
