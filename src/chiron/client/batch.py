"""Calls sent as batches: a queue that sends its calls once nothing else can continue, and finds its batches again after a restart."""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from pathlib import Path
from typing import Any

from chiron.client.batch_collector import BatchCollector, BatchRefused, BatchTimes, warn_of_lost_images
from chiron.client.batch_record import FOLDER, Batch, BatchService, RequestFile, open_batches
from chiron.client.call import Call, Reply
from chiron.client.failures import CallerFault, CallFailed, LeftInBatch, RateLimited, RunStopped, Transient
from chiron.client.ledger import Ledger
from chiron.errors import DiskError, InputError

_log = logging.getLogger(__name__)
_DISCARD_AT_END = 10.0
"""Seconds for the provider to delete files at the end of a process."""
_DISCARD_IMAGES = 120.0
"""Seconds for the provider to delete images at the end of a process."""
_SHOWN = 3
"""Maximum number of batches of a model that are described one by one."""


class BatchQueue:
    """Send the calls of one model as batches.

    A batch is sent once every unit of the job waits for replies and no call to another model is in flight, or if it is full. Its record is
    written before the upload. A later process with the same ledger asks the same calls, finds them in the record, and waits for the same
    batch. Results are kept on disk until the ledger contains the replies.
    """

    def __init__(self, model: str, service: BatchService, times: BatchTimes) -> None:
        """``model``: its configured name. :meth:`open` has to be called before the first call."""
        self.model, self.service, self.times = model, service, times
        self.batches: list[Batch] = []
        self._folder = Path()
        self._all_wait: Callable[[], bool] = lambda: True
        self._stored: Callable[[str], bool] = lambda _: False
        self._queue: dict[str, Call] = {}
        self._batch_of: dict[str, Batch] = {}
        """Batches of the calls whose result was not used yet."""
        self._waiting: dict[str, asyncio.Future[None]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        """Tasks by name of their batch; the one that sends has the name ``""``, the one that deletes ``"discard"``."""
        self._timer: asyncio.TimerHandle | None = None
        self._changed = 0.0
        self._count = 0
        self._collector = BatchCollector(model, service, times)
        self._halted: Exception | None = None
        self._began = False
        """Whether a call was asked."""

    def open(self, folder: Path, batches: list[Batch], *, all_wait: Callable[[], bool], stored: Callable[[str], bool]) -> None:
        """Take over the batches of earlier processes.

        Args:
            folder: folder of the batches.
            batches: those of this model, oldest first.
            all_wait: whether nothing continues before a batch ends.
            stored: whether the ledger has the reply of a key.

        Raises:
            InputError: a batch was sent to another address.
        """
        self._folder, self._all_wait, self._stored = folder, all_wait, stored
        self.service.open(folder, self.model)
        for batch in batches:
            record = batch.record
            if record.address != self.service.address:
                raise InputError(
                    f"{folder / record.name}.json: this batch of model '{self.model}' was sent to {record.address}, and the model is now at"
                    f" {self.service.address}: use the old address until the batch is collected, or move the file away; its calls are then"
                    " sent and paid for again"
                )
            if batch.results.is_file():
                batch.read_results(self.service)
            self._count += 1
            batch.number = self._count
            self.batches.append(batch)
            self._batch_of.update((key, batch) for key in record.keys if not stored(key))

    def has(self, key: str) -> bool:
        """Return whether a call is part of a batch whose result was not used yet."""
        return key in self._batch_of

    async def complete(self, call: Call) -> Reply:
        """Wait until a batch has answered the call.

        Raises:
            CallFailed: the call got no answer; sending it again may help.
            RunStopped: the run stopped first; :class:`~chiron.client.failures.LeftInBatch` if the call was sent.
        """
        key = call.key
        if self._halted is not None:
            raise self._left() if key in self._batch_of else self._halted.with_traceback(None)
        if not self._began:
            self._began = True
            self._start("discard", self._discard_rest())
        batch = self._batch_of.get(key)
        if batch is None or not batch.is_read:
            await self._result_of(call)
            batch = self._batch_of[key]
        result = batch.result(key)
        del self._batch_of[key]
        if result is None:
            state = batch.record.ended
            # Most providers do not charge for requests that they did not run before the end. What a deleted batch ran is unknown.
            billed = state not in self.service.unbilled
            raise Transient(f"{self.model}: no result in batch {batch.record.batch_id} ({state})", maybe_billed=billed)
        try:
            return self.service.read(call, result)
        except RateLimited as failure:
            # The next attempt is part of another batch, so waiting would not help.
            raise Transient(str(failure), public=failure.public) from failure

    async def _result_of(self, call: Call) -> None:
        key = call.key
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[key] = future
        if (batch := self._batch_of.get(key)) is not None:
            self._watch(batch)
        else:
            self._queue[key] = call
            self._note_change()
        try:
            await future
        finally:
            del self._waiting[key]
            self._queue.pop(key, None)

    def _note_change(self) -> None:
        if self._halted is not None or not self._queue:
            return
        self._changed = asyncio.get_running_loop().time()
        if len(self._queue) < self.service.max_requests or not self._begin_sending():
            self._arm(self.times.quiet)

    def _arm(self, seconds: float) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._check)

    def _check(self) -> None:
        """Send the queue if nothing changed for a while and everything waits."""
        self._timer = None
        if self._halted is not None or not self._queue:
            return
        left = self._changed + self.times.quiet - asyncio.get_running_loop().time()
        if left > 0 or not self._all_wait() or not self._begin_sending():
            self._arm(left if left > 0 else self.times.quiet)

    def _begin_sending(self) -> bool:
        """Send the queue. Returns whether that began: only one task sends at a time."""
        if "" in self._tasks:
            return False
        self._start("", self._send(dict(self._queue)))
        return True

    def _start(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[name] = task
        task.add_done_callback(lambda _: self._end(name))

    def _end(self, name: str) -> None:
        self._tasks.pop(name, None)
        if name == "":
            self._note_change()  # calls that came while the others were sent

    async def _send(self, calls: dict[str, Call]) -> None:
        """Write the requests of waiting calls, in as many batches as the provider's limits require, and send them."""
        file: RequestFile | None = None
        try:
            self._tidy()
            for number, (key, call) in enumerate(calls.items()):
                if number % 64 == 0:
                    await asyncio.sleep(0)  # cached images never suspend, so let other tasks run
                line = await self._request(call)
                if line is None:
                    continue
                if file is not None and not file.fits(line, self.service):
                    self._add(file)
                    file = None
                if file is None:
                    file = RequestFile(self._folder, f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(6)}")
                file.add(key, line)
            if file is not None:
                self._add(file)
        except Exception as reason:  # noqa: BLE001 - those who wait for the batch get it
            self._fail([key for key in calls if key in self._queue], reason)
        finally:
            if file is not None:
                file.abandon()

    async def _request(self, call: Call) -> bytes | None:
        """Return the request of a call; ``None`` if it cannot be made, or is no longer waited for."""
        try:
            line = await self._collector.steadily(lambda: self.service.request(call))
        except CallFailed as failure:
            self._fail([call.key], failure)
            return None
        if len(line) + 1 > self.service.max_bytes:
            size, most = len(line) / 1e6, self.service.max_bytes / 1e6
            self._fail(
                [call.key], CallerFault(f"{self.model}: a request of {size:.1f} MB exceeds the {most:g} MB of a batch: lower image_side")
            )
            return None
        return line if call.key in self._waiting else None

    def _add(self, file: RequestFile) -> None:
        batch = file.close(self.model, self.service.address)
        self._count += 1
        batch.number = self._count
        self.batches.append(batch)
        for key in file.keys:
            self._queue.pop(key, None)
            self._batch_of[key] = batch
        self._watch(batch)

    def _watch(self, batch: Batch) -> None:
        name = batch.record.name
        if name not in self._tasks and self._halted is None:
            self._start(name, self._run(batch))

    async def _run(self, batch: Batch) -> None:
        """Send a batch, wait for its end, and pass its results on."""
        keys = batch.record.keys
        try:
            await self._collector.collect(batch)
            answered = batch.answered()
        except BatchRefused as reason:
            self._forget(batch)
            self._fail(keys, reason)
            return
        except Exception as reason:  # noqa: BLE001 - those who wait for the batch get it
            self._fail(keys, reason)
            return
        # Answers first: they show that the model works before calls fail.
        for key in dict.fromkeys((*answered, *keys)):
            if (future := self._waiting.get(key)) is not None and not future.done():
                future.set_result(None)

    def _fail(self, keys: Iterable[str], reason: Exception) -> None:
        for key in keys:
            if (future := self._waiting.get(key)) is not None and not future.done():
                future.set_exception(reason.with_traceback(None))

    def _forget(self, batch: Batch) -> None:
        """Delete a batch none of whose requests ran."""
        for key in batch.record.keys:
            if self._batch_of.get(key) is batch:
                del self._batch_of[key]
        self.batches.remove(batch)
        batch.remove()

    async def _discard_rest(self) -> None:
        """Delete the provider's copies of collected batches for which an earlier task or process was stopped before it did."""
        for batch in [b for b in self.batches if b.is_read and not b.record.discarded and b.record.name not in self._tasks]:
            try:
                await self._collector.discard(batch, attempts=1)
            except DiskError as problem:
                _log.warning("%s", problem)

    async def _discard_images(self) -> None:
        """Delete the images that were uploaded on their own, unless a batch still needs them."""
        if not all(batch.is_read for batch in self.batches):
            return
        try:
            await asyncio.wait_for(self.service.discard_images(), _DISCARD_IMAGES)
        except (CallFailed, TimeoutError) as failure:
            _log.warning(
                "images of model '%s' could not be deleted at the provider (%s): delete them on its page, or run the same command again",
                self.model,
                failure.public if isinstance(failure, CallFailed) else f"not within {_DISCARD_IMAGES:.0f} s",
            )

    def _tidy(self) -> None:
        """Delete the files of batches whose replies are all in the ledger, once the provider's copies are deleted."""
        for batch in [b for b in self.batches if b.is_read and b.record.discarded]:
            if not any(self._batch_of.get(key) is batch for key in batch.record.keys) and all(map(self._stored, batch.answered())):
                self.batches.remove(batch)
                batch.remove()

    def halt(self, reason: Exception) -> None:
        """Send nothing more, and release all calls. What was sent stays with the provider."""
        if self._halted is not None:
            return
        self._halted = reason
        if self._timer is not None:
            self._timer.cancel()
        current = asyncio.current_task()
        for task in self._tasks.values():
            if task is not current:
                task.cancel()
        self._fail(list(self._queue), reason)
        self._fail(list(self._waiting), self._left())

    def _left(self) -> LeftInBatch:
        return LeftInBatch(f"stopped while a batch of model '{self.model}' was waited for")

    async def close(self) -> None:
        """End all tasks, and delete what the ledger has, here and at the provider."""
        self.halt(RunStopped("stopped"))
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        try:
            await asyncio.wait_for(self._discard_rest(), _DISCARD_AT_END)
        except TimeoutError:
            _log.warning("the provider of model '%s' does not delete the files of its batches now: the next run tries again", self.model)
        self._tidy()
        await self._discard_images()

    def lines(self) -> list[str]:
        """Describe the batches in progress, one line each."""
        there = [batch for batch in self.batches if batch.record.name in self._tasks]
        lines = [f"{self.model}: waiting for batch {b.number} ({b.status.done} of {b.status.total} done)" for b in there[:_SHOWN]]
        if more := there[_SHOWN:]:
            done, total = sum(b.status.done for b in more), sum(b.status.total for b in more)
            lines.append(f"{self.model}: waiting for {len(more)} more batches ({done} of {total} done)")
        if self._queue:
            lines.append(f"{self.model}: {len(self._queue)} calls wait for the next batch")
        trouble = self._collector.trouble
        return [*lines, f"{self.model}: {trouble}"] if trouble and lines else lines

    def notes(self) -> dict[str, str]:
        """Return notes about what was saved, and about batches that are left with the provider."""
        saved = self.service.saved_bytes / 1e6
        text = f"requests of model '{self.model}' refer to their images, and are {saved:,.1f} MB smaller for it"
        return {**({f"images {self.model}": text} if saved else {}), **self._left_notes()}

    def _left_notes(self) -> dict[str, str]:
        left = [b for b in self.batches if not b.is_read]
        calls = sum(self._batch_of.get(key) is b for b in left for key in b.record.keys)
        if self._halted is None or not calls:
            return {}
        names = ", ".join(str(b.record.batch_id or b.record.name) for b in left[:3]) + (", ..." if len(left) > 3 else "")
        several = f"{len(left)} batches" if len(left) > 1 else "1 batch"
        what = f"{calls} calls of model '{self.model}' are in {several} ({names}), which continue without this process"
        commands = "".join(f"; run {command}" for b in left if (command := self.service.command(b)))
        return {f"batch {self.model}": f"{what}{commands}; then run the same command again to collect the replies"}


def open_queues(
    queues: Mapping[str, BatchQueue | None], ledger: Ledger, *, all_wait: Callable[[], bool]
) -> tuple[dict[str, tuple[int, float]], float]:
    """Take over the batches of earlier processes, and remove attempts that were never sent from the ledger.

    Args:
        queues: by name of the model; ``None`` for models that are asked at once.
        ledger: the batches are next to it.
        all_wait: see :meth:`BatchQueue.open`.

    Returns attempts that are part of a batch (ID and maximum cost, by key of their call), and the USD of those that were removed.

    Raises:
        InputError: a model with calls in a batch is no longer asked through batches, or is at another address.
    """
    folder = ledger.path.parent / FOLDER

    def stored(key: str) -> bool:
        return ledger.get(key) is not None

    batches = open_batches(folder)
    for name, queue in queues.items():
        own = [batch for batch in batches if batch.record.model == name]
        if queue is not None:
            queue.open(folder, own, all_wait=all_wait, stored=stored)
            continue
        for record in (batch.record for batch in own):
            if not all(map(stored, record.keys)):
                raise InputError(
                    f"{folder / record.name}.json: {len(record.keys)} calls of model '{name}' were sent as a batch, and the model is now"
                    " configured without 'batch': set it again until the batch is collected, or move the file away; its calls are then"
                    " sent and paid for again"
                )
    warn_of_lost_images(folder, {queue.service.image_record for queue in queues.values() if queue is not None})
    in_a_batch = {key for batch in batches for key in batch.record.keys}
    queued, unsent = ledger.queued_attempts(), 0.0
    for key in [key for key in queued if key not in in_a_batch]:
        attempt, usd = queued.pop(key)
        ledger.end_attempt(attempt)
        unsent += usd
    return queued, unsent
