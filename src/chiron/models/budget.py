"""A budget in USD that is never overshot: before a call is sent, the most it can cost is set aside."""

import asyncio

from chiron.models.failures import BudgetSpent


class Budget:
    """Money of one run. ``limit=None`` counts and never refuses."""

    def __init__(self, limit: float | None, *, spent: float = 0.0) -> None:
        """``spent``: what the ledger says was paid before, in USD."""
        self.limit = limit
        self.spent = spent
        self.reserved = 0.0
        self._outstanding = 0  # counted, because sums of floats leave a residue that would look like a call in flight for ever
        self._settled = asyncio.Condition()

    async def reserve(self, amount: float) -> "Reservation":
        """Set ``amount`` USD aside, waiting while calls in flight may yet turn out cheaper than what they reserved.

        Raises:
            BudgetSpent: nothing is in flight any more, and it still does not fit.
        """
        if self.limit is not None:
            async with self._settled:
                while self.spent + self.reserved + amount > self.limit:
                    if not self._outstanding:
                        raise BudgetSpent(
                            f"the budget of ${self.limit:.2f} has ${max(0.0, self.limit - self.spent):.4f} left and the next call may"
                            f" cost up to ${amount:.4f}: raise budget_usd and run again"
                        )
                    await self._settled.wait()
        self.reserved += amount
        self._outstanding += 1
        return Reservation(self, amount)

    async def settle(self, amount: float, cost: float) -> None:
        """Turn a reservation of ``amount`` into a cost."""
        self._outstanding -= 1
        self.reserved = max(0.0, self.reserved - amount) if self._outstanding else 0.0
        self.spent += cost
        if self.limit is not None:
            async with self._settled:
                self._settled.notify_all()


class Reservation:
    """Money set aside for one attempt."""

    def __init__(self, budget: Budget, amount: float) -> None:
        """Made by :meth:`Budget.reserve`."""
        self.amount = amount
        self._budget = budget
        self._open = True

    async def settle(self, cost: float) -> None:
        """Pay ``cost`` of it, once, and give the rest back."""
        if self._open:
            self._open = False
            await self._budget.settle(self.amount, cost)
