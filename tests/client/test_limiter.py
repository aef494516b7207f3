"""Who gets through the door, how many at once, and how fast."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chiron.client.attempts import RetryPolicy
from chiron.client.client import ModelClient
from chiron.client.ledger import Ledger
from chiron.client.limiter import Limiter
from chiron.client.provider import Endpoint
from tests.support.calls import a_call
from tests.support.clock import run_virtually
from tests.support.traffic import Traffic
from tests.support.waiting import PATIENCE


async def through(limiter: Limiter, rank: int, order: list[int], seconds: float = 0.001) -> None:
    async with limiter.slot(rank):
        order.append(rank)
        await asyncio.sleep(seconds)


def test_never_more_at_once_than_the_ceiling() -> None:
    async def main() -> None:
        limiter, most = Limiter(3), 0

        async def one() -> None:
            nonlocal most
            async with limiter.slot():
                most = max(most, limiter.in_flight)
                await asyncio.sleep(0.002)

        await asyncio.gather(*(one() for _ in range(20)))
        assert most == 3
        assert limiter.in_flight == 0

    asyncio.run(main())


def test_the_lowest_rank_goes_first() -> None:
    async def main() -> None:
        limiter, order = Limiter(1), list[int]()
        await asyncio.gather(*(through(limiter, rank, order) for rank in (5, 3, 9, 1, 3)))
        assert order == [5, 1, 3, 3, 9]  # the first found the door open

    asyncio.run(main())


async def a_round(limiter: Limiter, limited: int, retry_after: float | None = None) -> None:
    """As many calls as are allowed, all at once; the last ``limited`` of them are limited."""
    count = int(limiter.allowed)

    async def one(number: int) -> None:
        async with limiter.slot() as epoch:
            await asyncio.sleep(1)
            if number >= count - limited:
                limiter.rate_limited(epoch, retry_after)

    await asyncio.gather(*(one(n) for n in range(count)))


def test_a_round_decreases_what_is_allowed_in_proportion_to_the_share_that_was_limited() -> None:
    async def main() -> None:
        limiter = Limiter(32)
        await a_round(limiter, 8)
        assert limiter.allowed == pytest.approx(32 * (1 - 8 / 32 / 2))
        await a_round(limiter, 28)
        assert limiter.allowed == pytest.approx(14)
        await a_round(limiter, 0)
        assert limiter.allowed == pytest.approx(14)
        for _ in range(14):
            limiter.succeeded()
        assert 15 <= limiter.allowed <= 16
        for _ in range(1000):
            limiter.succeeded()
        assert limiter.allowed == 32

    run_virtually(main())


def test_calls_sent_before_a_decrease_do_not_decrease_again() -> None:
    async def main() -> None:
        limiter = Limiter(16)
        slots = [limiter.slot() for _ in range(16)]
        epochs = [await slot.__aenter__() for slot in slots]
        for epoch in epochs:
            limiter.rate_limited(epoch, 1.0)
        assert limiter.allowed == 8
        for slot in slots:
            await slot.__aexit__(None, None, None)
        assert limiter.allowed == 8

    run_virtually(main())


def test_it_never_closes_for_good() -> None:
    async def main() -> None:
        limiter = Limiter(4)
        for _ in range(50):
            async with limiter.slot() as epoch:
                limiter.rate_limited(epoch, None)
        assert limiter.allowed == 1

    run_virtually(main())


def test_one_call_that_is_told_to_wait_holds_up_nobody_else() -> None:
    async def main() -> None:
        limiter, clock = Limiter(16), asyncio.get_running_loop().time
        async with limiter.slot() as epoch:
            limiter.rate_limited(epoch, 60.0)
        async with limiter.slot():
            assert clock() == 0

    run_virtually(main())


def test_when_half_a_round_is_told_to_wait_all_calls_wait_and_half_as_many_are_allowed() -> None:
    async def main() -> None:
        limiter, clock = Limiter(16), asyncio.get_running_loop().time
        await a_round(limiter, 8, retry_after=60.0)
        assert limiter.allowed == 8
        async with limiter.slot():
            assert clock() == 61

    run_virtually(main())


CALLS, AT_ONCE = 1500, 32
LATENCY = 1.0
CALM = CALLS / AT_ONCE * LATENCY


def seconds_on(path: Path, traffic: Traffic) -> float:
    """How long the real client takes for the calls on this endpoint; none may be lost."""
    desk = ModelClient({"m": Endpoint(traffic, Limiter(AT_ONCE), RetryPolicy())}, Ledger.open(path / "l.sqlite"))

    async def main() -> float:
        replies = await asyncio.gather(*(desk.ask(a_call(str(n))) for n in range(CALLS)))
        assert len(replies) == CALLS
        took = asyncio.get_running_loop().time()
        await desk.close()
        return took

    try:
        return run_virtually(main())
    finally:
        desk.ledger.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("traffic", "most"),
    [
        # Of what the endpoint itself allows. In brackets: the client before shares were looked at.
        pytest.param({}, 1.05 * CALM, id="calm"),
        pytest.param({"limited": 0.1}, 1.6 * CALM, id="a tenth limited at random (8.7)"),
        pytest.param({"limited": 0.1, "retry_after": 1.0}, 1.6 * CALM, id="a tenth at random with Retry-After (9.9)"),
        pytest.param({"at_once": 8}, 1.2 * CALLS / 8, id="eight at once (1.2)"),
        pytest.param({"at_once": 8, "retry_after": 1.0}, 1.25 * CALLS / 8, id="eight at once with Retry-After (1.3)"),
        pytest.param({"per_minute": 300}, 1.1 * (CALLS / 300 - 1) * 60, id="three hundred a minute"),
    ],
)
def test_the_client_loses_little_on_any_kind_of_limit(tmp_path: Path, traffic: dict[str, Any], most: float) -> None:
    assert seconds_on(tmp_path, Traffic(seconds=LATENCY, **traffic)) <= most


@pytest.mark.slow
def test_requests_a_minute_are_spread_out() -> None:
    async def main() -> None:
        limiter, clock = Limiter(100, requests_per_minute=1200), asyncio.get_running_loop().time
        began, order = clock(), list[int]()
        await asyncio.gather(*(through(limiter, n, order) for n in range(13)))
        assert clock() - began >= 0.5  # 13 requests, 50 ms apart, the first two or three at once

    asyncio.run(main())


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=30), st.integers(1, 4))
def test_cancelled_calls_leave_no_place_taken(calls: list[tuple[int, bool]], ceiling: int) -> None:
    async def main() -> None:
        limiter = Limiter(ceiling)
        tasks = [(asyncio.create_task(through(limiter, rank, [], 0)), cancel) for rank, cancel in calls]
        await asyncio.sleep(0)
        for task, cancel in tasks:
            if cancel:
                task.cancel()
        await asyncio.gather(*(t for t, _ in tasks), return_exceptions=True)
        assert limiter.in_flight == 0
        await asyncio.wait_for(asyncio.gather(*(through(limiter, 9, [], 0) for _ in range(ceiling + 1))), PATIENCE)  # nor one at the door

    asyncio.run(main())
