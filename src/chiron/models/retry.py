"""Trying again, within bounds. Tools that retry for ever have been seen to send one request a thousand times."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from chiron.models.failures import CallerFault, CallFailed, RateLimited

T = TypeVar("T")
_CHANCE = random.Random()  # noqa: S311 - jitter, not secrets


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How stubbornly one call is pursued."""

    attempts: int = 8
    """How many transient failures a call may have before it counts as failed."""
    first_wait: float = 0.5
    """Seconds before the second attempt; doubled each time."""
    longest_wait: float = 30.0
    """Seconds; the doubling ends here."""
    deadline: float = 900.0
    """Seconds a call may take in all, waits included but time in the queue excluded."""
    outage: float = 900.0
    """Seconds that an endpoint may answer nothing before the run stops."""

    def for_mentors(self) -> "RetryPolicy":
        """Twice as many attempts: a mentor's call that is given up costs its case a candidate."""
        return replace(self, attempts=2 * self.attempts)

    def wait_before(self, attempt: int, chance: random.Random) -> float:
        """Seconds to wait before ``attempt`` (from 2): full jitter, so that calls that failed together don't return together."""
        ceiling = min(self.longest_wait, self.first_wait * 2.0 ** min(attempt - 2, 30))
        return ceiling * chance.uniform(0.5, 1.0)


@dataclass(slots=True)
class Spent:
    """Seconds that a call has taken up: being sent and waiting between attempts, not standing in the queue."""

    seconds: float = 0.0
    last_attempt: float = 0.0
    """Of these not yet counted: what the last attempt took."""


async def persevere(
    attempt: Callable[[], Awaitable[T]],
    policy: RetryPolicy,
    *,
    spent: Spent,
    counts: Callable[[CallFailed], bool] = lambda _: True,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    chance: random.Random = _CHANCE,
) -> T:
    """Call ``attempt`` until it succeeds, within the policy's bounds.

    A rate limit is not a failed attempt: it is waited out as told or, where nothing was told, for longer every time, until the deadline.
    The caller's own fault is never tried again.

    Args:
        attempt: sends the call once, and sets ``spent.last_attempt``.
        policy: the bounds.
        spent: what the deadline is held against.
        counts: is told of every failure but the caller's own fault, and says whether it counts: while an endpoint answers nobody, neither
            attempts nor time do. It may raise to end the call.
        sleep: how to wait; may return early when the run stops.
        chance: for jitter.

    Raises:
        CallFailed: the last failure, when the bounds are reached.
    """
    failures = tries = limited = 0
    while True:
        try:
            return await attempt()
        except CallerFault:
            raise
        except RateLimited as failure:
            limited += 1
            wait = failure.retry_after or policy.wait_before(limited + 1, chance)
            last: CallFailed = failure
            counted = counts(failure)
        except CallFailed as failure:
            counted = counts(failure)
            tries += 1
            failures += counted
            if failures >= policy.attempts:
                raise
            wait = policy.wait_before(tries + 1, chance)
            last = failure
        if counted:
            spent.seconds += spent.last_attempt + wait
            if spent.seconds >= policy.deadline:
                raise last
        await sleep(wait)
