"""Python API of the search: run MICS over a file of cases, or replay a run with another judge, parser or policy."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict, Unpack

from chiron.cases.reader import Selection, Shard
from chiron.errors import InputError
from chiron.jobs.directory import RUN
from chiron.jobs.engine import EngineOptions, engine_of
from chiron.jobs.job import run_job
from chiron.mics.config import RunConfig, check_config
from chiron.mics.replay import ReplayForecast, forecast, forecast_overrides
from chiron.mics.run import Run, RunSummary
from chiron.mics.run_directory import RunDirectory
from chiron.mics.setup import SearchSetup


class RunOptions(TypedDict, total=False):
    """Options of a search."""

    images: Path | str | None
    """Image folder; by default ``images/`` next to the cases."""
    limit: int | None
    """Use only the first ``limit`` cases."""
    shard: str | None
    """``I/N``; use part I of N."""
    need_keys: bool
    """Whether API keys must be set; a forecast needs none."""
    engine: str
    """Name of the engine that runs the cases; by default ``local``, this process."""
    engine_options: EngineOptions | None
    """Address, workers and storage of an engine on other machines."""


def prepare_run(cases: Path | str, config: RunConfig, run: Path | str, **options: Unpack[RunOptions]) -> Run:
    """Prepare a run and validate its inputs before any call is paid for.

    Args:
        cases: JSONL or JSON file, in the published or the tidy format.
        config: from :func:`chiron.mics.config.load_config`.
        run: run directory; created if missing, otherwise resumed.
        options: see :class:`RunOptions`.

    Raises:
        InputError: cases, images, prompts, keys, embedded models or the engine are missing.
    """
    shard, images = options.get("shard"), options.get("images")
    engine = engine_of(options.get("engine", "local"), options.get("engine_options"))
    selection = Selection(Path(cases), options.get("limit"), Shard.parse(shard) if shard is not None else None)
    setup = SearchSetup.of(selection, config, Path(images) if images is not None else None, need_keys=options.get("need_keys", True))
    prepared = Run.of(setup, RunDirectory(Path(run)))
    prepared.engine = engine
    return prepared


async def run_search_async(cases: Path | str, config: RunConfig, run: Path | str, **options: Unpack[RunOptions]) -> RunSummary:
    """Async version of :func:`run_search`."""
    return await prepare_run(cases, config, run, **options).execute()


def run_search(cases: Path | str, config: RunConfig, run: Path | str, **options: Unpack[RunOptions]) -> RunSummary:
    """Search every case that has no result yet in ``run``. Arguments are those of :func:`prepare_run`.

    This also works inside a running event loop (a notebook); the search then uses its own thread and loop. The first
    interrupt waits for calls in progress and stores their replies; a second one drops them. Then the interrupt is raised.

    Raises:
        InputError: an input is missing, or the directory is in use or contains a run with another configuration.
        DiskError: the derived files cannot be written.
    """
    return run_job(prepare_run(cases, config, run, **options))


def replay_setup(
    old: RunDirectory, config: RunConfig, cases: Path | None = None, images: Path | None = None, *, need_keys: bool = True
) -> SearchSetup:
    """Prepare the cases of an old run with another configuration. ``cases`` and ``images`` override the recorded paths.

    Without ``need_keys``, the setup is good for :func:`~chiron.mics.replay.rehearse` but not for calls to models.

    Raises:
        InputError: ``old`` is not a run directory, or its cases were moved.
    """
    run = old.need_run()
    path = cases if cases is not None else Path(str(run.get("cases")))
    if not os.path.isfile(path):
        raise InputError(f"the cases of {old.path} are no longer in {path}: name the file with --cases FILE")
    shard, limit = run.get("shard"), run.get("limit")
    if not isinstance(shard, str | None) or not isinstance(limit, int | None):
        raise InputError(f"{old.path / RUN} is damaged (shard {shard!r}, limit {limit!r}): restore it from a copy, or use another run")
    folder = images if images is not None else Path(str(run.get("images"))) if cases is None else None
    return SearchSetup.of(Selection(path, limit, Shard.parse(shard) if shard else None), config, folder, need_keys=need_keys)


def prepare_again(run: Path) -> Run:
    """Prepare a run as its ``run.json`` describes it, without keys: for its stored results, and not for calls to models.

    Raises:
        InputError: it is not a run directory, or its cases were moved.
    """
    directory = RunDirectory(run)
    config = check_config(directory.need_run()["config"], origin=Path(RUN))  # its paths are already resolved
    return Run.of(replay_setup(directory, config, need_keys=False), directory)


def replay_run(setup: SearchSetup, old: RunDirectory, new: Path) -> Run:
    """Create a run in ``new`` that starts with all replies of ``old``.

    Raises:
        InputError: both are the same directory.
    """
    if new.resolve() == old.path.resolve():
        raise InputError(f"--run {new} is the run that is replayed: choose a new directory")
    return Run.of(setup, RunDirectory(new), old.path)


async def forecast_replay(
    old: RunDirectory, changes: Sequence[str], config: RunConfig | None = None, cases: Path | None = None, images: Path | None = None
) -> ReplayForecast:
    """Forecast what another policy would have asked in a finished run, from its ledger alone.

    Args:
        old: the run.
        changes: see :func:`chiron.mics.replay.forecast_overrides`.
        config: the configuration of the run; by default the one that it recorded.
        cases: file of the cases, if it was moved.
        images: folder of the images, if it was moved.

    Raises:
        InputError: ``old`` is not a run directory, a change is invalid, or the run's models cannot be prepared.
    """
    recorded = config.model_dump(mode="json") if config is not None else old.need_run().get("config")
    if not isinstance(recorded, dict):
        raise InputError(f"{old.path / RUN} contains no configuration: name its file with --config FILE")
    setups = [
        replay_setup(old, check_config(recorded, origin=old.path / RUN, **overrides), cases, images, need_keys=False)
        for overrides in ({}, forecast_overrides(changes))
    ]
    return await forecast(setups[0], setups[1], old.ledger)
