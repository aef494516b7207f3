"""The search over many cases as one call, for scripts, notebooks and other pipelines."""

from pathlib import Path

from chiron.cases.selection import Selection, Shard
from chiron.jobs.running import run_to_end
from chiron.mics.config import RunConfig
from chiron.mics.run import Run, RunSummary
from chiron.mics.run_directory import RunDirectory
from chiron.mics.setup import SearchSetup


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
    setup = SearchSetup.of(selection, config, Path(images) if images is not None else None)
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
    return run_to_end(prepared, prepared.execute)
