"""Python API of the search: run MICS over a file of cases from a script, notebook or pipeline."""

from pathlib import Path

from chiron.cases.selection import Selection, Shard
from chiron.jobs.job import run_job
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
    """Prepare a run and validate its inputs before any call is paid for.

    Args:
        cases: JSONL or JSON file, in the published or the tidy format.
        config: from :func:`chiron.mics.config.load_config`.
        run: run directory; created if missing, otherwise resumed.
        images: image folder; by default ``images/`` next to ``cases``.
        limit: use only the first ``limit`` cases.
        shard: ``I/N``; use part I of N.

    Raises:
        InputError: cases, images, prompts, keys or embedded models are missing.
    """
    selection = Selection(Path(cases), limit, Shard.parse(shard) if shard is not None else None)
    setup = SearchSetup.of(selection, config, Path(images) if images is not None else None)
    return Run.of(setup, RunDirectory(Path(run)))


async def run_search_async(
    cases: Path | str,
    config: RunConfig,
    run: Path | str,
    *,
    images: Path | str | None = None,
    limit: int | None = None,
    shard: str | None = None,
) -> RunSummary:
    """Async version of :func:`run_search`."""
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
    """Search every case that has no result yet in ``run``. Arguments are those of :func:`prepare_run`.

    This also works inside a running event loop (a notebook); the search then uses its own thread and loop. The first
    interrupt waits for calls in progress and stores their replies; a second one drops them. Then the interrupt is raised.

    Raises:
        InputError: an input is missing, or the directory is in use or contains a run with another configuration.
        DiskError: the derived files cannot be written.
    """
    return run_job(prepare_run(cases, config, run, images=images, limit=limit, shard=shard))
