"""The desk pays for nothing twice, waits its turn, and knows when to stop."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from chiron.client.budget import Budget
from chiron.client.call import Call, Reply
from chiron.client.client import DOWN_AFTER, ModelClient
from chiron.client.failures import CallerFault, ConfigurationError, EndpointDown, RateLimited, Transient, UserStopped
from chiron.client.ledger import Ledger
from chiron.client.limiter import Limiter
from chiron.client.retry import RetryPolicy
from chiron.errors import DiskError
from tests.support.calls import PRICE, QUICK, Scripted, a_call, desk_over, echo, endpoint_of, run


def test_what_the_ledger_holds_is_not_asked_again(tmp_path: Path) -> None:
    provider = Scripted(echo)
    for _ in range(2):
        desk = desk_over(tmp_path, m=endpoint_of(provider))

        async def work(desk: ModelClient = desk) -> None:
            assert (await desk.ask(a_call())).text == "hello"

        run(desk, work)
    assert len(provider.asked) == 1


def test_the_same_question_at_the_same_time_is_asked_once(tmp_path: Path) -> None:
    provider = Scripted(echo, seconds=0.02)
    desk = desk_over(tmp_path, m=endpoint_of(provider))

    async def work() -> None:
        replies = await asyncio.gather(*(desk.ask(a_call(role="judge")) for _ in range(20)))
        assert {r.text for r in replies} == {"hello"}

    run(desk, work)
    assert len(provider.asked) == 1


def test_a_case_that_goes_away_takes_no_paid_call_with_it(tmp_path: Path) -> None:
    provider = Scripted(echo, seconds=0.05)
    desk = desk_over(tmp_path, m=endpoint_of(provider))

    async def work() -> None:
        task = asyncio.create_task(desk.ask(a_call()))
        await asyncio.sleep(0.01)
        task.cancel()
        await desk.drain()
        assert desk.ledger.get(a_call().key) is not None

    run(desk, work)


def test_transient_failures_are_tried_again_and_then_given_up(tmp_path: Path) -> None:
    def flaky(call: Call, attempt: int) -> Reply:
        if call.messages[0].text == "never" or attempt < 3:
            raise Transient("oh")
        return Reply("at last")

    provider = Scripted(flaky)
    desk = desk_over(tmp_path, m=endpoint_of(provider))

    async def work() -> None:
        reply = await desk.ask(a_call())
        assert (reply.text, reply.attempts) == ("at last", 3)
        before = len(provider.asked)
        with pytest.raises(Transient):
            await desk.ask(a_call("never"))
        assert len(provider.asked) - before == QUICK.attempts
        (spent,) = desk.ledger.spending()
        assert (spent.calls, spent.retries, spent.failed) == (1, 2, 1)

    run(desk, work)


def test_the_callers_own_fault_is_asked_once(tmp_path: Path) -> None:
    def refuse(*_: object) -> Reply:
        raise CallerFault("too long")

    provider = Scripted(refuse)
    desk = desk_over(tmp_path, m=endpoint_of(provider))

    async def work() -> None:
        with pytest.raises(CallerFault):
            await desk.ask(a_call())
        assert desk.halted is None

    run(desk, work)
    assert len(provider.asked) == 1


def test_rate_limits_are_waited_out_and_do_not_count_as_failures(tmp_path: Path) -> None:
    def busy(_: Call, attempt: int) -> Reply:
        if attempt <= 10:
            raise RateLimited("slow down", retry_after=0.01)
        return Reply("ok")

    endpoint = endpoint_of(Scripted(busy), concurrency=8)
    desk = desk_over(tmp_path, m=endpoint)

    async def work() -> None:
        assert (await desk.ask(a_call())).text == "ok"
        assert endpoint.limiter.allowed < 8

    run(desk, work)


@pytest.mark.slow
def test_a_deadline_bounds_a_call_for_good(tmp_path: Path) -> None:
    def busy(*_: object) -> Reply:
        raise RateLimited("slow down", retry_after=0.2)

    desk = desk_over(tmp_path, m=endpoint_of(Scripted(busy), retry=replace(QUICK, attempts=1000, deadline=0.5)))

    async def work() -> None:
        began = asyncio.get_running_loop().time()
        with pytest.raises(RateLimited):
            await desk.ask(a_call())
        assert asyncio.get_running_loop().time() - began < 10

    run(desk, work)


def test_a_dead_endpoint_stops_the_run(tmp_path: Path) -> None:
    def dead(*_: object) -> Reply:
        raise Transient("refused")

    provider = Scripted(dead)
    desk = desk_over(tmp_path, m=endpoint_of(provider))

    async def work() -> None:
        done = await asyncio.gather(*(desk.ask(a_call(str(n))) for n in range(30)), return_exceptions=True)
        assert all(isinstance(d, EndpointDown) for d in done)
        with pytest.raises(EndpointDown, match=r"'m' has not answered yet.*refused.*again"):
            await desk.ask(a_call("one more"))
        assert desk.ledger.spending() == []  # no call was given up

    run(desk, work)
    assert len(provider.asked) <= 30 * QUICK.attempts


def test_a_wrong_key_stops_the_run_at_once_but_not_after_good_answers(tmp_path: Path) -> None:
    def wrong(call: Call, _: int) -> Reply:
        if call.messages[0].text == "good":
            return Reply("ok")
        raise CallerFault("HTTP 401: patient X", public="HTTP 401: check api_key_env", misconfigured=True)

    desk = desk_over(tmp_path, m=endpoint_of(Scripted(wrong)), n=endpoint_of(Scripted(wrong)))

    async def work() -> None:
        await desk.ask(a_call("good"))
        with pytest.raises(CallerFault):
            await desk.ask(a_call())
        assert desk.halted is None
        with pytest.raises(CallerFault):
            await desk.ask(a_call(model="n"))
        assert isinstance(desk.halted, ConfigurationError)
        assert str(desk.halted) == "model 'n' rejects every call: HTTP 401: check api_key_env"

    run(desk, work)


def test_an_endpoint_that_never_answers_but_refuses_stops_the_run(tmp_path: Path) -> None:
    def refuse(*_: object) -> Reply:
        raise CallerFault("HTTP 400")

    desk = desk_over(tmp_path, m=endpoint_of(Scripted(refuse)))

    async def work() -> None:
        for n in range(DOWN_AFTER):
            with pytest.raises(CallerFault):
                await desk.ask(a_call(str(n)))
        assert isinstance(desk.halted, ConfigurationError)
        assert "HTTP 400" in str(desk.halted)

    run(desk, work)


@pytest.mark.slow
def test_a_rate_limit_that_names_no_time_is_waited_for_longer_and_longer(tmp_path: Path) -> None:
    def busy(*_: object) -> Reply:
        raise RateLimited("slow down", retry_after=0.0)

    provider = Scripted(busy)
    retry = RetryPolicy(attempts=4, first_wait=0.05, longest_wait=0.4, deadline=1.0)
    desk = desk_over(tmp_path, m=endpoint_of(provider, retry=retry))

    async def work() -> None:
        with pytest.raises(RateLimited):
            await desk.ask(a_call())

    run(desk, work)
    assert 3 <= len(provider.asked) < 20


@pytest.mark.slow
def test_standing_in_the_queue_is_no_part_of_the_deadline(tmp_path: Path) -> None:
    def once(call: Call, _: int) -> Reply:
        if call.messages[0].text == "5" and sum(c.key == call.key for c in provider.asked) == 1:
            raise Transient("oh")
        return Reply("ok")

    provider = Scripted(once, seconds=0.1)
    desk = desk_over(tmp_path, m=endpoint_of(provider, concurrency=1, retry=RetryPolicy(first_wait=0.01, deadline=0.4)))

    async def work() -> None:
        replies = await asyncio.gather(*(desk.ask(a_call(str(n))) for n in range(6)))
        assert len(replies) == 6

    run(desk, work)


def test_stopping_does_not_wait_for_the_queue(tmp_path: Path) -> None:
    endpoint = endpoint_of(Scripted(echo))
    endpoint.limiter = Limiter(8, requests_per_minute=60)
    desk = desk_over(tmp_path, m=endpoint)

    async def work() -> None:
        tasks = [asyncio.create_task(desk.ask(a_call(str(n)))) for n in range(50)]
        await asyncio.sleep(0.05)
        began = asyncio.get_running_loop().time()
        desk.stop()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert asyncio.get_running_loop().time() - began < 2

    run(desk, work)


def test_whatever_a_provider_raises_fails_its_call_alone(tmp_path: Path) -> None:
    def odd(*_: object) -> Reply:
        raise ZeroDivisionError

    desk = desk_over(tmp_path, m=endpoint_of(Scripted(odd)))

    async def work() -> None:
        with pytest.raises(Transient, match="ZeroDivisionError"):
            await desk.ask(a_call())

    run(desk, work)


def test_the_oldest_case_goes_first_and_success_opens_the_door_again(tmp_path: Path) -> None:
    provider = Scripted(echo, seconds=0.001)
    endpoint = endpoint_of(provider, concurrency=4)
    endpoint.limiter.allowed = 1.0
    desk = desk_over(tmp_path, m=endpoint)

    async def work() -> None:
        await asyncio.gather(*(desk.ask(a_call(str(rank)), rank) for rank in (9, 5, 7, 1)))
        assert [c.messages[0].text for c in provider.asked] == ["9", "1", "5", "7"]
        for n in range(30):
            await desk.ask(a_call(f"more {n}"))
        assert endpoint.limiter.allowed == 4

    run(desk, work)


def test_a_wait_that_no_call_can_sit_out_stops_the_run_and_fails_no_call(tmp_path: Path) -> None:
    def busy(*_: object) -> Reply:
        raise RateLimited("slow down", retry_after=7200.0, public="m: HTTP 429")

    provider = Scripted(busy)
    desk = ModelClient({"m": endpoint_of(provider, price=PRICE)}, Ledger.open(tmp_path / "l.sqlite"), Budget(100.0))

    async def work() -> None:
        for _ in range(2):
            with pytest.raises(EndpointDown, match=r"'m' accepts no call for another 7200 s.*HTTP 429.*again"):
                await desk.ask(a_call())
        assert desk.ledger.spending() == []
        assert desk.budget.spent == 0

    run(desk, work)
    assert len(provider.asked) == 1


def test_a_share_of_calls_that_keeps_failing_is_told(tmp_path: Path) -> None:
    def hot(call: Call, _: int) -> Reply:
        if call.temperature > 1 and int(call.messages[0].text) % 2:
            raise CallerFault("patient X", public="m: HTTP 500")
        return Reply("x")

    desk = desk_over(tmp_path, m=endpoint_of(Scripted(hot)))

    async def work() -> None:
        for n in range(20):
            calls = [replace(a_call(str(n)), temperature=t) for t in (0.2, 1.2)]
            await asyncio.gather(*map(desk.ask, calls), return_exceptions=True)
            if n == 4:
                assert not desk.notes  # two of five: chance, perhaps
        assert list(desk.notes.values()) == [
            "m at temperature 1.2: 50% of 20 calls failed and are missing from the scores (most recent reason: m: HTTP 500)"
        ]

    run(desk, work)


def test_stopping_keeps_what_is_under_way(tmp_path: Path) -> None:
    desk = desk_over(tmp_path, m=endpoint_of(Scripted(echo, seconds=0.05), concurrency=2))

    async def work() -> None:
        tasks = [asyncio.create_task(desk.ask(a_call(str(n)))) for n in range(6)]
        await asyncio.sleep(0.01)
        desk.stop()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert sum(isinstance(d, Reply) for d in done) == 2
        assert sum(isinstance(d, UserStopped) for d in done) == 4
        assert sum(s.calls for s in desk.ledger.spending()) == 2

    run(desk, work)


def test_a_full_disk_halts_and_says_so(tmp_path: Path) -> None:
    desk = desk_over(tmp_path, m=endpoint_of(Scripted(lambda *_: Reply("x" * 100_000))))
    pages = desk.ledger._db.execute("PRAGMA page_count").fetchone()[0]
    desk.ledger._db.execute(f"PRAGMA max_page_count={pages + 2}")

    async def work() -> None:
        with pytest.raises(DiskError):
            await desk.ask(a_call())
        with pytest.raises(DiskError):
            await desk.ask(a_call("another"))

    run(desk, work)
