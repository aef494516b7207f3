"""The search over many cases as one call, for scripts, notebooks and other pipelines."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path

from chiron.mics.config import RunConfig
from chiron.mics.rundir import RunDirectory
from chiron.mics.running import Run, RunSummary
from chiron.mics.selection import Selection, Shard
from chiron.mics.setup import Setup


def prepare_run(
    cases: Path | str,
    config: RunConfig,
    run: Path | str,
    *,
    images: Path | str | None = None,
    limit: int | None = None,
    shard: str | None = None,
) -> Run:
    """A run, ready to be executed: everything checked that can be checked before a call is paid for.

    Args:
        cases: JSONL or JSON, in the published or the tidy format.
        config: from :func:`chiron.mics.config.load_config`.
        run: the run directory, made or gone on with.
        images: where images lie; ``images/`` beside ``cases`` by default.
        limit: only the first so many cases.
        shard: ``I/N``, part I of N.

    Raises:
        InputError: cases, images, prompts, keys or embedded models are missing.
    """
    selection = Selection(Path(cases), limit, Shard.parse(shard) if shard is not None else None)
    setup = Setup.of(selection, config, Path(images) if images is not None else None)
    return Run(setup, RunDirectory(Path(run)))


async def run_search_async(
    cases: Path | str,
    config: RunConfig,
    run: Path | str,
    *,
    images: Path | str | None = None,
    limit: int | None = None,
    shard: str | None = None,
) -> RunSummary:
    """As :func:`run_search`, to be awaited."""
    return await prepare_run(cases, config, run, images=images, limit=limit, shard=shard).execute()


def run_search(
    cases: Path | str,
    config: RunConfig,
    run: Path | str,
    *,
    images: Path | str | None = None,
    limit: int | None = None,
    shard: str | None = None,
) -> RunSummary:
    """Search every case that has no result yet in ``run``; arguments as :func:`prepare_run`.

    Works where an event loop already runs (a notebook): the search then gets a thread and a loop of its own. Interrupted there, it
    waits for the calls under way and keeps them (interrupted again, it drops them), and raises the interrupt.

    Raises:
        InputError: something is missing, the directory is in use, or it holds a run of another configuration.
        DiskError: the derived files cannot be written.
    """
    prepared = prepare_run(cases, config, run, images=images, limit=limit, shard=shard)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(prepared.execute())
    return _in_a_thread(prepared)


def _in_a_thread(run: Run) -> RunSummary:
    begun: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[RunSummary]]] = Future()

    async def execute() -> RunSummary:
        task = asyncio.create_task(run.execute())
        begun.set_result((asyncio.get_running_loop(), task))
        return await task

    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(lambda: asyncio.run(execute()))
        try:
            return ended.result()
        except KeyboardInterrupt:
            # As on the command line: the first one waits for the calls under way, which are paid for; the second one drops them.
            loop, task = begun.result()
            _tell(loop, lambda: _stop(loop, run, task))
            try:
                wait([ended])
            except KeyboardInterrupt:
                _tell(loop, task.cancel)
                wait([ended])
            raise


def _stop(loop: asyncio.AbstractEventLoop, run: Run, task: "asyncio.Task[RunSummary]") -> None:
    """Stop a run, also one that has not come to its first call: there is nothing to be told yet."""
    if run.desk is not None:
        run.stop()
    elif not task.done():
        loop.call_later(0.05, _stop, loop, run, task)


def _tell(loop: asyncio.AbstractEventLoop, what: Callable[[], object]) -> None:
    with suppress(RuntimeError):  # the loop is closed: the run ended meanwhile
        loop.call_soon_threadsafe(what)
