"""A budget in USD that is never exceeded: reserve before sending, and record what each attempt cost."""

import asyncio

from chiron.client.call import Call, Reply
from chiron.client.failures import BudgetSpent
from chiron.client.ledger import Ledger


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


class AttemptRecord:
    """Of one call, as long as it is under way."""

    def __init__(self, call: Call, ledger: Ledger) -> None:
        """Nothing is on record yet."""
        self._call, self._ledger = call, ledger
        self._most = 0.0
        self._on_record: int | None = None
        """The attempt under way, as the ledger numbers it; ``None`` where no budget has to outlive this process."""

    def begin(self, most: float, *, on_record: bool) -> None:
        """An attempt that may cost ``most`` USD is about to be sent.

        ``on_record``: a process that goes on with this run has to know of it, should this one be killed.

        Raises:
            DiskError: the ledger took it not.
        """
        self._most = most
        if most and on_record:
            self._on_record = self._ledger.begin_attempt(self._call, most)

    def maybe_billed(self, kind: str, message: str) -> float:
        """It ended without an answer and may be billed all the same; the most it can have cost, in USD."""
        if self._on_record is not None:
            self._ledger.fail_attempt(self._on_record, kind, message)
            self._on_record = None
        elif self._most:
            self._ledger.note_failure(self._call, kind, message, final=False, cost_at_most=self._most)
        return self._most

    def not_billed(self) -> float:
        """It ended without an answer and is not billed: 0 USD."""
        if self._on_record is not None:
            self._ledger.end_attempt(self._on_record)
            self._on_record = None
        return 0.0

    def paid(self, reply: Reply) -> None:
        """Keep the reply for good, and let go of what was set aside for it in the same moment.

        Raises:
            DiskError: the ledger took it not.
        """
        self._ledger.put(self._call, reply, attempt=self._on_record)
