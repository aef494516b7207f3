"""Configurations for the fake endpoint, and runs on it."""

import asyncio
from pathlib import Path
from typing import Any

import yaml

from chiron.cases.reader import Selection
from chiron.mics.config import RunConfig, check_config
from chiron.mics.run import Run, RunSummary
from chiron.mics.run_directory import RunDirectory
from chiron.mics.setup import SearchSetup

MENTORS, INTERNS, JUDGE = ("mentor-a", "mentor-b", "mentor-c"), ("intern-a", "intern-b", "intern-c"), "judge"


def team(base_url: str, *, model: dict[str, Any] | None = None, **search: Any) -> dict[str, Any]:
    """Build a configuration with three mentors, three interns and a judge, all at ``base_url``."""
    common = {"provider": "openai", "base_url": base_url, "timeout": 10.0, **(model or {})}
    models = {name: {**common, "model": name} for name in (*MENTORS, *INTERNS, JUDGE)}
    return {"models": models, "search": {"mentors": list(MENTORS), "interns": list(INTERNS), "judge": JUDGE, **search}}


def config_of(data: dict[str, Any]) -> RunConfig:
    return check_config(data, origin=Path("test.yaml"))


def write_config(path: Path, data: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(data))
    return path


def make_run(cases: Path, config: RunConfig, run: Path, **selection: Any) -> Run:
    return Run.of(SearchSetup.of(Selection(cases, **selection), config), RunDirectory(run))


def execute(cases: Path, config: RunConfig, run: Path, **selection: Any) -> RunSummary:
    return asyncio.run(make_run(cases, config, run, **selection).execute())
