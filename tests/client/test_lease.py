"""Several processes share one budget: it is never overshot, no process takes all of it, and what a lost one may have spent is counted."""

import asyncio
import random
from pathlib import Path

import pytest

from chiron.client.attempts import Budget
from chiron.client.failures import BudgetSpent, UserStopped
from chiron.client.lease import Broker, LeasedBudget, open_leases


class InProcess:
    """A holder's connection to a broker in the same process."""

    def __init__(self, broker: Broker, holder: str) -> None:
        self._broker, self._holder = broker, holder

    async def lease(self, amount: float) -> float:
        await asyncio.sleep(0)
        return self._broker.lease(self._holder, amount)

    async def give_back(self, spent: float) -> bool:
        await asyncio.sleep(0)
        return self._broker.give_back(self._holder, spent)


def a_budget(broker: Broker, holder: str, total: float, spent: float = 0.0) -> LeasedBudget:
    broker.open(holder, spent)
    return LeasedBudget(InProcess(broker, holder), total, spent=spent)


async def spend_all(budget: Budget, dice: random.Random, most: float) -> int:
    """Reserve and settle calls, eight at once, until the budget is spent. Returns the number of calls."""
    calls = 0

    async def one() -> None:
        nonlocal calls
        while True:
            try:
                reservation = await budget.reserve(most)
            except BudgetSpent:
                return
            calls += 1
            await asyncio.sleep(0)
            await reservation.settle(most * dice.random())

    await asyncio.gather(*(one() for _ in range(8)))
    return calls


def test_four_workers_spend_one_budget_to_its_end_and_never_more(tmp_path: Path) -> None:
    broker = Broker(10.0, 1.0, 4, tmp_path / "leases.sqlite")
    budgets = [a_budget(broker, str(n), 10.0) for n in range(4)]

    async def main() -> list[int]:
        return await asyncio.gather(*(spend_all(budget, random.Random(n), 0.05) for n, budget in enumerate(budgets)))

    calls = asyncio.run(main())
    spent = 1.0 + sum(budget.spent for budget in budgets)
    assert 10.0 - 0.05 <= spent <= 10.0 + 1e-9
    assert min(calls) > sum(calls) / 8  # none is starved


def test_a_lease_leaves_money_for_the_others_and_is_recorded_before_it_is_used(tmp_path: Path) -> None:
    broker = Broker(8.0, 0.0, 4, tmp_path / "leases.sqlite")
    broker.open("a", 0.0)
    granted = broker.lease("a", 0.5)
    assert 0.5 <= granted <= 1.0
    assert open_leases(tmp_path / "leases.sqlite") == {"a": granted}
    broker.close("a", 0.25)
    assert open_leases(tmp_path / "leases.sqlite") == {}
    assert broker.lease("a", 0.1) == 0.0  # a lost worker that is still running gets nothing


def test_what_a_lost_worker_was_granted_stays_counted(tmp_path: Path) -> None:
    broker = Broker(1.0, 0.0, 1, tmp_path / "leases.sqlite")
    broker.open("lost", 0.0)
    while broker.lease("lost", 0.1):
        pass
    granted = broker.granted("lost")
    copied = 0.25
    broker.open("next", copied)
    broker.close("lost", granted - copied)
    budget = LeasedBudget(InProcess(broker, "next"), 1.0, spent=copied)
    asyncio.run(spend_all(budget, random.Random(0), 0.01))
    assert granted - copied + budget.spent <= 1.0 + 1e-9


def test_a_worker_that_waits_for_money_ends_when_the_run_stops(tmp_path: Path) -> None:
    broker = Broker(1.0, 0.0, 2, tmp_path / "leases.sqlite")
    other, waiting = a_budget(broker, "other", 1.0), a_budget(broker, "waiting", 1.0)

    async def main() -> None:
        await other.reserve(0.9)
        task = asyncio.create_task(waiting.reserve(0.5))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not task.done()
        waiting.closed = UserStopped("stopped")
        with pytest.raises(UserStopped):
            await task

    asyncio.run(main())


def test_money_that_one_worker_does_not_need_lets_another_continue(tmp_path: Path) -> None:
    broker = Broker(1.0, 0.0, 2, tmp_path / "leases.sqlite")
    first, second = a_budget(broker, "first", 1.0), a_budget(broker, "second", 1.0)

    async def main() -> None:
        large = await first.reserve(0.8)
        waiting = asyncio.create_task(second.reserve(0.6))
        await asyncio.sleep(0)
        await large.settle(0.1)
        with pytest.raises(BudgetSpent):
            await first.reserve(0.95)
        await (await waiting).settle(0.6)

    asyncio.run(main())
    assert first.spent + second.spent == pytest.approx(0.7)
