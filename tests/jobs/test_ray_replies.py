"""Builds and evaluations on a Ray cluster: the same files as one process, also when a worker is killed."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from chiron.client.prompts import read_section
from chiron.errors import InputError
from chiron.evaluation.config import load_evaluation
from chiron.evaluation.preparation import prepare_evaluation
from chiron.jobs.engine import EngineOptions
from chiron.jobs.job import AnyJob, JobSummary
from chiron.mmrp.questions import prepare_questions
from chiron.mmrp.text import prepare_text
from tests.evaluation import published
from tests.evaluation.test_running import answers, write
from tests.jobs.test_ray_engine import PRICE, calls_in, workers
from tests.jobs.test_ray_engine import address as address  # noqa: PLC0414 - a fixture
from tests.mmrp.building import Models, build_config, write_different
from tests.mmrp.test_questions import Author
from tests.support.command import CHIRON, chiron, environment, wait_for
from tests.support.endpoint import Endpoint
from tests.support.runs import write_config
from tests.support.waiting import PATIENCE, wait_until

Prepare = Callable[[str, Path], AnyJob]
"""Prepares a job with an engine in a directory."""


def ray(address: str, **options: Any) -> EngineOptions:
    return EngineOptions(address=address, **{"workers": 2, "copy_every": 0.2, **options})


def evaluation(folder: Path, config: Path, run: Path, **options: Any) -> AnyJob:
    return prepare_evaluation("m", ["vqa_rad"], run, load_evaluation(config, "m"), data=folder / "d", **options)


def execute(job: AnyJob) -> JobSummary:
    summary: JobSummary = asyncio.run(job.execute())
    return summary


def differing(one: Path, other: Path) -> list[str]:
    """Names of the files that differ between two directories, without what contains a time."""
    names = {path.name for folder in (one, other) for path in folder.iterdir() if path.is_file()}
    own = {"ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm", "run.json", "run.lock"}
    return sorted(name for name in names - own if (one / name).read_bytes() != (other / name).read_bytes())


@pytest.mark.slow
def test_an_evaluation_on_ray_writes_the_files_of_one_process(tmp_path: Path, address: str) -> None:
    published.vqa_rad(tmp_path / "d", 40)
    with Endpoint(answers) as endpoint:
        config = write(tmp_path, endpoint.base_url, protocol="exact", judge="judge", interns=["intern"])
        execute(evaluation(tmp_path, config, tmp_path / "one"))
        asked, before = len(endpoint.seen.answered), endpoint.seen.requests
        summary = execute(evaluation(tmp_path, config, tmp_path / "ray", engine="ray", engine_options=ray(address)))
        assert (summary.pending, summary.total) == (0, 40)
        assert differing(tmp_path / "one", tmp_path / "ray") == []
        assert len(endpoint.seen.answered) == asked
        again = endpoint.seen.requests
        assert again > before
        assert execute(evaluation(tmp_path, config, tmp_path / "ray", engine="ray", engine_options=ray(address))).pending == 0
        assert endpoint.seen.requests == again
    assert differing(tmp_path / "one", tmp_path / "ray") == []
