"""The budget is never overshot, whatever an endpoint charges, and whoever is killed meanwhile."""

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chiron.client.attempts import Budget, Reservation, RetryPolicy
from chiron.client.call import Call, Reply, Usage
from chiron.client.client import ModelClient
from chiron.client.config import Price
from chiron.client.failures import BudgetSpent, CallerFault, RateLimited, RunStopped, Transient
from chiron.client.ledger import Ledger
from chiron.errors import InputError
from tests.support.calls import PRICE, Scripted, a_call, echo, endpoint_of, run
from tests.support.waiting import PATIENCE


def test_a_reply_dearer_than_its_bound_raises_the_bound(tmp_path: Path) -> None:
    provider = Scripted(lambda *_: Reply("x", usage=Usage(1, 128)))
    desk = ModelClient({"m": endpoint_of(provider, price=PRICE)}, Ledger.open(tmp_path / "l.sqlite"), Budget(300.0))

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
    desk = ModelClient({"m": endpoint_of(provider, price=PRICE)}, Ledger.open(tmp_path / "l.sqlite"), Budget(10_000.0))

    async def work() -> None:
        await asyncio.gather(*(desk.ask(a_call(str(n))) for n in range(8)))
        assert desk.endpoints["m"].cost_overrun == pytest.approx(2.0)

    run(desk, work)


def test_who_waits_for_money_waits_for_as_much_as_a_call_is_now_known_to_cost(tmp_path: Path) -> None:
    class Uneven(Scripted):
        async def complete(self, call: Call) -> Reply:
            self.asked.append(call)
            await (due if call.messages[0].text == "dear" else surprised).wait()
            return Reply("x", usage=Usage(1, 128 if call.messages[0].text in {"dear", "last"} else 1))

    due, surprised = asyncio.Event(), asyncio.Event()
    provider = Uneven(echo)
    desk = ModelClient({"m": endpoint_of(provider, price=PRICE)}, Ledger.open(tmp_path / "l.sqlite"), Budget(250.0))

    async def work() -> None:
        dear, *cheap, last = (asyncio.create_task(desk.ask(a_call(text))) for text in ("dear", "cheap", "cheap too", "last"))
        for _ in range(20):
            await asyncio.sleep(0)
        due.set()
        await dear  # 192 of 250 were set aside, so the last waits for 64
        surprised.set()
        await asyncio.gather(*cheap)
        with pytest.raises(BudgetSpent):  # 130 are spent: 64 would fit, but it may cost 128
            await last
        assert desk.ledger.spent_usd() == pytest.approx(130.0)

    run(desk, work)
    assert len(provider.asked) == 3


def test_a_surprise_is_known_to_the_processes_after_it(tmp_path: Path) -> None:
    def fresh(**changes: Any) -> ModelClient:
        endpoint = replace(endpoint_of(Scripted(lambda *_: Reply("x", usage=Usage(1, 128))), price=PRICE), **changes)
        ledger = Ledger.open(tmp_path / "l.sqlite")
        return ModelClient({"m": endpoint}, ledger, Budget(250.0, spent=ledger.spent_usd()))

    async def dear() -> None:
        await desk.ask(a_call("1"))

    desk = fresh()
    assert not desk.notes
    run(desk, dear)

    async def refused() -> None:
        assert "image_tokens" in desk.notes["m"]
        with pytest.raises(BudgetSpent):  # 128 are spent: the 64 that it was bound by would fit
            await desk.ask(a_call("2"))

    desk = fresh()
    run(desk, refused)

    async def mended() -> None:
        assert desk.endpoints["m"].max_cost(a_call()) == pytest.approx(64.0)

    desk = fresh(image_tokens=8192)  # its bound is another one now, and has surprised nobody
    run(desk, mended)
    with sqlite3.connect(tmp_path / "l.sqlite") as db:
        db.execute("UPDATE facts SET value = 'much'")
    db.close()
    with pytest.raises(InputError, match="damaged"):
        fresh()


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from chiron.client.attempts import Budget
from chiron.client.config import Price
from chiron.client.client import ModelClient
from chiron.client.ledger import Ledger
from tests.support.calls import Scripted, a_call, endpoint_of

async def main():
    provider = Scripted(lambda *_: None, seconds=60)
    price = Price(input=0.0, output=1_000_000.0)
    desk = ModelClient({"m": endpoint_of(provider, price=price)}, Ledger.open(Path(sys.argv[1])), Budget(1000.0))
    tasks = [asyncio.create_task(desk.ask(a_call(str(n)))) for n in range(3)]
    while len(provider.asked) < 3:
        await asyncio.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


@pytest.mark.slow
def test_calls_under_way_in_a_killed_process_count_against_the_budget(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite"
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(path)], check=False, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    assert killed.returncode == -signal.SIGKILL
    for budget, answered in ((200.0, False), (256.0, True)):
        ledger = Ledger.open(path)
        assert ledger.spent_usd() == ledger.possibly_spent_usd() == pytest.approx(192.0)
        desk = ModelClient({"m": endpoint_of(Scripted(echo), price=PRICE)}, ledger, Budget(budget, spent=ledger.spent_usd()))
        assert "$192.0000" in desk.notes["lost"]
        assert "3 calls" in desk.notes["lost"]

        async def work(desk: ModelClient = desk, answered: bool = answered) -> None:
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
    desk = ModelClient({"m": endpoint_of(Scripted(moody), price=PRICE, retry=retry)}, Ledger.open(tmp_path / "l.sqlite"), Budget(1000.0))

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
            await asyncio.wait_for(budget.reserve(0.02), PATIENCE)
        assert budget.reserved == 0

    asyncio.run(main())


def test_stopping_sends_nothing_that_was_waiting_for_the_budget(tmp_path: Path) -> None:
    provider = Scripted(lambda call, _: Reply("ok", usage=Usage(1, 1)), seconds=0.2)
    endpoint = endpoint_of(provider, concurrency=40, price=Price(input=1e6, output=0.0))
    most = endpoint.max_cost(a_call("0"))
    desk = ModelClient({"m": endpoint}, Ledger.open(tmp_path / "l.sqlite"), Budget(2.5 * most))

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
    desk = ModelClient({"m": endpoint_of(Scripted(echo, seconds=5.0), price=PRICE)}, Ledger.open(tmp_path / "l.sqlite"), Budget(100.0))

    async def work() -> None:
        task = asyncio.create_task(desk.ask(a_call()))
        await asyncio.sleep(0.05)
        await desk.close()
        await asyncio.gather(task, return_exceptions=True)
        assert desk.ledger.spent_usd() == pytest.approx(64.0)

    run(desk, work)


def test_what_was_spent_before_counts(tmp_path: Path) -> None:
    desk = ModelClient({"m": endpoint_of(Scripted(echo), price=PRICE)}, Ledger.open(tmp_path / "l.sqlite"), Budget(100.0, spent=50.0))

    async def work() -> None:
        with pytest.raises(BudgetSpent):
            await desk.ask(a_call())

    run(desk, work)


@pytest.mark.parametrize("limit", [63.0, 64.0, 100.0, 200.0, 1000.0])
def test_a_budget_is_never_overshot(tmp_path: Path, limit: float) -> None:
    def dear(call: Call, _: int) -> Reply:
        return Reply("x", usage=Usage(1, 20 if int(call.messages[0].text) % 2 else 64))

    provider = Scripted(dear, seconds=0.002)
    desk = ModelClient({"m": endpoint_of(provider, price=PRICE)}, Ledger.open(tmp_path / "l.sqlite"), Budget(limit))

    async def work() -> None:
        done = await asyncio.gather(*(desk.ask(a_call(str(n))) for n in range(40)), return_exceptions=True)
        spent = desk.ledger.spent_usd()
        assert spent <= limit
        assert desk.budget.spent == pytest.approx(spent)
        refused = [d for d in done if isinstance(d, RunStopped)]
        assert all(isinstance(d, BudgetSpent) for d in refused)
        assert (limit - spent < 64) == bool(refused)  # it stops only when another call really might not fit

    run(desk, work)


def test_a_hang_that_may_be_billed_counts_against_the_budget(tmp_path: Path) -> None:
    def hang(*_: object) -> Reply:
        raise Transient("no answer", maybe_billed=True)

    desk = ModelClient({"m": endpoint_of(Scripted(hang), price=PRICE)}, Ledger.open(tmp_path / "l.sqlite"), Budget(150.0))

    async def work() -> None:
        with pytest.raises(BudgetSpent):
            await desk.ask(a_call())
        assert desk.ledger.spent_usd() == pytest.approx(128.0)  # two attempts of 64; a third could overshoot

    run(desk, work)
