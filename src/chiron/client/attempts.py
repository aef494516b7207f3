"""Attempts of a call: when it is retried, and what each attempt may cost."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from chiron.client.call import Call, Reply
from chiron.client.failures import BudgetSpent, CallerFault, CallFailed, Flagged, RateLimited
from chiron.client.ledger import Ledger
from chiron.client.ledger_accounts import QUEUED, UNDER_WAY
from chiron.client.limiter import Blame

T = TypeVar("T")
JITTER = random.Random()  # noqa: S311 - not for secrets
"""Random source for jitter. Simulations seed it."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Retry limits for one call."""

    attempts: int = 10
    """Transient failures before the call fails."""
    first_wait: float = 0.5
    """Seconds before the second attempt; doubled for each further one."""
    longest_wait: float = 30.0
    """Maximum wait in seconds."""
    longest_wait_alone: float = 4.0
    """Maximum wait in seconds while other calls to the endpoint succeed. A longer wait would not reduce its load, because those calls take
    the free place.
    """
    deadline: float = 900.0
    """Seconds per call, including waits but not time in the queue."""
    outage: float = 900.0
    """Seconds without any answer from an endpoint before the run stops."""

    def for_mentors(self) -> "RetryPolicy":
        """Return a policy with twice as many attempts. If a mentor's call fails, its case loses a candidate."""
        return replace(self, attempts=2 * self.attempts)

    def wait_before(self, attempt: int, blame: Blame) -> float:
        """Return the seconds to wait before ``attempt`` (from 2). Jitter keeps calls that failed together from returning together."""
        longest = min(self.longest_wait, self.longest_wait_alone) if blame is Blame.CALL else self.longest_wait
        ceiling = min(longest, self.first_wait * 2.0 ** min(attempt - 2, 30))
        return ceiling * JITTER.uniform(0.5, 1.0)


@dataclass(slots=True)
class Elapsed:
    """Seconds used by a call: sending and waiting between attempts, but not time in the queue."""

    seconds: float = 0.0
    last_attempt: float = 0.0
    """Seconds of the last attempt, not yet counted."""


async def retry_call(
    attempt: Callable[[], Awaitable[T]],
    policy: RetryPolicy,
    *,
    spent: Elapsed,
    blame: Callable[[CallFailed], Blame] = lambda _: Blame.UNKNOWN,
    sleep: Callable[[float], Awaitable[None]],
) -> T:
    """Call ``attempt`` until it succeeds, within the policy's limits.

    A rate limit does not count as a failed attempt. The call waits as long as the endpoint says, or longer each time, until the deadline.
    Errors caused by the call itself are not retried, except once if a content filter rejected the input.

    Args:
        attempt: sends the call once and sets ``spent.last_attempt``.
        spent: time that counts toward the deadline.
        blame: called for each retryable failure to decide its cause. While an endpoint is down, neither attempts nor time count. It may
            raise to end the call.
        sleep: waits; may return early when the run stops.

    Raises:
        CallFailed: the last failure, when a limit is reached.
    """
    failures = tries = limited = 0
    flagged = False
    last: CallFailed
    while True:
        try:
            return await attempt()
        except Flagged as failure:
            # The attempt was not billed, and a router may send the next one to another provider.
            if flagged:
                raise
            flagged, wait, whose, last = True, 0.0, Blame.CALL, failure
        except CallerFault:
            raise
        except RateLimited as failure:
            limited += 1
            last = failure
            whose = blame(failure)
            wait = failure.retry_after or policy.wait_before(limited + 1, whose)
        except CallFailed as failure:
            last = failure
            whose = blame(failure)
            tries += 1
            failures += whose is not Blame.ENDPOINT
            if failures >= policy.attempts:
                raise
            wait = policy.wait_before(tries + 1, whose)
        if whose is not Blame.ENDPOINT:
            spent.seconds += spent.last_attempt + wait
            if spent.seconds >= policy.deadline:
                raise last
        await sleep(wait)


class Budget:
    """The budget of one run. With ``limit=None`` it only counts."""

    def __init__(self, limit: float | None, *, spent: float = 0.0) -> None:
        """Create a budget. ``spent``: USD paid earlier, according to the ledger."""
        self.limit = limit
        self.spent = spent
        self.reserved = 0.0
        self.waiting = 0
        """Calls that wait for money."""
        self._outstanding = 0  # an integer, because a sum of floats leaves a remainder that would look like a call in flight
        self._settled = asyncio.Condition()
        self.closed: Exception | None = None
        """Why the run sends no more calls, if so."""

    async def reserve(self, amount: float) -> "Reservation":
        """Reserve ``amount`` USD. Wait while calls in flight may still cost less than they reserved.

        Raises:
            BudgetSpent: no call is in flight, and the amount still exceeds the budget.
        """
        if self.limit is not None:
            async with self._settled:
                self.waiting += 1
                try:
                    while self.spent + self.reserved + amount > self.limit:
                        await self._make_room(amount)
                finally:
                    self.waiting -= 1
        return self._hold(amount)

    def _hold(self, amount: float) -> "Reservation":
        self.reserved += amount
        self._outstanding += 1
        return Reservation(self, amount)

    def release(self, amount: float) -> None:
        """Take back ``amount`` USD that an earlier process reserved for a call that was never sent."""
        self.spent -= amount

    def take_over(self, amount: float) -> "Reservation":
        """Continue a reservation of an earlier process. It counted as spent so far, so it always fits."""
        self.release(amount)
        return self._hold(amount)

    async def _make_room(self, amount: float) -> None:
        """Wait until ``amount`` may fit. The caller holds the lock.

        Raises:
            BudgetSpent: waiting does not help.
        """
        if not self._outstanding:
            raise budget_spent(self.limit or 0.0, self.spent, amount)
        await self._settled.wait()

    async def settle(self, amount: float, cost: float) -> None:
        """Replace a reservation of ``amount`` by its actual cost."""
        self._outstanding -= 1
        self.reserved = max(0.0, self.reserved - amount) if self._outstanding else 0.0
        self.spent += cost
        if self.limit is not None:
            async with self._settled:
                self._settled.notify_all()


def budget_spent(limit: float, spent: float, amount: float) -> BudgetSpent:
    return BudgetSpent(
        f"the budget of ${limit:.2f} has ${max(0.0, limit - spent):.4f} left and the next call may cost up to ${amount:.4f}: raise"
        " budget_usd and run again"
    )


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
    """Record the attempts of one call while it is in flight. Methods raise ``DiskError`` if the ledger cannot be written."""

    def __init__(self, call: Call, ledger: Ledger, *, in_batch: bool = False) -> None:
        """Create a record without attempts. ``in_batch``: whether the attempts are parts of batches, which outlive the process."""
        self._call, self._ledger, self._kind = call, ledger, QUEUED if in_batch else UNDER_WAY
        self._most = 0.0
        self._on_record: int | None = None
        """ID of the current attempt in the ledger; ``None`` if it is not recorded because the run has no budget."""

    def begin(self, most: float, *, on_record: bool) -> None:
        """Start an attempt that may cost ``most`` USD; call this before sending.

        ``on_record``: store the attempt, so that a later process knows about it if this one is killed.
        """
        self._most = most
        if most and on_record and self._on_record is None:
            self._on_record = self._ledger.begin_attempt(self._call, most, self._kind)

    def take_over(self, attempt: int) -> None:
        """Continue an attempt that an earlier process recorded."""
        self._on_record = attempt

    def leave(self) -> float:
        """Leave an attempt to a later process. Returns its maximum cost in USD."""
        self._on_record = None
        return self._most

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
        """Store the reply and release its reservation in one transaction."""
        self._ledger.put(self._call, reply, attempt=self._on_record)
