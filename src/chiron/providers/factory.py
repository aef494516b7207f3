"""Create the endpoints of a model client from a configuration."""

import os
from collections import defaultdict
from collections.abc import Callable, Mapping

from chiron.client.call import Provider
from chiron.client.client import Endpoint
from chiron.client.config import LocalModel, ModelConfig, OpenAIModel
from chiron.client.images import PictureStore
from chiron.client.limiter import Limiter
from chiron.client.retry import RetryPolicy
from chiron.providers.baselines.provider import Offline
from chiron.providers.baselines.search_team import AnswerPool
from chiron.providers.local.provider import Local
from chiron.providers.openai_compatible import OpenAICompatible

_LOCAL_RETRY = RetryPolicy(attempts=3, deadline=float("inf"))
"""A call that ran out of memory in a batch may succeed later. No deadline, because a slow local reply would not be faster next time."""


def build_endpoint(
    name: str,
    config: ModelConfig,
    *,
    pictures: PictureStore,
    catalogue: Callable[[], AnswerPool],
    need_keys: bool = True,
    limiter: Limiter | None = None,
) -> Endpoint:
    """Create the endpoint of one configured model.

    ``catalogue`` is called only if an embedded model needs it. ``limiter``: one shared with other endpoints; default: a new one.

    Raises:
        InputError: a key is missing, or the embedded model does not exist.
    """
    if isinstance(config, OpenAIModel):
        provider: Provider = OpenAICompatible(name, config, pictures, need_key=need_keys)
        retry = RetryPolicy(attempts=config.attempts, deadline=config.deadline, outage=config.outage)
        door = limiter if limiter is not None else Limiter(config.concurrency, config.requests_per_minute)
        return Endpoint(provider, door, retry, config.price, config.image_tokens)
    if isinstance(config, LocalModel):
        # Twice the batch size: the next calls are ready when places become free.
        return Endpoint(Local(name, config, pictures), Limiter(2 * config.batch), _LOCAL_RETRY)
    return Endpoint(Offline(name, config.model, catalogue()), Limiter(64))


def build_endpoints(
    models: Mapping[str, ModelConfig], *, pictures: PictureStore, catalogue: Callable[[], AnswerPool], need_keys: bool = True
) -> dict[str, Endpoint]:
    """Create the endpoints of all configured models, by name.

    Entries with the same address, model and key share a limiter with the lowest of their limits. Entries with the same checkpoint and
    settings share the loaded model.

    Raises:
        InputError: as in :func:`build_endpoint`.
    """
    doors = _doors(models)
    loaded: dict[LocalModel, Endpoint] = {}
    endpoints = {}
    for name, config in models.items():
        # The token limit applies to calls, not to the model.
        same = (
            config.model_copy(update={"path": os.path.realpath(config.path), "max_tokens": None})
            if isinstance(config, LocalModel)
            else None
        )
        if same is not None and same in loaded:
            first = loaded[same]
            endpoints[name] = Endpoint(first.provider, first.limiter, first.retry)
            continue
        endpoints[name] = build_endpoint(name, config, pictures=pictures, catalogue=catalogue, need_keys=need_keys, limiter=doors.get(name))
        if same is not None:
            loaded[same] = endpoints[name]
    return endpoints


def _doors(models: Mapping[str, ModelConfig]) -> dict[str, Limiter]:
    together: defaultdict[tuple[str, str, str | None], list[tuple[str, OpenAIModel]]] = defaultdict(list)
    for name, config in models.items():
        if isinstance(config, OpenAIModel):
            together[config.base_url.rstrip("/"), config.model, config.api_key_env].append((name, config))
    doors = {}
    for entries in together.values():
        paces = [config.requests_per_minute for _, config in entries if config.requests_per_minute is not None]
        door = Limiter(min(config.concurrency for _, config in entries), min(paces, default=None))
        doors.update({name: door for name, _ in entries})
    return doors
