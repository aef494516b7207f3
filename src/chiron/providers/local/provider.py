"""The provider ``local``: one checkpoint in this process, asked by many calls at once."""

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
"""Part of the identity; raised whenever the same weights would answer differently."""


class Local:
    """One checkpoint: looked at when it is made, loaded at the first call, freed by :meth:`close`."""

    def __init__(self, name: str, config: LocalModel, pictures: PictureStore) -> None:
        """Look at the checkpoint and hash it, which takes seconds for gigabytes; nothing is loaded yet.

        Raises:
            InputError: there is none, or none that can be run.
        """
        self.name = name
        try:
            self.checkpoint = find_checkpoint(Path(config.path))
            fingerprint = self.checkpoint.fingerprint()
            self.asked_as = AskedAs.of(config, self.checkpoint.folder)
        except InputError as error:
            raise InputError(f"models.{name}: {error}") from error
        self._config = config
        # As configured, not as found: a run goes on, and is replayed, on a machine without the GPU of the first.
        settings = [f"precision={config.precision}"]
        if self.checkpoint.model_type == "internvl":
            settings += self.asked_as.identity()
        self.identity = f"local:{fingerprint}:{VERSION}:{','.join(settings)}"
        self._worker = Worker(name, self.checkpoint.folder.resolve().name, self._load, pictures, batch=config.batch)

    async def complete(self, call: Call) -> Reply:
        """The reply; calls made together are answered together.

        Raises:
            CallerFault: the checkpoint cannot be loaded, an image is gone, prompt and reply are longer than the model can read, or it
                computes no finite numbers for this call.
            Transient: the model failed, or there is not memory enough for this call alone.
        """
        return await self._worker.ask(call)

    async def close(self) -> None:
        """Break off what is under way, and free the model; a later call loads it again."""
        await self._worker.close()

    def _load(self) -> "tuple[VLMBackend, PrefixCache]":
        try:
            from chiron.providers.local.loading import load
        except ImportError as error:
            raise InputError(f"the provider local needs torch and transformers ({error}): pip install 'chiron-med[train]'") from error
        return load(self.checkpoint, self._config)
