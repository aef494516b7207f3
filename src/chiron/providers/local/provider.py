"""The provider ``local``: checkpoints in this process."""

import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from chiron.client.attempts import RetryPolicy
from chiron.client.call import Call, Reply
from chiron.client.config import LocalModel
from chiron.client.images import PictureStore
from chiron.client.limiter import Limiter
from chiron.client.provider import BuildContext, Endpoint, Finding, ProviderType
from chiron.errors import InputError
from chiron.extras import install_command
from chiron.providers.local.checkpoint import AskedAs, find_checkpoint
from chiron.providers.local.worker import Worker

if TYPE_CHECKING:
    from chiron.providers.local.backend import VLMBackend
    from chiron.providers.local.generation import PrefixCache

VERSION = 1
"""Part of the identity. Raise it when the same weights would answer differently."""
_RETRY = RetryPolicy(attempts=3, deadline=float("inf"))
"""A call that ran out of memory in a batch may succeed later. No deadline, because a slow local reply would not be faster next time."""


class Local:
    """One checkpoint: checked on creation, loaded at the first call, freed by :meth:`close`."""

    def __init__(self, name: str, config: LocalModel, pictures: PictureStore) -> None:
        """Check the checkpoint and hash it, which takes seconds for gigabytes. It is not loaded yet.

        Raises:
            InputError: the checkpoint does not exist, or is not supported.
        """
        self.name = name
        try:
            self.checkpoint = find_checkpoint(Path(config.path))
            fingerprint = self.checkpoint.fingerprint()
            self.asked_as = AskedAs.of(config, self.checkpoint)
        except InputError as error:
            raise InputError(f"models.{name}: {error}") from error
        self._config = config
        # As configured, not as detected: a run can resume, and be replayed, on a machine without the first one's GPU.
        settings = [f"precision={config.precision}", *self.asked_as.identity()]
        self.identity = f"local:{fingerprint}:{VERSION}:{','.join(settings)}"
        self._worker = Worker(name, self.checkpoint.folder.resolve().name, self._load, pictures, batch=config.batch)

    async def complete(self, call: Call) -> Reply:
        """Return the reply. Concurrent calls are answered in one batch.

        Raises:
            CallerFault: the checkpoint cannot be loaded, an image is missing, prompt and reply exceed the model's context, or the logits
                are not finite.
            Transient: the model failed, or there is not enough memory for this call alone.
        """
        return await self._worker.ask(call)

    async def close(self) -> None:
        """Cancel calls in progress and free the model; a later call loads it again."""
        await self._worker.close()

    def _load(self) -> "tuple[VLMBackend, PrefixCache]":
        try:
            from chiron.providers.local.loading import load
        except ImportError as error:
            raise InputError(f"the provider local needs torch and transformers ({error}): {install_command('train')}") from error
        return load(self.checkpoint, self._config)


class LocalProvider(ProviderType[LocalModel]):
    config = LocalModel
    first_check = "checkpoint"

    def build(self, name: str, config: LocalModel, context: BuildContext) -> Endpoint:
        """Create the endpoint of a checkpoint. It is loaded at the first call."""
        # Twice the batch size: the next calls are ready when places become free.
        return Endpoint(Local(name, config, context.pictures), Limiter(2 * config.batch), _RETRY)

    def build_all(self, models: Mapping[str, LocalModel], context: BuildContext) -> dict[str, Endpoint]:
        """Create all endpoints. Entries with the same checkpoint and settings share the loaded model."""
        loaded: dict[LocalModel, Endpoint] = {}
        endpoints = {}
        for name, config in models.items():
            # The token limit applies to calls, not to the model.
            same = config.model_copy(update={"path": os.path.realpath(config.path), "max_tokens": None})
            if same not in loaded:
                loaded[same] = self.build(name, config, context)
            endpoints[name] = Endpoint(loaded[same].provider, loaded[same].limiter, loaded[same].retry)
        return endpoints

    async def check(self, name: str, config: LocalModel, endpoint: Endpoint) -> AsyncIterator[Finding]:
        """Report the checkpoint and how it is asked."""
        del config
        provider = endpoint.provider
        assert isinstance(provider, Local)  # noqa: S101 - build made it
        asked_as = provider.asked_as.describe()
        detail = f"{provider.checkpoint.described}{f'; asked with {asked_as}' if asked_as else ''}"
        yield Finding(name, "checkpoint", ok=True, detail=detail)
