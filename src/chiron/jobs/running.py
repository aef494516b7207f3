"""Run a job from plain Python. A script has no event loop, but a notebook already runs one."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import TypeVar

from chiron.jobs.session import Job

Ended = TypeVar("Ended")


def run_to_end(work: Job, execute: Callable[[], Awaitable[Ended]]) -> Ended:
    """Run ``execute``, which executes the job ``work``, and return its result.

    If an event loop is already running (a notebook), the job gets its own thread and loop. After an interrupt, it waits for the calls in
    flight and stores them; a second interrupt cancels them. Then the interrupt is raised.
    """

    async def executed() -> Ended:
        return await execute()

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(executed())
    return _in_a_thread(work, execute)


def _in_a_thread(work: Job, execute: Callable[[], Awaitable[Ended]]) -> Ended:
    begun: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[Ended]]] = Future()

    async def executed() -> Ended:
        return await execute()

    async def attended() -> Ended:
        task = asyncio.create_task(executed())
        begun.set_result((asyncio.get_running_loop(), task))
        return await task

    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(lambda: asyncio.run(attended()))
        try:
            return ended.result()
        except KeyboardInterrupt:
            # As on the command line: the first interrupt waits for calls in flight, which are paid for; the second one cancels them.
            loop, task = begun.result()
            _tell(loop, lambda: _stop(loop, work, task))
            try:
                wait([ended])
            except KeyboardInterrupt:
                _tell(loop, task.cancel)
                wait([ended])
            raise


def _stop(loop: asyncio.AbstractEventLoop, work: Job, task: "asyncio.Task[Ended]") -> None:
    """Stop the job. If it has not sent its first call, there is no client to stop yet."""
    if work.desk is not None:
        work.stop()
    elif not task.done():
        loop.call_later(0.05, _stop, loop, work, task)


def _tell(loop: asyncio.AbstractEventLoop, what: Callable[[], object]) -> None:
    with suppress(RuntimeError):  # the loop is closed: the job has ended
        loop.call_soon_threadsafe(what)
