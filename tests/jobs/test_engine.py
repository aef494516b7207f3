"""Engines run the units of a job. The job does not know which engine does, and other packages may add engines."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from chiron.errors import InputError
from chiron.jobs.engine import Engine, OpenJob, engine_of
from chiron.mics.api import run_search
from tests.jobs.test_job import Echo, echo, job_of, names
from tests.support.calls import Scripted
from tests.support.cases import known_answers, write_cases
from tests.support.endpoint import Endpoint
from tests.support.plugins import install_plugin
from tests.support.runs import config_of, team
from tests.support.simulation import Simulation

OUTSIDE = """
from pathlib import Path


class OneByOne:
    async def run(self, job, units, work, *, in_order):
        for unit in units:
            with (job.directory.path / "trace.txt").open("a") as trace:
                print(unit, file=trace)
            yield unit, await work(unit)


ENGINE = OneByOne()
BROKEN = object()
"""


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = {"one-by-one": "outside:ENGINE", "broken": "outside:BROKEN", "class": "outside:OneByOne", "missing": "outside:GONE"}
    install_plugin(tmp_path / "site", monkeypatch, OUTSIDE, {"chiron.engines": entries})


def run_with(engine: Engine, path: Path, provider: Scripted) -> Echo:
    job = job_of(path, provider, names(20), engine=engine)
    asyncio.run(job.execute())
    return job


@pytest.mark.usefixtures("outside")
def test_an_engine_of_another_package_runs_a_job_with_the_same_results(tmp_path: Path) -> None:
    local = run_with(engine_of("local"), tmp_path / "local", Scripted(echo, seconds=0.001))
    provider = Scripted(echo, seconds=0.001)
    other = run_with(engine_of("one-by-one"), tmp_path / "other", provider)
    assert other.found == local.found == [(name, name.upper()) for name in names(20)]
    assert provider.most_in_flight == 1
    assert len((tmp_path / "other" / "work" / "trace.txt").read_text().splitlines()) == 20


@pytest.mark.slow
@pytest.mark.usefixtures("outside")
def test_a_search_finds_the_same_paths_on_any_engine(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 2)
    with Endpoint(Simulation(known_answers(cases)).reply) as endpoint:
        config = config_of(team(endpoint.base_url))
        summaries = [run_search(cases, config, tmp_path / name, engine=name) for name in ("local", "one-by-one")]
    assert [summary.total for summary in summaries] == [2, 2]
    assert len((tmp_path / "one-by-one" / "trace.txt").read_text().splitlines()) == 2
    for file in ("paths.jsonl", "rejected.jsonl"):
        assert (tmp_path / "one-by-one" / file).read_bytes() == (tmp_path / "local" / file).read_bytes()


class Drops:
    """Engine that runs only some of its units."""

    def __init__(self, keep: Callable[[int], bool], taken: int = 20) -> None:
        self.keep, self.taken = keep, taken

    async def run(self, job: OpenJob, units: Iterable[Any], work: Callable[[Any], Awaitable[Any]], *, in_order: bool) -> Any:
        for number, unit in enumerate(islice(units, self.taken)):
            if self.keep(number):
                yield unit, await work(unit)


@pytest.mark.parametrize("engine", [Drops(lambda number: number != 7), Drops(lambda _: True, taken=19)])
def test_an_engine_that_leaves_out_a_unit_is_an_error(tmp_path: Path, engine: Drops) -> None:
    with pytest.raises(InputError, match="engine 'Drops' returned 19 of 20 units"):
        run_with(engine, tmp_path, Scripted(echo))


def test_an_engine_with_the_name_of_a_built_in_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_plugin(tmp_path / "site", monkeypatch, OUTSIDE, {"chiron.engines": {"local": "outside:ENGINE"}})
    with pytest.raises(InputError, match=r"plug-in 'local' \(group chiron.engines, package outside\) has the name of a built-in one"):
        engine_of("local")


@pytest.mark.usefixtures("outside")
def test_an_unknown_or_unusable_engine_is_refused() -> None:
    with pytest.raises(InputError, match="unknown engine 'rya'; choose one of local, ray, slurm, one-by-one"):
        engine_of("rya")
    with pytest.raises(InputError, match="BROKEN is not an instance of Engine"):
        engine_of("broken")
    with pytest.raises(InputError, match=r"plug-in .class. .*outside:OneByOne is a class, not an instance of Engine"):
        engine_of("class")
    with pytest.raises(InputError, match=r"plug-in .missing. .*cannot be loaded"):
        engine_of("missing")
