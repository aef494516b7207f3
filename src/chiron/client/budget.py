"""A budget in USD that is never exceeded: reserve before sending, and record what each attempt cost."""

import asyncio

from chiron.client.call import Call, Reply
from chiron.client.failures import BudgetSpent
from chiron.client.ledger import Ledger


class Budget:
    """The budget of one run. With ``limit=None`` it only counts."""

    def __init__(self, limit: float | None, *, spent: float = 0.0) -> None:
        """Create a budget. ``spent``: USD paid earlier, according to the ledger."""
        self.limit = limit
        self.spent = spent
        self.reserved = 0.0
        self._outstanding = 0  # an integer, because a sum of floats leaves a remainder that would look like a call in flight
        self._settled = asyncio.Condition()

    async def reserve(self, amount: float) -> "Reservation":
        """Reserve ``amount`` USD. Wait while calls in flight may still cost less than they reserved.

        Raises:
            BudgetSpent: no call is in flight, and the amount still exceeds the budget.
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
        """Replace a reservation of ``amount`` by its actual cost."""
        self._outstanding -= 1
        self.reserved = max(0.0, self.reserved - amount) if self._outstanding else 0.0
        self.spent += cost
        if self.limit is not None:
            async with self._settled:
                self._settled.notify_all()


class Reservation:
    """Money reserved for one attempt."""

    def __init__(self, budget: Budget, amount: float) -> None:
        """Use :meth:`Budget.reserve` instead."""
        self.amount = amount
        self._budget = budget
        self._open = True

    async def settle(self, cost: float) -> None:
        """Record ``cost`` and release the rest. Only the first call has an effect."""
        if self._open:
            self._open = False
            await self._budget.settle(self.amount, cost)


class AttemptRecord:
    """Record the attempts of one call while it is in flight."""

    def __init__(self, call: Call, ledger: Ledger) -> None:
        """Create a record without attempts."""
        self._call, self._ledger = call, ledger
        self._most = 0.0
        self._on_record: int | None = None
        """ID of the current attempt in the ledger; ``None`` if it is not recorded because the run has no budget."""

    def begin(self, most: float, *, on_record: bool) -> None:
        """Start an attempt that may cost ``most`` USD; call this before sending.

        ``on_record``: store the attempt, so that a later process knows about it if this one is killed.

        Raises:
            DiskError: the ledger cannot be written.
        """
        self._most = most
        if most and on_record:
            self._on_record = self._ledger.begin_attempt(self._call, most)

    def maybe_billed(self, kind: str, message: str) -> float:
        """End an attempt that got no answer but may be billed. Returns its maximum cost in USD."""
        if self._on_record is not None:
            self._ledger.fail_attempt(self._on_record, kind, message)
            self._on_record = None
        elif self._most:
            self._ledger.note_failure(self._call, kind, message, final=False, cost_at_most=self._most)
        return self._most

    def not_billed(self) -> float:
        """End an attempt that got no answer and is not billed. Returns 0 USD."""
        if self._on_record is not None:
            self._ledger.end_attempt(self._on_record)
            self._on_record = None
        return 0.0

    def paid(self, reply: Reply) -> None:
        """Store the reply and release its reservation in one transaction.

        Raises:
            DiskError: the ledger cannot be written.
        """
        self._ledger.put(self._call, reply, attempt=self._on_record)
