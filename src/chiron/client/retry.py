"""Trying again, within bounds. Tools that retry for ever have been seen to send one request a thousand times."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from chiron.client.failures import CallerFault, CallFailed, Flagged, RateLimited
from chiron.client.limiter import Blame

T = TypeVar("T")
JITTER = random.Random()  # noqa: S311 - not for secrets
"""What waits are shaken by. A simulation seeds it."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How stubbornly one call is pursued."""

    attempts: int = 10
    """How many transient failures a call may have before it counts as failed."""
    first_wait: float = 0.5
    """Seconds before the second attempt; doubled each time."""
    longest_wait: float = 30.0
    """Seconds; the doubling ends here."""
    longest_wait_alone: float = 4.0
    """Seconds; where it ends while other calls to the endpoint succeed: waiting longer would not spare it anything, since they take the
    call's place."""
    deadline: float = 900.0
    """Seconds a call may take in all, waits included but time in the queue excluded."""
    outage: float = 900.0
    """Seconds that an endpoint may answer nothing before the run stops."""

    def for_mentors(self) -> "RetryPolicy":
        """Twice as many attempts: a mentor's call that is given up costs its case a candidate."""
        return replace(self, attempts=2 * self.attempts)

    def wait_before(self, attempt: int, blame: Blame, chance: random.Random) -> float:
        """Seconds to wait before ``attempt`` (from 2), with jitter, so that calls that failed together do not return together."""
        longest = min(self.longest_wait, self.longest_wait_alone) if blame is Blame.CALL else self.longest_wait
        ceiling = min(longest, self.first_wait * 2.0 ** min(attempt - 2, 30))
        return ceiling * chance.uniform(0.5, 1.0)


@dataclass(slots=True)
class Elapsed:
    """Seconds that a call has taken up: being sent and waiting between attempts, not standing in the queue."""

    seconds: float = 0.0
    last_attempt: float = 0.0
    """Of these not yet counted: what the last attempt took."""


async def retry_call(
    attempt: Callable[[], Awaitable[T]],
    policy: RetryPolicy,
    *,
    spent: Elapsed,
    blame: Callable[[CallFailed], Blame] = lambda _: Blame.UNKNOWN,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    chance: random.Random = JITTER,
) -> T:
    """Call ``attempt`` until it succeeds, within the policy's bounds.

    A rate limit is not a failed attempt: it is waited out as told or, where nothing was told, for longer every time, until the deadline.
    The caller's own fault is not retried, except once where a content filter refused the input.

    Args:
        attempt: sends the call once, and sets ``spent.last_attempt``.
        policy: the bounds.
        spent: what the deadline is held against.
        blame: is told of every failure but the caller's own, and decides whose fault it is: while an endpoint answers nobody, neither
            attempts nor time count. It may raise to end the call.
        sleep: how to wait; may return early when the run stops.
        chance: for jitter.

    Raises:
        CallFailed: the last failure, when the bounds are reached.
    """
    failures = tries = limited = 0
    flagged = False
    last: CallFailed
    while True:
        try:
            return await attempt()
        except Flagged as failure:
            # It cost nothing, and a router may send it to another provider.
            if flagged:
                raise
            flagged, wait, whose, last = True, 0.0, Blame.CALL, failure
        except CallerFault:
            raise
        except RateLimited as failure:
            limited += 1
            last = failure
            whose = blame(failure)
            wait = failure.retry_after or policy.wait_before(limited + 1, whose, chance)
        except CallFailed as failure:
            last = failure
            whose = blame(failure)
            tries += 1
            failures += whose is not Blame.ENDPOINT
            if failures >= policy.attempts:
                raise
            wait = policy.wait_before(tries + 1, whose, chance)
        if whose is not Blame.ENDPOINT:
            spent.seconds += spent.last_attempt + wait
            if spent.seconds >= policy.deadline:
                raise last
        await sleep(wait)
