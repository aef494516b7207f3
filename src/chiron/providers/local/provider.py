"""The provider ``local``: one checkpoint in this process that answers many calls at once."""

from pathlib import Path
from typing import TYPE_CHECKING

from chiron.client.call import Call, Reply
from chiron.client.config import LocalModel
from chiron.client.images import PictureStore
from chiron.errors import InputError
from chiron.providers.local.checkpoint import find_checkpoint
from chiron.providers.local.checkpoint_format import AskedAs
from chiron.providers.local.worker import Worker

if TYPE_CHECKING:
    from chiron.providers.local.backend import VLMBackend
    from chiron.providers.local.cache import PrefixCache

VERSION = 1
"""Part of the identity. Raise it when the same weights would answer differently."""


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
            self.asked_as = AskedAs.of(config, self.checkpoint.folder)
        except InputError as error:
            raise InputError(f"models.{name}: {error}") from error
        self._config = config
        # As configured, not as detected: a run can resume, and be replayed, on a machine without the first one's GPU.
        settings = [f"precision={config.precision}"]
        if self.checkpoint.model_type == "internvl":
            settings += self.asked_as.identity()
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
            raise InputError(f"the provider local needs torch and transformers ({error}): pip install 'chiron-med[train]'") from error
        return load(self.checkpoint, self._config)
