"""The models of a job by role, their endpoints, and the images sent to them. Checked before any call is paid for."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from chiron.cases.images import ImageFolder
from chiron.cases.reader import AnswerPool
from chiron.client.call import ImagePart, RoleModel
from chiron.client.images import PictureStore
from chiron.client.provider import Endpoint
from chiron.jobs.config import JobFile
from chiron.providers.registry import build_endpoints


@dataclass(frozen=True)
class Roles:
    endpoints: dict[str, Endpoint]
    pictures: PictureStore
    by_role: Mapping[str, tuple[RoleModel, ...]]

    @classmethod
    def of(
        cls,
        config: JobFile,
        *,
        answers: Callable[[], AnswerPool],
        measured: tuple[str, int] | None = None,
        need_keys: bool = True,
    ) -> Self:
        """Create the endpoints and role models of a configuration.

        Args:
            answers: returns the answers that embedded models choose from; called only if there is such a model.
            measured: name and token limit of a further model, in the role ``model``.
            need_keys: whether API keys must be set.

        Raises:
            InputError: a key or an embedded model is missing.
        """
        named = [(key.removesuffix("s"), name, config.token_limit(key.removesuffix("s"))) for key, name in config.named()]
        named += [("model", *measured)] if measured is not None else []
        pictures = PictureStore()
        models = {name: config.models[name] for _, name, _ in named}
        endpoints = build_endpoints(models, pictures=pictures, answers=answers, need_keys=need_keys)
        by_role: dict[str, tuple[RoleModel, ...]] = {}
        for role, name, limit in named:
            model = RoleModel(name, endpoints[name].provider.identity, models[name].token_limit(limit))
            by_role[role] = (*by_role.get(role, ()), model)
        return cls(endpoints, pictures, by_role)

    def all(self, role: str) -> tuple[RoleModel, ...]:
        """Return the models of a role; empty if none is configured."""
        return self.by_role.get(role, ())

    def get(self, role: str) -> RoleModel | None:
        """Return the only model of a role, or ``None``."""
        return next(iter(self.all(role)), None)

    def one(self, role: str) -> RoleModel:
        """Return the model of a role that is always configured."""
        return self.all(role)[0]

    def load_images(self, folder: ImageFolder, names: Iterable[str], side: int, *, hold: bool = True) -> tuple[ImagePart, ...]:
        """Check images, and keep them encoded until :meth:`PictureStore.release`. Slow; call it in a thread.

        Args:
            folder: folder that the names are relative to.
            names: file names, in the order of the result.
            side: longest side in pixels, as sent.
            hold: whether to keep the encoded images in memory.

        Raises:
            ImageProblem: an image is unusable.
            CallerFault: an image disappeared while it was being checked.
        """
        checked = [folder.check(name) for name in names]
        for image in checked:
            self.pictures.add(image.sha256, image.path)
        parts = tuple(ImagePart(image.sha256, side) for image in checked)
        if hold:
            self.pictures.hold(parts)
        return parts


def identity_of(model: RoleModel) -> list[Any]:
    """Return the form in which ``run.json`` records a model: name, identity, token limit."""
    return [model.name, model.identity, model.max_tokens]
