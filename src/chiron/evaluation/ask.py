"""One question put to one model: its answer as it is written."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from chiron.cases.images import ImageFolder, ImageProblem
from chiron.errors import InputError
from chiron.evaluation.config import EvaluationFile
from chiron.evaluation.item import Item
from chiron.evaluation.prompts import EvaluationPrompts
from chiron.evaluation.rendering import as_modalities, user_message
from chiron.models.assembly import build_endpoint
from chiron.models.call import Call, Picture
from chiron.models.config import max_tokens_of
from chiron.models.offline.catalogue import Catalogue
from chiron.models.openai_compatible import OpenAICompatible
from chiron.models.pictures import PictureStore
from chiron.models.streaming import Piece, stream

MAX_TOKENS = 1024


@dataclass(frozen=True)
class Asked:
    """What is asked, and where."""

    images: Sequence[Path]
    question: str
    temperature: float = 0.0
    max_tokens: int | None = None
    """The most tokens of the answer; ``None``: the configuration's, else 1,024."""


async def answer(asked: Asked, model: str, config: EvaluationFile) -> AsyncIterator[Piece]:
    """The model's answer, step by step, in the pieces in which it comes; several images are announced as ``Modality i``.

    Nothing is kept. A model in this process, and an embedded one, answer in one piece.

    Raises:
        InputError: an image cannot be used, or the model is not there.
        CallFailed: no answer could be had.
    """
    chosen = config.evaluation
    pictures = PictureStore()
    shown = [_picture(path, pictures, chosen.image_side) for path in asked.images]
    prompts = EvaluationPrompts.load({name: Path(path) for name, path in chosen.prompts.items()})
    item = Item("asked", as_modalities(asked.question, len(shown)), "", tuple(map(str, asked.images)))
    endpoint = build_endpoint(model, config.model(model), pictures=pictures, catalogue=lambda: Catalogue.of(()))
    limit = asked.max_tokens or max_tokens_of(config.model(model), chosen.max_tokens.model or MAX_TOKENS)
    message = user_message(prompts.own["chain"], item, shown)
    call = Call("model", model, endpoint.provider.identity, (message,), asked.temperature, limit)
    try:
        if isinstance(endpoint.provider, OpenAICompatible):
            async for piece in stream(endpoint.provider, call, endpoint.retry):
                yield piece
        else:
            reply = await endpoint.provider.complete(call)
            yield Piece(reply.text, reply)
    finally:
        await endpoint.provider.close()


def _picture(path: Path, pictures: PictureStore, side: int) -> Picture:
    try:
        image = ImageFolder(path.parent).check(path.name)
    except ImageProblem as problem:
        raise InputError(str(problem)) from None
    pictures.add(image.sha256, image.path)
    return Picture(image.sha256, side)
