"""Ask one model one question, and stream its answer or vote over several."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from chiron.cases.case import IMAGE_MARK, grouped_marks
from chiron.cases.images import ImageFolder, ImageProblem
from chiron.cases.reader import AnswerPool
from chiron.client.call import Call, ImagePart
from chiron.client.images import PictureStore
from chiron.client.provider import Endpoint, Piece
from chiron.errors import InputError
from chiron.evaluation.answers.open_answers import final_text, normal_form
from chiron.evaluation.config import EvaluationFile, EvaluationPrompts
from chiron.evaluation.items import Item, ItemResult, Verdict, as_modalities, own_messages, user_message
from chiron.evaluation.samples import vote
from chiron.providers.local.dialogue import Turn
from chiron.providers.registry import build_endpoint, provider_type

MAX_TOKENS = 1024


@dataclass(frozen=True)
class Asked:
    """A question and its images."""

    images: Sequence[Path]
    question: str
    temperature: float = 0.0
    max_tokens: int | None = None
    """Maximum tokens of the answer; ``None`` uses the configuration's limit, else 1,024."""
    groups: Sequence[int] = ()
    """Number of images per modality, in order. If empty, each image is its own modality."""


async def answer(asked: Asked, model: str, config: EvaluationFile) -> AsyncIterator[Piece]:
    """Stream the model's answer, step by step, as it arrives. Nothing is stored.

    Several images are announced as ``Modality i``. A question with its own image marks is asked unchanged.
    Models in this process and embedded models answer in one piece.

    Raises:
        InputError: an image cannot be used, the model does not exist, or marks or groups do not match the images.
        CallFailed: the model gave no answer.
    """
    endpoint, call = _prepare(asked, model, config)
    try:
        async for piece in provider_type(config.model(model)).stream(endpoint, call):
            yield piece
    finally:
        await endpoint.provider.close()


@dataclass(frozen=True)
class VotedAnswer:
    """Majority of several samples of an answer."""

    reply: str
    """The first reply with the most frequent final answer."""
    answer: str | None
    """``None`` if no reply has a final answer."""
    votes: int
    samples: int
    others: Sequence[tuple[str | None, int]]
    """Final answers of the other replies as written, each with its number of replies."""


async def voted_answer(asked: Asked, model: str, config: EvaluationFile, samples: int) -> VotedAnswer:
    """Ask the same question several times, concurrently, and take the most frequent final answer. Nothing is stored.

    Args:
        asked: the question; its temperature must be above 0.
        model: name of the model in the configuration.
        config: the configuration.
        samples: number of replies, at least 1.

    Raises:
        InputError: as for :func:`answer`, or the temperature is 0.
        CallFailed: a sample got no answer.
    """
    if samples > 1 and asked.temperature == 0:
        raise InputError("several samples at temperature 0 give the same answer: set a temperature above 0")
    endpoint, call = _prepare(asked, model, config)
    try:
        replies = await asyncio.gather(*(endpoint.provider.complete(replace(call, draw=n)) for n in range(samples)))
    finally:
        await endpoint.provider.close()
    results = [
        ItemResult("", "asked", Verdict.UNPARSED, "", seed=n, reply=reply.text, given=final_text(reply.text))
        for n, reply in enumerate(replies)
    ]
    elected = vote(results)
    votes = round(elected.share * samples)
    kept = normal_form(elected.chosen.given or "")
    others = Counter(r.given for r in results if r.given is None or normal_form(r.given) != kept)
    return VotedAnswer(elected.chosen.reply or "", elected.chosen.given, votes, samples, others.most_common())


def _prepare(asked: Asked, model: str, config: EvaluationFile) -> tuple[Endpoint, Call]:
    """Return the model's endpoint, which the caller closes, and the call."""
    chosen = config.evaluation
    pictures = PictureStore()
    shown = [_picture(path, pictures, chosen.image_side) for path in asked.images]
    prompts = EvaluationPrompts.load(chosen.prompts)
    item = _item(asked)
    endpoint = build_endpoint(model, config.model(model), pictures=pictures, answers=lambda: AnswerPool.of(()))
    limit = asked.max_tokens or config.model(model).token_limit(chosen.max_tokens.model or MAX_TOKENS)
    messages = own_messages(item, shown) if item.asked else (user_message(prompts.own["chain"], item, shown),)
    return endpoint, Call("model", model, endpoint.provider.identity, messages, asked.temperature, limit)


def _item(asked: Asked) -> Item:
    images, marks = tuple(map(str, asked.images)), asked.question.count(IMAGE_MARK)
    if marks and asked.groups:
        raise InputError("the question contains its own image marks: omit the groups")
    if marks and marks != len(images):
        raise InputError(f"the question has {marks} {IMAGE_MARK} marks, but the number of images is {len(images)}: give one image per mark")
    if marks:
        return Item("asked", asked.question, "", images, asked=(Turn("user", asked.question),))
    if not asked.groups:
        return Item("asked", as_modalities(asked.question, len(images)), "", images)
    if min(asked.groups) < 1 or sum(asked.groups) != len(images):
        sizes = " + ".join(map(str, asked.groups))
        raise InputError(f"groups of {sizes} images do not add up to the {len(images)} given: give the number of images of each modality")
    return Item("asked", f"{grouped_marks(asked.groups)}\n{asked.question}", "", images)


def _picture(path: Path, pictures: PictureStore, side: int) -> ImagePart:
    try:
        image = ImageFolder(path.parent).check(path.name)
    except ImageProblem as problem:
        raise InputError(str(problem)) from None
    pictures.add(image.sha256, image.path)
    return ImagePart(image.sha256, side)
