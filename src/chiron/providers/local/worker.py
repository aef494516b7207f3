"""Answer many calls at once with one model, in a thread of its own."""

import asyncio
import contextlib
import logging
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Condition, Thread
from traceback import clear_frames
from typing import TYPE_CHECKING

from chiron.client.call import Call, ImagePart, Reply, TextPart, Usage, images_of
from chiron.client.failures import CallerFault, CallFailed, Transient, one_line
from chiron.client.images import PictureStore
from chiron.errors import InputError

if TYPE_CHECKING:
    from chiron.providers.local.backend import VLMBackend
    from chiron.providers.local.generation import Completion, Generation, PrefixCache, Request

_log = logging.getLogger(__name__)

_GATHER = 0.005
"""Seconds that an idle worker waits after a call for others sent at the same time."""


@dataclass(eq=False, slots=True)
class _Job:
    """One call and the future for its reply."""

    call: Call
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Reply]
    began: float = field(default_factory=time.monotonic)
    reported: bool = False
    """Whether its outcome was reported."""

    def report(self, outcome: Reply | CallFailed) -> None:
        self.reported = True

        def deliver() -> None:
            if self.future.done():  # the caller was canceled
                return
            if isinstance(outcome, Reply):
                self.future.set_result(outcome)
            else:
                self.future.set_exception(outcome)

        with contextlib.suppress(RuntimeError):  # the caller's event loop is closed
            self.loop.call_soon_threadsafe(deliver)


class Worker:
    """Answer calls in a separate thread, from the first call until :meth:`close`. A later call starts a new thread."""

    def __init__(
        self, name: str, served_by: str, load: "Callable[[], tuple[VLMBackend, PrefixCache]]", pictures: PictureStore, *, batch: int
    ) -> None:
        """``load``: loads the model, in the thread. ``batch``: maximum number of calls answered together."""
        self._name, self._served_by, self._load, self._pictures = name, served_by, load, pictures
        self._batch = self._most = batch
        self._waiting: list[_Job] = []
        self._changed = Condition()
        self._thread: Thread | None = None
        self._closing = False

    async def ask(self, call: Call) -> Reply:
        """Return the reply.

        Raises:
            CallFailed: there is no reply.
        """
        loop = asyncio.get_running_loop()
        job = _Job(call, loop, loop.create_future())
        with self._changed:
            if self._closing:
                raise Transient(f"{self._name}: closing")
            self._waiting.append(job)
            if self._thread is None:
                # A daemon thread: on exit, the process must not wait for replies that will not be read.
                self._thread = Thread(target=self._work, name=f"local {self._name}", daemon=True)
                self._thread.start()
            self._changed.notify()
        return await job.future

    async def close(self) -> None:
        with self._changed:
            thread = self._thread
            if thread is None:
                return
            self._closing = True
            self._changed.notify()
        await asyncio.to_thread(thread.join)

    def _work(self) -> None:
        """Run the thread. It cleans up itself, because the task that closes it may be canceled meanwhile."""
        live: dict[Request, _Job] = {}
        try:
            self._answer(live)
        finally:
            with self._changed:
                left, self._waiting = self._waiting, []
                self._thread, self._closing = None, False
            for job in (*live.values(), *left):
                job.report(Transient(f"{self._name}: closed before the reply"))

    def _answer(self, live: "dict[Request, _Job]") -> None:
        """Answer calls until the worker is closed; ``live`` always contains the calls in progress."""
        model: tuple[VLMBackend, PrefixCache] | None = None
        generation: Generation | None = None
        while (fresh := self._take(len(live))) is not None:
            try:
                if model is None:
                    model = self._load()
                if generation is None:
                    generation = _begin(model)
                requests = self._read(model[0], fresh)
                live.update(requests)
                self._report(generation.admit(list(requests)), live, model[0])
                self._report(generation.step(), live, model[0])
            except Exception as error:  # noqa: BLE001 - any error fails these calls, not the run
                jobs = [job for job in dict.fromkeys((*live.values(), *fresh)) if not job.reported]
                generation = None
                live.clear()
                try:
                    self._recover(jobs, error, model)
                except Exception as worse:  # noqa: BLE001 - every caller must get an outcome
                    why = f"{self._name}: {type(worse).__name__}"
                    for job in jobs:
                        job.report(Transient(f"{why}: {worse}", public=why))

    def _take(self, live: int) -> list[_Job] | None:
        """Return the calls to start now, while ``live`` others are in progress; ``None`` when closing.

        Waits only if no call is in progress.
        """
        with self._changed:
            if not live:
                if not self._waiting:  # the calls that exceeded memory together are done
                    self._most = self._batch
                while not self._waiting and not self._closing:
                    self._changed.wait()
        if not live and not self._closing:
            time.sleep(_GATHER)
        with self._changed:
            if self._closing:
                return None
            self._waiting = [job for job in self._waiting if not job.future.done()]
            free = self._most - live
            # Reading several prompts at once is cheapest, so wait until a few places are free.
            if not self._waiting or (live and free < max(1, self._most // 4)):
                return []
            by_images: defaultdict[tuple[ImagePart, ...], list[_Job]] = defaultdict(list)
            for job in self._waiting:
                by_images[images_of(job.call.messages)].append(job)
            together = [job for jobs in by_images.values() for job in jobs]
            taken = set(together[:free])
            self._waiting = [job for job in self._waiting if job not in taken]
            return together[:free]

    def _read(self, backend: "VLMBackend", jobs: list[_Job]) -> "dict[Request, _Job]":
        """Return the requests for these calls. A call that cannot be read fails alone."""
        from chiron.providers.local.generation import Request

        requests = {}
        for job in jobs:
            call = job.call
            try:
                _check_text(call)
                prompt = backend.prompt(call.messages, self._pictures)
                if len(prompt) + call.max_tokens > backend.longest:
                    raise CallerFault(
                        f"{self._name}: a prompt of {len(prompt)} tokens and a reply of up to {call.max_tokens} exceed the model's"
                        f" {backend.longest} tokens: lower max_tokens, image_side or max_tiles, or shorten the case"
                    )
            except CallFailed as failure:
                job.report(failure)
                continue
            except InputError as fault:  # caused by this text alone: the others may continue
                job.report(CallerFault(f"{self._name}: {fault}"))
                continue
            requests[Request(prompt, call.temperature, call.max_tokens, call.key)] = job
        return requests

    def _report(self, finished: "list[tuple[Request, Completion]]", live: "dict[Request, _Job]", backend: "VLMBackend") -> None:
        for request, completion in finished:
            job = live[request]
            if completion.finish == "broken":
                what = f"{self._name}: the model's logits for this call are not finite"
                job.report(CallerFault(f"{what}: its weights are broken, or it needs precision: fp32"))
                del live[request]
                continue
            usage = Usage(len(request.prompt), len(completion.tokens) + (completion.finish == "stop"))
            seconds = time.monotonic() - job.began
            job.report(Reply(backend.text(completion.tokens), completion.finish, usage, self._served_by, seconds))
            del live[request]  # last, so that the job still gets an outcome if an earlier line fails

    def _recover(self, jobs: list[_Job], error: Exception, model: "tuple[VLMBackend, PrefixCache] | None") -> None:
        """Report the outcome of ``jobs`` after ``error``, or queue them again in smaller batches if memory was exceeded."""
        # Free the tensors in the error's frames, since the failure raised below is kept during retries.
        clear_frames(error.__traceback__)
        if isinstance(error, InputError):
            # The checkpoint cannot be loaded, so every call would fail.
            failure: CallFailed = CallerFault(f"{self._name}: {error}", misconfigured=True)
        elif _out_of_memory(error):
            if model is not None:
                _free_caches(model)
            if len(jobs) > 1:
                self._most = max(1, len(jobs) // 2)
                _log.warning("%s: out of memory with %d calls at once; retrying with %d", self._name, len(jobs), self._most)
                with self._changed:
                    self._waiting = [*jobs, *self._waiting]
                return
            failure = Transient(
                f"{self._name}: out of memory for a single call ({one_line(str(error), 200)})",
                public=f"{self._name}: out of memory for a single call: lower max_tiles, image_side or max_tokens, or set precision: bf16",
            )
        else:
            failure = Transient(
                f"{self._name}: {type(error).__name__}: {error}", public=f"{self._name}: {type(error).__name__} during generation"
            )
        for job in jobs:
            job.report(failure)


def _check_text(call: Call) -> None:
    for message in call.messages:
        for part in message.parts:
            if isinstance(part, TextPart) and any("\ud800" <= c <= "\udfff" for c in part.text):
                raise CallerFault("its text contains half a character (a lone surrogate), which cannot be tokenized: remove it")


def _out_of_memory(error: Exception) -> bool:
    import torch

    # On a CPU, torch has no specific error class for this.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _begin(model: "tuple[VLMBackend, PrefixCache]") -> "Generation":
    from chiron.providers.local.generation import Generation

    return Generation(*model)


def _free_caches(model: "tuple[VLMBackend, PrefixCache]") -> None:
    import torch

    for cache in model:
        cache.forget()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
