"""Bring one batch to its end: send it, wait for the provider, store the results, and repeat what fails on the way."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from chiron.client.batch_record import COMPLETED, DELETED, IMAGES, Batch, BatchService
from chiron.client.failures import CallerFault, CallFailed, ConfigurationError, EndpointDown, RateLimited, one_line
from chiron.io import writing

_log = logging.getLogger(__name__)
T = TypeVar("T")


class BatchRefused(ConfigurationError):
    """The provider runs none of the requests of a batch."""


@dataclass(frozen=True, slots=True)
class BatchTimes:
    """Waits of a batch queue in seconds."""

    quiet: float = 2.0
    """Seconds without a new call before a batch is sent."""
    poll: float = 60.0
    """Seconds between two questions for the state of a batch."""
    first_wait: float = 1.0
    """Wait after a request to the provider that failed; doubled for each further one, up to ``poll``."""
    outage: float = 3600.0
    """Seconds of nothing but failed requests to the provider after which the run stops."""


class BatchCollector:
    """Send and collect the batches of one model."""

    def __init__(self, model: str, service: BatchService, times: BatchTimes) -> None:
        """``model``: its configured name."""
        self.model, self.service, self.times = model, service, times
        self.trouble = ""
        """Why the last request to the provider failed; empty if it did not."""

    async def collect(self, batch: Batch) -> None:
        """Send a batch unless it was sent, wait for its end, and store its results.

        Raises:
            BatchRefused: the provider runs none of its requests.
            RunStopped: the provider does not answer, or rejects the key or the address.
            DiskError: a file cannot be written.
        """
        record, refusals = batch.record, 0
        while True:
            await self._steadily(lambda: self.service.submit(batch))
            command = self.service.command(batch)
            _log.log(
                logging.WARNING if command else logging.INFO,
                "batch %d of model '%s' has %d calls%s",
                batch.number,
                self.model,
                len(record.keys),
                command and f": run {command}",
            )
            while (status := await self._steadily(lambda: self.service.poll(batch))).ended is None:
                batch.status = status
                await asyncio.sleep(self.times.poll)
            batch.status = status
            if status.refused is None:
                break
            if not status.later:
                await self.discard(batch)
                raise BatchRefused(f"model '{self.model}': the provider refuses the batch {record.batch_id}: {status.refused}")
            self.trouble = status.refused
            record.batch_id, record.creating = None, False
            batch.save()
            await asyncio.sleep(self.times.poll * 2 ** min(refusals, 5))
            refusals += 1
        if status.ended == DELETED:
            _log.warning(
                "batch %s of model '%s' was deleted at the provider: its calls are sent again, and count as possibly spent; if you did not"
                " delete it, stop, and use the key and the base_url of the account that has it",
                record.batch_id,
                self.model,
            )
        record.ended = status.ended
        batch.save()
        await self._download(batch)
        await self.discard(batch)

    async def _download(self, batch: Batch) -> None:
        """Store the results. If calls of a completed batch have no readable line, the results are downloaded once more."""
        part = batch.results.with_name(f"{batch.results.name}.part")
        downloads = 2 if batch.record.ended == COMPLETED and self.service.is_online else 1
        places: dict[str, tuple[int, bool]] = {}
        lost = 0
        for number in range(downloads):
            if number:
                await asyncio.sleep(min(self.times.first_wait, self.times.poll))
            await self._steadily(lambda: self.service.download(batch, part))
            with writing(part):
                places = await asyncio.to_thread(batch.places_in, part, self.service)
            if not (lost := len(batch.record.keys) - len(places)):
                break
        if lost and batch.record.ended == COMPLETED:
            _log.warning(
                "batch %s of model '%s' is completed, but %d of its %d calls have no readable result: they are sent again, and count as"
                " possibly spent",
                batch.record.batch_id,
                self.model,
                lost,
                len(batch.record.keys),
            )
        with writing(batch.results):
            await asyncio.to_thread(batch.keep_results, part, places)
            batch.requests.unlink(missing_ok=True)

    async def discard(self, batch: Batch, *, attempts: int = 3) -> None:
        """Delete the provider's copies, which contain patient data. If it fails, a message says so, and the run continues.

        Raises:
            DiskError: the record cannot be written.
        """
        trouble = ""
        for number in range(attempts):
            if number:
                await asyncio.sleep(min(self.times.first_wait, self.times.poll))
            try:
                await self.service.discard(batch)
            except CallFailed as failure:
                trouble, batch.record.discarded = failure.public, isinstance(failure, CallerFault)
            else:
                trouble, batch.record.discarded = "", True
            if batch.record.discarded:
                batch.save()
                break
        if trouble:
            _log.warning(
                "the files of batch %s of model '%s' could not be deleted at the provider (%s): delete them on its page%s",
                batch.record.batch_id,
                self.model,
                trouble,
                "" if batch.record.discarded else ", or let the next run of the same command try again",
            )

    async def _steadily(self, request: Callable[[], Awaitable[T]]) -> T:
        """Repeat a request for a batch, as :meth:`steadily`.

        Raises:
            ConfigurationError: the provider rejects it.
            EndpointDown: the provider has not answered for too long.
        """
        try:
            return await self.steadily(request)
        except CallerFault as failure:
            raise ConfigurationError(f"model '{self.model}': its batch is refused: {failure.public}") from failure

    async def steadily(self, request: Callable[[], Awaitable[T]]) -> T:
        """Repeat a request to the provider until it succeeds. Rate limits are waited for, however long they last.

        Raises:
            CallerFault: the provider rejects it.
            EndpointDown: the provider has not answered for too long.
        """
        loop = asyncio.get_running_loop()
        since: float | None = None
        wait = min(self.times.first_wait, self.times.poll)
        while True:
            try:
                result = await request()
            except CallerFault:
                raise
            except RateLimited as failure:
                since, self.trouble = None, failure.public
                pause = failure.retry_after if failure.retry_after is not None else wait
            except CallFailed as failure:
                since, self.trouble, pause = loop.time() if since is None else since, failure.public, wait
                if loop.time() - since >= self.times.outage:
                    raise EndpointDown(
                        f"model '{self.model}': the provider of its batches failed for {self.times.outage / 60:.0f} min, most recently"
                        f" with: {failure.public}; run the same command again when it answers"
                    ) from failure
            else:
                self.trouble = ""
                return result
            _log.info("a request for the batches of model '%s' failed: %s", self.model, self.trouble)
            await asyncio.sleep(pause)
            wait = min(2 * wait, self.times.poll)


def warn_of_lost_images(folder: Path, owned: Collection[Path | None]) -> None:
    """Name the records of uploaded images that no model of this run owns, because its configuration changed: they are not deleted."""
    for path in sorted(set(folder.glob(f"{IMAGES}/*.jsonl")) - set(owned)):
        try:
            owner = str(json.loads(path.read_text("utf-8").splitlines()[0])["owner"])
        except (OSError, ValueError, LookupError, TypeError):
            owner = "unknown"  # a file of an earlier version
        _log.warning(
            "%s names images of patients that are still at the provider (model and address: %s), and no model of this run is configured"
            " like that. To delete them, run the same command with that base_url and 'batch: {images: file}'; or delete them on the"
            " provider's page, and then this file",
            path,
            one_line(owner),
        )
