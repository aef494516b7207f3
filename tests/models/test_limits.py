"""Who gets through the door, how many at once, and how fast."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chiron.models.limits import Limiter
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


def test_rate_limits_halve_once_a_round_and_success_gives_back() -> None:
    async def main() -> None:
        limiter = Limiter(16)
        async with limiter.slot() as first, limiter.slot() as second:
            limiter.rate_limited(first, None)
            limiter.rate_limited(second, None)  # went out together with the first: the same overload
        assert limiter.allowed == 8
        async with limiter.slot() as third:
            limiter.rate_limited(third, None)
        assert limiter.allowed == 4
        for _ in range(4):
            limiter.succeeded()
        assert limiter.allowed == pytest.approx(5, abs=0.2)
        for _ in range(1000):
            limiter.succeeded()
        assert limiter.allowed == 16

    asyncio.run(main())


def test_it_never_closes_for_good() -> None:
    async def main() -> None:
        limiter = Limiter(4)
        for _ in range(20):
            async with limiter.slot() as epoch:
                limiter.rate_limited(epoch, None)
        assert limiter.allowed == 1

    asyncio.run(main())


def test_it_waits_as_long_as_it_was_told() -> None:
    async def main() -> None:
        limiter, clock = Limiter(4), asyncio.get_running_loop().time
        async with limiter.slot() as epoch:
            limiter.rate_limited(epoch, 0.2)
        began = clock()
        async with limiter.slot():
            assert clock() - began >= 0.19

    asyncio.run(main())


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
