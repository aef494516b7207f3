"""The desk pays for nothing twice, waits its turn, and knows when to stop."""

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from chiron.errors import DiskError
from chiron.models.budget import Budget, Reservation
from chiron.models.call import Call, Reply, Usage
from chiron.models.config import Price
from chiron.models.desk import DOWN_AFTER, Desk
from chiron.models.failures import BudgetSpent, CallerFault, EndpointDown, Halted, Misconfigured, RateLimited, Stopping, Transient
from chiron.models.ledger import Ledger
from chiron.models.limits import Limiter
from chiron.models.retry import RetryPolicy
from tests.support.calls import QUICK, Scripted, a_call, desk_over, endpoint_of


def run(desk: Desk, work: Callable[[], Awaitable[object]]) -> None:
    async def main() -> None:
        try:
            await work()
        finally:
            await desk.close()
            desk.ledger.close()

    asyncio.run(main())


def echo(call: Call, _: int) -> Reply:
    return Reply(call.messages[0].text)


def test_what_the_ledger_holds_is_not_asked_again(tmp_path: Path) -> None:
    provider = Scripted(echo)
    for _ in range(2):
        desk = desk_over(tmp_path, m=endpoint_of(provider))

        async def work(desk: Desk = desk) -> None:
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


def test_a_deadline_bounds_a_call_for_good(tmp_path: Path) -> None:
    def busy(*_: object) -> Reply:
        raise RateLimited("slow down", retry_after=2.0)

    desk = desk_over(tmp_path, m=endpoint_of(Scripted(busy)))

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
        for n in range(DOWN_AFTER):
            with pytest.raises(Transient):
                await desk.ask(a_call(str(n)))
        with pytest.raises(EndpointDown, match="'m' failed"):
            await desk.ask(a_call("one more"))

    run(desk, work)
    assert len(provider.asked) == DOWN_AFTER * QUICK.attempts


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
        assert isinstance(desk.halted, Misconfigured)
        assert str(desk.halted) == "model 'n' refuses every call: HTTP 401: check api_key_env"

    run(desk, work)


def test_an_endpoint_that_never_answers_but_refuses_stops_the_run(tmp_path: Path) -> None:
    def refuse(*_: object) -> Reply:
        raise CallerFault("HTTP 400")

    desk = desk_over(tmp_path, m=endpoint_of(Scripted(refuse)))

    async def work() -> None:
        for n in range(DOWN_AFTER):
            with pytest.raises(CallerFault):
                await desk.ask(a_call(str(n)))
        assert isinstance(desk.halted, EndpointDown)

    run(desk, work)


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


def test_a_reply_dearer_than_its_bound_raises_the_bound(tmp_path: Path) -> None:
    provider = Scripted(lambda *_: Reply("x", usage=Usage(1, 128)))
    desk = Desk({"m": endpoint_of(provider, price=PRICE)}, Ledger.open(tmp_path / "l.sqlite"), Budget(300.0))

    async def work() -> None:
        await desk.ask(a_call("1"))
        await desk.ask(a_call("2"))
        with pytest.raises(BudgetSpent):
            await desk.ask(a_call("3"))
        assert desk.ledger.spent_usd() == pytest.approx(256.0)
        assert "image_tokens" in desk.notes["m"]

    run(desk, work)


def test_replies_in_flight_together_raise_the_bound_once(tmp_path: Path) -> None:
    provider = Scripted(lambda *_: Reply("x", usage=Usage(1, 128)), seconds=0.01)
    desk = Desk({"m": endpoint_of(provider, price=PRICE)}, Ledger.open(tmp_path / "l.sqlite"), Budget(10_000.0))

    async def work() -> None:
        await asyncio.gather(*(desk.ask(a_call(str(n))) for n in range(8)))
        assert desk.endpoints["m"].surprise == pytest.approx(2.0)

    run(desk, work)


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from chiron.models.budget import Budget
from chiron.models.config import Price
from chiron.models.desk import Desk
from chiron.models.ledger import Ledger
from tests.support.calls import Scripted, a_call, endpoint_of

async def main():
    provider = Scripted(lambda *_: None, seconds=60)
    price = Price(input=0.0, output=1_000_000.0)
    desk = Desk({"m": endpoint_of(provider, price=price)}, Ledger.open(Path(sys.argv[1])), Budget(1000.0))
    tasks = [asyncio.create_task(desk.ask(a_call(str(n)))) for n in range(3)]
    while len(provider.asked) < 3:
        await asyncio.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


def test_calls_under_way_in_a_killed_process_count_against_the_budget(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite"
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(path)], check=False, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    assert killed.returncode == -signal.SIGKILL
    for budget, answered in ((200.0, False), (256.0, True)):
        ledger = Ledger.open(path)
        assert ledger.spent_usd() == ledger.possibly_spent_usd() == pytest.approx(192.0)
        desk = Desk({"m": endpoint_of(Scripted(echo), price=PRICE)}, ledger, Budget(budget, spent=ledger.spent_usd()))
        assert "$192.0000" in desk.notes["lost"]
        assert "3 calls" in desk.notes["lost"]

        async def work(desk: Desk = desk, answered: bool = answered) -> None:
            if answered:
                await desk.ask(a_call("0"))
                assert desk.ledger.spent_usd() == pytest.approx(256.0)  # paid again: what the dead process was sent nobody knows
            else:
                with pytest.raises(BudgetSpent):
                    await desk.ask(a_call("0"))

        run(desk, work)


def test_what_an_attempt_may_cost_is_on_record_while_it_is_under_way_and_no_longer(tmp_path: Path) -> None:
    seen = []

    def moody(call: Call, attempt: int) -> Reply:
        seen.append(desk.ledger.possibly_spent_usd())
        match call.messages[0].text:
            case "busy" if attempt == 1:
                raise RateLimited("slow down", retry_after=0.001)
            case "broken" if attempt == 3:
                raise Transient("refused")
            case "refused":
                raise CallerFault("HTTP 400")
            case "hang":
                raise Transient("no answer", maybe_billed=True)
            case "odd":
                raise ZeroDivisionError
        return Reply("x", usage=Usage(1, 10))

    retry = RetryPolicy(attempts=2, first_wait=0.001)
    desk = Desk({"m": endpoint_of(Scripted(moody), price=PRICE, retry=retry)}, Ledger.open(tmp_path / "l.sqlite"), Budget(1000.0))

    async def work() -> None:
        await desk.ask(a_call("busy"))
        await desk.ask(a_call("broken"))
        with pytest.raises(CallerFault):
            await desk.ask(a_call("refused"))
        assert seen == [64.0] * 5
        assert (desk.ledger.spent_usd(), desk.ledger.possibly_spent_usd()) == (20.0, 0.0)
        with pytest.raises(Transient):
            await desk.ask(a_call("hang"))
        with pytest.raises(Transient):
            await desk.ask(a_call("odd"))
        assert (desk.ledger.spent_usd(), desk.ledger.possibly_spent_usd()) == (276.0, 256.0)
        assert desk.budget.spent == pytest.approx(276.0)

    run(desk, work)
    with Ledger.open(tmp_path / "l.sqlite") as ledger:
        ledger.take_over_attempts()
        assert ledger.lost_attempts() == (0, 0.0)


def test_a_wait_that_no_call_can_sit_out_stops_the_run_and_fails_no_call(tmp_path: Path) -> None:
    def busy(*_: object) -> Reply:
        raise RateLimited("slow down", retry_after=7200.0, public="m: HTTP 429")

    provider = Scripted(busy)
    desk = Desk({"m": endpoint_of(provider, price=PRICE)}, Ledger.open(tmp_path / "l.sqlite"), Budget(100.0))

    async def work() -> None:
        for _ in range(2):
            with pytest.raises(EndpointDown, match=r"'m' takes no call for another 7200 s.*HTTP 429.*again"):
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
            "m at temperature 1.2: 50% of 20 calls failed, and are missing from the scores (the last so: m: HTTP 500)"
        ]

    run(desk, work)


def test_what_is_left_of_many_sums_is_no_call_in_flight() -> None:
    async def main() -> None:
        budget, dice = Budget(1e9), random.Random(2)
        live: list[Reservation] = []
        for _ in range(20_000):
            if live and dice.random() < 0.5:
                await live.pop(dice.randrange(len(live))).settle(0.0)
            else:
                live.append(await budget.reserve(dice.uniform(1, 100)))
        for reservation in live:
            await reservation.settle(0.0)
        budget.limit = 0.01
        with pytest.raises(BudgetSpent):
            await asyncio.wait_for(budget.reserve(0.02), 5)
        assert budget.reserved == 0

    asyncio.run(main())


def test_stopping_sends_nothing_that_was_waiting_for_the_budget(tmp_path: Path) -> None:
    provider = Scripted(lambda call, _: Reply("ok", usage=Usage(1, 1)), seconds=0.2)
    endpoint = endpoint_of(provider, concurrency=40, price=Price(input=1e6, output=0.0))
    most = endpoint.most_it_can_cost(a_call("0"))
    desk = Desk({"m": endpoint}, Ledger.open(tmp_path / "l.sqlite"), Budget(2.5 * most))

    async def main() -> None:
        calls = [asyncio.create_task(desk.ask(a_call(str(n)))) for n in range(10)]
        await asyncio.sleep(0.1)
        assert len(provider.asked) == 2
        desk.stop()
        await asyncio.gather(*calls, return_exceptions=True)
        await desk.drain()
        await desk.close()

    asyncio.run(main())
    assert len(provider.asked) == 2


def test_a_call_dropped_while_under_way_counts_against_the_budget(tmp_path: Path) -> None:
    desk = Desk({"m": endpoint_of(Scripted(echo, seconds=5.0), price=PRICE)}, Ledger.open(tmp_path / "l.sqlite"), Budget(100.0))

    async def work() -> None:
        task = asyncio.create_task(desk.ask(a_call()))
        await asyncio.sleep(0.05)
        await desk.close()
        await asyncio.gather(task, return_exceptions=True)
        assert desk.ledger.spent_usd() == pytest.approx(64.0)

    run(desk, work)


def test_what_was_spent_before_counts(tmp_path: Path) -> None:
    desk = Desk({"m": endpoint_of(Scripted(echo), price=PRICE)}, Ledger.open(tmp_path / "l.sqlite"), Budget(100.0, spent=50.0))

    async def work() -> None:
        with pytest.raises(BudgetSpent):
            await desk.ask(a_call())

    run(desk, work)


def test_stopping_keeps_what_is_under_way(tmp_path: Path) -> None:
    desk = desk_over(tmp_path, m=endpoint_of(Scripted(echo, seconds=0.05), concurrency=2))

    async def work() -> None:
        tasks = [asyncio.create_task(desk.ask(a_call(str(n)))) for n in range(6)]
        await asyncio.sleep(0.01)
        desk.stop()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert sum(isinstance(d, Reply) for d in done) == 2
        assert sum(isinstance(d, Stopping) for d in done) == 4
        assert sum(s.calls for s in desk.ledger.spending()) == 2

    run(desk, work)


PRICE = Price(input=0.0, output=1_000_000.0)
"""A dollar a token that comes out: a call of 64 tokens may cost 64 dollars."""


@pytest.mark.parametrize("limit", [63.0, 64.0, 100.0, 200.0, 1000.0])
def test_a_budget_is_never_overshot(tmp_path: Path, limit: float) -> None:
    def dear(call: Call, _: int) -> Reply:
        return Reply("x", usage=Usage(1, 20 if int(call.messages[0].text) % 2 else 64))

    provider = Scripted(dear, seconds=0.002)
    desk = Desk({"m": endpoint_of(provider, price=PRICE)}, Ledger.open(tmp_path / "l.sqlite"), Budget(limit))

    async def work() -> None:
        done = await asyncio.gather(*(desk.ask(a_call(str(n))) for n in range(40)), return_exceptions=True)
        spent = desk.ledger.spent_usd()
        assert spent <= limit
        assert desk.budget.spent == pytest.approx(spent)
        refused = [d for d in done if isinstance(d, Halted)]
        assert all(isinstance(d, BudgetSpent) for d in refused)
        assert (limit - spent < 64) == bool(refused)  # it stops only when another call really might not fit

    run(desk, work)


def test_a_hang_that_may_be_billed_counts_against_the_budget(tmp_path: Path) -> None:
    def hang(*_: object) -> Reply:
        raise Transient("no answer", maybe_billed=True)

    desk = Desk({"m": endpoint_of(Scripted(hang), price=PRICE)}, Ledger.open(tmp_path / "l.sqlite"), Budget(150.0))

    async def work() -> None:
        with pytest.raises(BudgetSpent):
            await desk.ask(a_call())
        assert desk.ledger.spent_usd() == pytest.approx(128.0)  # two attempts of 64; a third could overshoot

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
