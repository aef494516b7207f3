"""Retry failed calls within limits. Without limits, some tools send one request a thousand times."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from chiron.client.failures import CallerFault, CallFailed, Flagged, RateLimited
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

    def wait_before(self, attempt: int, blame: Blame, chance: random.Random) -> float:
        """Return the seconds to wait before ``attempt`` (from 2). Jitter keeps calls that failed together from returning together."""
        longest = min(self.longest_wait, self.longest_wait_alone) if blame is Blame.CALL else self.longest_wait
        ceiling = min(longest, self.first_wait * 2.0 ** min(attempt - 2, 30))
        return ceiling * chance.uniform(0.5, 1.0)


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
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    chance: random.Random = JITTER,
) -> T:
    """Call ``attempt`` until it succeeds, within the policy's limits.

    A rate limit does not count as a failed attempt. The call waits as long as the endpoint says, or longer each time, until the deadline.
    Errors caused by the call itself are not retried, except once if a content filter rejected the input.

    Args:
        attempt: sends the call once and sets ``spent.last_attempt``.
        policy: the limits.
        spent: time that counts toward the deadline.
        blame: called for each retryable failure to decide its cause. While an endpoint is down, neither attempts nor time count. It may
            raise to end the call.
        sleep: waits; may return early when the run stops.
        chance: random source for jitter.

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
