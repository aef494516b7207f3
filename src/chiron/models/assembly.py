"""From configuration to a desk that can be asked."""

from collections.abc import Callable, Mapping

from chiron.models.config import ModelConfig, OpenAIModel
from chiron.models.desk import Endpoint
from chiron.models.limits import Limiter
from chiron.models.offline.catalogue import Catalogue
from chiron.models.offline.provider import Offline
from chiron.models.openai_compatible import OpenAICompatible
from chiron.models.pictures import PictureStore
from chiron.models.provider import Provider
from chiron.models.retry import RetryPolicy


def build_endpoint(
    name: str, config: ModelConfig, *, pictures: PictureStore, catalogue: Callable[[], Catalogue], need_keys: bool = True
) -> Endpoint:
    """One configured model, ready to be asked. ``catalogue`` is called only if an embedded model needs it.

    Raises:
        InputError: a key is missing, or there is no such embedded model.
    """
    if isinstance(config, OpenAIModel):
        provider: Provider = OpenAICompatible(name, config, pictures, need_key=need_keys)
        retry = RetryPolicy(attempts=config.attempts, deadline=config.deadline)
        limiter = Limiter(config.concurrency, config.requests_per_minute)
        return Endpoint(provider, limiter, retry, config.price, config.image_tokens)
    return Endpoint(Offline(name, config.model, catalogue()), Limiter(64))


def build_endpoints(
    models: Mapping[str, ModelConfig], *, pictures: PictureStore, catalogue: Callable[[], Catalogue], need_keys: bool = True
) -> dict[str, Endpoint]:
    """Every configured model, by name.

    Raises:
        InputError: as :func:`build_endpoint`.
    """
    return {
        name: build_endpoint(name, config, pictures=pictures, catalogue=catalogue, need_keys=need_keys) for name, config in models.items()
    }
