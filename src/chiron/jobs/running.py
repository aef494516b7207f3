"""Work run to its end from plain Python: a script has no event loop, a notebook has one already."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import TypeVar

from chiron.jobs.session import Job

Ended = TypeVar("Ended")


def run_to_end(work: Job, execute: Callable[[], Awaitable[Ended]]) -> Ended:
    """What ``execute`` gives, ``work`` being what it executes.

    Where an event loop already runs (a notebook), the work gets a thread and a loop of its own. Interrupted there, it waits for the calls
    under way and keeps them (interrupted again, it drops them), and raises the interrupt.
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
            # As on the command line: the first one waits for the calls under way, which are paid for; the second one drops them.
            loop, task = begun.result()
            _tell(loop, lambda: _stop(loop, work, task))
            try:
                wait([ended])
            except KeyboardInterrupt:
                _tell(loop, task.cancel)
                wait([ended])
            raise


def _stop(loop: asyncio.AbstractEventLoop, work: Job, task: "asyncio.Task[Ended]") -> None:
    """Stop work, also such as has not come to its first call: there is nothing to be told yet."""
    if work.desk is not None:
        work.stop()
    elif not task.done():
        loop.call_later(0.05, _stop, loop, work, task)


def _tell(loop: asyncio.AbstractEventLoop, what: Callable[[], object]) -> None:
    with suppress(RuntimeError):  # the loop is closed: the work ended meanwhile
        loop.call_soon_threadsafe(what)
