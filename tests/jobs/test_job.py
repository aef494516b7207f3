"""Work on many units: in order, many at once, gone on with where it was left, and never paid for twice."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from chiron.client.call import Ask, Call, Reply
from chiron.client.client import ModelClient
from chiron.client.failures import CallerFault, TooManyCrashes, Transient, UnitAsk
from chiron.errors import InputError
from chiron.jobs.crashes import AT_FIRST
from chiron.jobs.directory import WorkDirectory
from chiron.jobs.job import Job, JobSummary, Pending, Resume
from tests.support.calls import Scripted, a_call, endpoint_of


def echo(call: Call, _: int) -> Reply:
    return Reply(call.messages[0].text)


async def in_capitals(unit: str, ask: Ask) -> str:
    return (await ask(a_call(unit))).text.upper()


@dataclass(kw_only=True)
class Echo(Job[str, Any, JobSummary]):
    """Asks for the name of every unit."""

    resume: ClassVar[Resume] = Resume.REPLIES
    names: Iterable[str] = ()
    to_do: Callable[[str, Ask], Awaitable[Any]] = in_capitals
    found: list[tuple[str, Any]] = field(default_factory=list)

    def units(self) -> Iterable[str]:
        return self.names

    def count(self) -> int:
        return 0

    async def work(self, unit: str, ask: UnitAsk) -> Any:
        return await self.to_do(unit, ask)

    async def process(self, results: AsyncIterator[tuple[str, Any]], client: ModelClient) -> None:
        async for unit, result in results:
            self.found.append((unit, result))

    def summarize(self, summary: JobSummary, client: ModelClient) -> JobSummary:
        return summary


def job_of(path: Path, provider: Scripted, units: Iterable[str], **changes: Any) -> Echo:
    values: dict[str, Any] = {"in_flight": 4, "identity": {"what": "a test"}, **changes}
    return Echo(directory=WorkDirectory(path / "work"), endpoints={"m": endpoint_of(provider)}, names=units, **values)


def execute(path: Path, provider: Scripted, units: Iterable[str]) -> tuple[JobSummary, list[tuple[str, Any]]]:
    job = job_of(path, provider, units)
    return asyncio.run(job.execute()), job.found


def names(count: int) -> Iterator[str]:
    return (f"unit {n}" for n in range(count))


def test_results_come_in_the_order_of_the_units_and_many_are_under_way(tmp_path: Path) -> None:
    provider = Scripted(echo, seconds=0.01)
    summary, found = execute(tmp_path, provider, names(30))
    assert found == [(name, name.upper()) for name in names(30)]
    assert 1 < provider.most_in_flight <= 4
    assert (summary.pending, summary.halted, sum(s.calls for s in summary.spending)) == (0, None, 30)


def test_run_again_it_asks_nothing(tmp_path: Path) -> None:
    provider = Scripted(echo)
    first = execute(tmp_path, provider, names(10))[1]
    assert execute(tmp_path, provider, names(10))[1] == first
    assert len(provider.asked) == 10


def test_a_unit_without_a_reply_is_pending_and_goes_on_the_next_time(tmp_path: Path) -> None:
    def fails(call: Call, number: int) -> Reply:
        if call.messages[0].text == "unit 3":
            raise Transient("cut off")
        return echo(call, number)

    summary, found = execute(tmp_path, Scripted(fails), names(6))
    assert [unit for unit, result in found if isinstance(result, Pending)] == ["unit 3"]
    assert (summary.pending, summary.pending_because) == (1, "cut off")
    later = Scripted(echo)
    assert execute(tmp_path, later, names(6))[0].pending == 0
    assert [call.messages[0].text for call in later.asked] == ["unit 3"]


def test_a_halt_leaves_the_rest_pending_and_sends_nothing_more(tmp_path: Path) -> None:
    def refuses(call: Call, number: int) -> Reply:
        raise CallerFault("no such model", misconfigured=True)

    provider = Scripted(refuses)
    summary, found = execute(tmp_path, provider, names(200))
    assert all(isinstance(result, Pending) for _, result in found)
    assert (len(found), summary.pending) == (200, 200)
    assert "no such model" in str(summary.halted)
    assert len(provider.asked) <= 4


@pytest.mark.slow
def test_units_are_taken_as_places_become_free(tmp_path: Path) -> None:
    taken = done = 0
    most = 0

    def units() -> Iterator[str]:
        nonlocal taken
        for name in names(400):
            taken += 1
            yield name

    async def work(unit: str, ask: Ask) -> None:
        nonlocal done, most
        most = max(most, taken - done)
        await ask(a_call(unit))
        done += 1

    asyncio.run(job_of(tmp_path, Scripted(echo, seconds=0.001), units(), to_do=work).execute())
    assert done == 400
    assert most <= 20  # four places, and a window of four times that


def stumble(path: Path, provider: Scripted, units: Iterable[str], at: Callable[[str], Exception | None]) -> JobSummary:
    """Ask for every unit, and raise what ``at`` returns once its reply is there."""

    async def work(unit: str, ask: Ask) -> None:
        await ask(a_call(unit))
        if (error := at(unit)) is not None:
            raise error

    return asyncio.run(job_of(path, provider, units, to_do=work).execute())


def test_a_bug_that_one_unit_meets_leaves_it_pending_and_on_record(tmp_path: Path) -> None:
    def at(unit: str) -> Exception | None:
        return ZeroDivisionError("the patient's name") if unit in {"unit 2", "unit 5"} else None

    summary = stumble(tmp_path, Scripted(echo), names(30), at)
    assert (summary.pending, summary.crashed, summary.halted) == (2, 2, None)
    assert "ZeroDivisionError in jobs/crashes.py, line " in str(summary.pending_because)  # the last place that is ours
    assert any("2 pending because of a bug" in note and "errors.log" in note for note in summary.notes)
    log = tmp_path / "work" / "errors.log"
    assert log.stat().st_mode & 0o077 == 0
    assert log.read_text().count("ZeroDivisionError") == 1  # the same bug once
    assert "first in unit 3" in log.read_text()
    assert "in watch" in log.read_text()
    assert "patient" not in log.read_text() + str(summary)
    later = Scripted(echo)
    assert execute(tmp_path, later, names(30))[0].pending == 0
    assert later.asked == []


def test_errors_that_led_to_a_bug_are_on_record_without_their_words(tmp_path: Path) -> None:
    def at(unit: str) -> Exception | None:
        error = RuntimeError("a secret")
        error.__cause__ = KeyError("another")
        return error if unit == "unit 1" else None

    stumble(tmp_path, Scripted(echo), names(3), at)
    log = (tmp_path / "work" / "errors.log").read_text()
    assert log.index("KeyError") < log.index("RuntimeError")
    assert "secret" not in log
    assert "another" not in log


def test_a_bug_that_every_unit_meets_stops_the_work_soon(tmp_path: Path) -> None:
    provider = Scripted(echo)
    summary = stumble(tmp_path, provider, names(500), lambda _: ZeroDivisionError())
    assert isinstance(summary.halted, TooManyCrashes)
    assert summary.pending == 500
    assert len(provider.asked) <= AT_FIRST + 4


def test_odd_units_in_a_row_do_not_stop_the_others_once_one_went_well(tmp_path: Path) -> None:
    def at(unit: str) -> Exception | None:
        return ZeroDivisionError() if 10 <= int(unit.split()[1]) < 10 + 2 * AT_FIRST else None

    summary = stumble(tmp_path, Scripted(echo), names(60), at)
    assert (summary.pending, summary.halted) == (2 * AT_FIRST, None)


def test_what_a_person_must_mend_is_no_bug_of_a_unit(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="damaged"):
        stumble(tmp_path, Scripted(echo), names(4), lambda _: InputError("the ledger is damaged"))


def test_leftovers_of_a_kill_are_gone_after_the_next_start(tmp_path: Path) -> None:
    execute(tmp_path, Scripted(echo), names(1))
    (tmp_path / "work" / f".results.json.{2**22 + 1}.abcdefgh").write_text("half")
    execute(tmp_path, Scripted(echo), names(1))
    assert not list((tmp_path / "work").glob(".results*"))


def test_a_ledger_that_was_emptied_under_its_run_is_refused(tmp_path: Path) -> None:
    execute(tmp_path, Scripted(echo), names(1))
    for name in ("ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm"):
        (tmp_path / "work" / name).unlink(missing_ok=True)
    (tmp_path / "work" / "ledger.sqlite").touch()
    provider = Scripted(echo)
    with pytest.raises(InputError, match="is empty, but its run has started"):
        execute(tmp_path, provider, names(1))
    assert provider.asked == []


def test_a_directory_of_other_work_is_refused(tmp_path: Path) -> None:
    execute(tmp_path, Scripted(echo), names(1))
    other = job_of(tmp_path, Scripted(echo), names(1), identity={"what": "another"})
    with pytest.raises(InputError, match='what: "a test" there, "another" here'):
        asyncio.run(other.execute())
    assert json.loads((tmp_path / "work" / "run.json").read_text())["identity"] == {"what": "a test"}


@dataclass(kw_only=True)
class Keeping(Echo):
    """Stores its results, and skips the units that have one."""

    resume: ClassVar[Resume] = Resume.RESULTS
    kept: set[str] = field(default_factory=set)

    def is_finished(self, unit: str, client: ModelClient) -> bool:
        return unit in self.kept


def keeping(path: Path, provider: Scripted, units: Iterable[str], **changes: Any) -> Keeping:
    endpoints = {"m": endpoint_of(provider)}
    return Keeping(directory=WorkDirectory(path / "work"), identity={}, endpoints=endpoints, names=units, in_flight=4, **changes)


def test_a_job_that_stores_results_skips_finished_units_and_gives_the_others_as_they_end(tmp_path: Path) -> None:
    last_is_here = asyncio.Event()

    async def first_waits_for_the_last(unit: str, ask: Ask) -> str:
        if unit == "unit 1":
            await last_is_here.wait()
        if unit == "unit 29":
            last_is_here.set()
        return await in_capitals(unit, ask)

    provider = Scripted(echo)
    job = keeping(tmp_path, provider, names(30), kept={"unit 0", "unit 7"}, to_do=first_waits_for_the_last)
    summary = asyncio.run(job.execute())
    ended = [unit for unit, _ in job.found]
    assert set(ended) == set(names(30)) - {"unit 0", "unit 7"}
    assert ended.index("unit 1") >= len(ended) - 4
    assert (summary.pending, len(provider.asked)) == (0, 28)


def test_a_job_that_stores_results_takes_no_more_units_once_it_is_halted(tmp_path: Path) -> None:
    def refuses(call: Call, number: int) -> Reply:
        raise CallerFault("no such model", misconfigured=True)

    job = keeping(tmp_path, Scripted(refuses), names(200))
    summary = asyncio.run(job.execute())
    assert "no such model" in str(summary.halted)
    assert 0 < len(job.found) <= 8  # the others have no result, so the next process takes them
