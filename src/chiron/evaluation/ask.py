"""Ask one model one question and stream its answer."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from chiron.cases.image_marks import IMAGE_MARK, grouped_marks
from chiron.cases.images import ImageFolder, ImageProblem
from chiron.cases.textbook import AnswerPool
from chiron.client.call import Call, ImagePart
from chiron.client.images import PictureStore
from chiron.client.provider import Piece
from chiron.errors import InputError
from chiron.evaluation.config import EvaluationFile, EvaluationPrompts
from chiron.evaluation.items import Item, as_modalities, own_messages, user_message
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
    chosen = config.evaluation
    pictures = PictureStore()
    shown = [_picture(path, pictures, chosen.image_side) for path in asked.images]
    prompts = EvaluationPrompts.load(chosen.prompts)
    item = _item(asked)
    endpoint = build_endpoint(model, config.model(model), pictures=pictures, answers=lambda: AnswerPool.of(()))
    limit = asked.max_tokens or config.model(model).token_limit(chosen.max_tokens.model or MAX_TOKENS)
    messages = own_messages(item, shown) if item.asked else (user_message(prompts.own["chain"], item, shown),)
    call = Call("model", model, endpoint.provider.identity, messages, asked.temperature, limit)
    try:
        async for piece in provider_type(config.model(model)).stream(endpoint, call):
            yield piece
    finally:
        await endpoint.provider.close()


def _item(asked: Asked) -> Item:
    images, marks = tuple(map(str, asked.images)), asked.question.count(IMAGE_MARK)
    if marks and asked.groups:
        raise InputError("the question marks its images itself: leave the groups out")
    if marks and marks != len(images):
        raise InputError(f"the question has {marks} {IMAGE_MARK} marks, and {len(images)} images are given: give as many")
    if marks:
        return Item("asked", asked.question, "", images, asked=(Turn("user", asked.question),))
    if not asked.groups:
        return Item("asked", as_modalities(asked.question, len(images)), "", images)
    if min(asked.groups) < 1 or sum(asked.groups) != len(images):
        sizes = " + ".join(map(str, asked.groups))
        raise InputError(f"groups of {sizes} images do not add up to the {len(images)} given: name the size of each modality")
    return Item("asked", f"{grouped_marks(asked.groups)}\n{asked.question}", "", images)


def _picture(path: Path, pictures: PictureStore, side: int) -> ImagePart:
    try:
        image = ImageFolder(path.parent).check(path.name)
    except ImageProblem as problem:
        raise InputError(str(problem)) from None
    pictures.add(image.sha256, image.path)
    return ImagePart(image.sha256, side)
