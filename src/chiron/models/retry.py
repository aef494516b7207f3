"""Trying again, within bounds. Tools that retry for ever have been seen to send one request a thousand times."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from chiron.models.failures import CallerFault, CallFailed, Flagged, RateLimited

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

    def wait_before(self, attempt: int, chance: random.Random) -> float:
        """Seconds to wait before ``attempt`` (from 2): full jitter, so that calls that failed together don't return together."""
        ceiling = min(self.longest_wait, self.first_wait * 2.0 ** min(attempt - 2, 30))
        return ceiling * chance.uniform(0.5, 1.0)


@dataclass(slots=True)
class Spent:
    """Seconds that a call has taken up: being sent and waiting between attempts, not standing in the queue."""

    seconds: float = 0.0


async def persevere(
    attempt: Callable[[], Awaitable[T]],
    policy: RetryPolicy,
    *,
    spent: Spent,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    chance: random.Random = _CHANCE,
) -> T:
    """Call ``attempt`` until it succeeds, within the policy's bounds.

    A rate limit is no failed attempt: it is waited out as told (by the endpoint's limiter, for all calls to it alike) or, where nothing
    was told, for longer every time, until the deadline. The caller's own fault is never tried again,
    except once where a content filter refused the input.

    Args:
        attempt: sends the call once, and adds to ``spent`` what sending took.
        policy: the bounds.
        spent: what the deadline is held against.
        sleep: how to wait; may return early when the run stops.
        chance: for jitter.

    Raises:
        CallFailed: the last failure, when the bounds are reached.
    """
    failures = limited = 0
    flagged = False
    last: CallFailed
    while True:
        try:
            return await attempt()
        except Flagged as failure:
            # It cost nothing, and a router may send it to another provider.
            if flagged:
                raise
            flagged, wait, last = True, 0.0, failure
        except CallerFault:
            raise
        except RateLimited as failure:
            limited += 1
            wait = 0.0 if failure.retry_after else policy.wait_before(limited + 1, chance)
            spent.seconds += failure.retry_after or 0.0
            last = failure
        except CallFailed as failure:
            failures += 1
            if failures >= policy.attempts:
                raise
            wait = policy.wait_before(failures + 1, chance)
            last = failure
        spent.seconds += wait
        if spent.seconds >= policy.deadline:
            raise last
        await sleep(wait)
