"""All providers, and the endpoints of a model client."""

from collections.abc import Callable, Mapping
from typing import Any

from chiron.cases.textbook import AnswerPool
from chiron.client.client import Endpoint
from chiron.client.config import ProviderConfig
from chiron.client.images import PictureStore
from chiron.client.provider import BuildContext, ProviderType, load_provider
from chiron.providers.baselines.provider import OfflineProvider
from chiron.providers.local.provider import LocalProvider
from chiron.providers.openai_provider import OpenAIProvider

_BUILT_IN: Mapping[str, ProviderType[Any]] = {"openai": OpenAIProvider(), "offline": OfflineProvider(), "local": LocalProvider()}


def provider_type(config: ProviderConfig) -> ProviderType[Any]:
    """Return the provider of a configured model.

    Raises:
        InputError: another package provides it, and it cannot be loaded.
    """
    return _BUILT_IN.get(config.provider) or load_provider(config.provider)


def build_endpoint(name: str, config: ProviderConfig, *, pictures: PictureStore, answers: Callable[[], AnswerPool]) -> Endpoint:
    """Create the endpoint of one configured model. ``answers`` is called only if an embedded model needs it.

    Raises:
        InputError: a key is missing, or the model does not exist.
    """
    return provider_type(config).build(name, config, BuildContext(pictures, answers))


def build_endpoints(
    models: Mapping[str, ProviderConfig], *, pictures: PictureStore, answers: Callable[[], AnswerPool], need_keys: bool = True
) -> dict[str, Endpoint]:
    """Create the endpoints of all configured models, by name and in the order of ``models``.

    Raises:
        InputError: as in :func:`build_endpoint`.
    """
    context = BuildContext(pictures, answers, need_keys)
    built: dict[str, Endpoint] = {}
    for provider in dict.fromkeys(config.provider for config in models.values()):
        own = {name: config for name, config in models.items() if config.provider == provider}
        built |= provider_type(next(iter(own.values()))).build_all(own, context)
    return {name: built[name] for name in models}
