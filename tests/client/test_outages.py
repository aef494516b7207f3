"""An endpoint that goes away costs nothing but time, and a call is given up only where it alone fails. On a virtual clock."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from chiron.client.call import Call, Provider, Reply, Role
from chiron.client.client import Endpoint, ModelClient
from chiron.client.failures import EndpointDown, Transient
from chiron.client.ledger import Ledger
from chiron.client.limiter import Limiter
from chiron.client.retry import RetryPolicy
from tests.support.calls import a_call
from tests.support.clock import run_virtually
from tests.support.traffic import Traffic, text_of

HOUR = 3600.0


def desk_with(path: Path, provider: Provider, policy: RetryPolicy | None = None) -> ModelClient:
    return ModelClient({"m": Endpoint(provider, Limiter(16), policy or RetryPolicy())}, Ledger.open(path / "l.sqlite"))


def on_a_virtual_clock(desk: ModelClient, work: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        try:
            await work()
        finally:
            await desk.close()
            desk.ledger.close()

    run_virtually(main())


async def ask_many(desk: ModelClient, count: int) -> list[Reply | BaseException]:
    return await asyncio.gather(*(desk.ask(a_call(str(n)), rank=1) for n in range(count)), return_exceptions=True)


def now() -> float:
    return asyncio.get_running_loop().time()


def test_a_restart_of_five_minutes_costs_no_call(tmp_path: Path) -> None:
    traffic = Traffic(down=[(10.0, 310.0)])
    desk = desk_with(tmp_path, traffic)

    async def work() -> None:
        done = await ask_many(desk, 400)
        assert all(isinstance(d, Reply) for d in done)
        assert now() < 400 / 16 + 300 + 60
        assert [s.failed for s in desk.ledger.spending()] == [0]
        assert any("'m' was down for 3" in note for note in desk.notes.values())

    on_a_virtual_clock(desk, work)


def test_while_it_is_down_one_call_at_a_time_is_tried_every_half_minute(tmp_path: Path) -> None:
    traffic = Traffic(down=[(10.0, 700.0)])
    desk = desk_with(tmp_path, traffic)

    async def work() -> None:
        asking = asyncio.ensure_future(ask_many(desk, 400))
        await asyncio.sleep(200)
        assert desk.endpoints["m"].limiter.held
        with ThreadPoolExecutor(1) as views:
            (line,) = views.submit(desk.down).result()  # the live view draws in a thread of its own
        assert line.startswith("m: no answer for 1")
        await asking
        assert desk.down() == []

    on_a_virtual_clock(desk, work)
    probes = [at for at in traffic.at if 100 < at < 700]
    assert [round(b - a) for a, b in itertools.pairwise(probes)] == [30] * (len(probes) - 1)
    assert len(probes) >= 18


def test_an_outage_that_does_not_end_stops_the_run_and_fails_no_call(tmp_path: Path) -> None:
    desk = desk_with(tmp_path, Traffic(down=[(10.0, HOUR)]), RetryPolicy(outage=600.0))

    async def work() -> None:
        done = await ask_many(desk, 400)
        assert 600 <= now() < 700
        lost = [d for d in done if isinstance(d, BaseException)]
        assert lost
        assert all(isinstance(d, EndpointDown) for d in lost)
        assert "failed every call for 10 min, most recently with: connection refused" in str(lost[0])
        assert [s.failed for s in desk.ledger.spending()] == [0]

    on_a_virtual_clock(desk, work)


def test_hangs_in_an_outage_do_not_use_up_a_calls_deadline(tmp_path: Path) -> None:
    class Hanging(Traffic):
        async def complete(self, call: Call) -> Reply:
            if 10 < now() < 700:
                await asyncio.sleep(120)
                raise Transient("no answer within 120 s", maybe_billed=True)
            return await super().complete(call)

    desk = desk_with(tmp_path, Hanging(), RetryPolicy(deadline=300.0, outage=HOUR))

    async def work() -> None:
        assert all(isinstance(d, Reply) for d in await ask_many(desk, 300))

    on_a_virtual_clock(desk, work)


class Poisoned(Traffic):
    """Fails whatever call says so, always, at its full latency."""

    calls: list[Call]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.calls = []

    async def complete(self, call: Call) -> Reply:
        self.calls.append(call)
        reply = await super().complete(call)
        if text_of(call) == "poison":
            raise Transient("HTTP 500")
        return reply


@pytest.mark.slow
def test_a_call_that_fails_while_others_succeed_is_given_up(tmp_path: Path) -> None:
    traffic = Poisoned()
    desk = desk_with(tmp_path, traffic)

    async def work() -> None:
        others = asyncio.ensure_future(ask_many(desk, 2000))
        with pytest.raises(Transient):
            await desk.ask(a_call("poison"))
        assert now() < 200
        desk.stop()
        await others

    on_a_virtual_clock(desk, work)


def test_a_lone_call_that_keeps_failing_is_given_up_but_a_mentors_waits(tmp_path: Path) -> None:
    desk = desk_with(tmp_path, Poisoned())

    async def work() -> None:
        await desk.ask(a_call("good"))
        with pytest.raises(Transient):
            await desk.ask(a_call("poison"))
        assert now() < 120  # nobody else is there to compare with, so its attempts count
        began = now()
        with pytest.raises(EndpointDown, match="'m' failed every call"):
            await desk.ask(a_call("poison", role="mentor"))
        assert now() - began >= RetryPolicy().outage - 120

    on_a_virtual_clock(desk, work)


@pytest.mark.slow
def test_a_mentors_call_has_twice_the_attempts(tmp_path: Path) -> None:
    traffic = Poisoned()
    desk = desk_with(tmp_path, traffic, replace(RetryPolicy(), attempts=3, longest_wait=1.0))

    async def work() -> None:
        others = asyncio.ensure_future(ask_many(desk, 2000))
        await asyncio.sleep(5)
        expected: dict[Role, int] = {"intern": 3, "mentor": 6}
        for role, attempts in expected.items():
            call = a_call("poison", role=role)
            with pytest.raises(Transient):
                await desk.ask(call)
            assert sum(a.messages[0].text == "poison" and a.role == role for a in traffic.calls) in {attempts, attempts + 1}
        desk.stop()
        await others

    on_a_virtual_clock(desk, work)
