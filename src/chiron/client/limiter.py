"""Limit concurrent calls per endpoint adaptively, count requests per minute, and detect outages."""

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum, auto

SEVERAL = 3
"""Number of failed calls since the last answer that makes the endpoint suspect, rather than the calls."""
IN_A_ROW = 10
"""Number of failed attempts since the last answer after which the endpoint's queue is held."""


@dataclass
class Outage:
    """Answers and failures of one endpoint."""

    answers: int = 0
    """Answers since this process started."""
    in_a_row: int = 0
    """Failed attempts since the last answer, without rate limits."""
    seconds_down: float = 0.0
    """Total seconds of past outages, each from the first failure to the next answer."""
    times_down: int = 0
    _failing: set[str] = field(default_factory=set)
    _since: float | None = None

    def failed(self, key: str, now: float, *, limited: bool) -> None:
        """Record a failed attempt of the call ``key``. ``now``: seconds of the event loop's clock."""
        self._failing.add(key)
        self._since = now if self._since is None else self._since
        self.in_a_row += not limited

    def answered(self, now: float, *, was_held: bool) -> None:
        self.answers += 1
        if was_held:
            self.times_down += 1
            self.seconds_down += self.seconds(now)
        self._failing.clear()
        self._since, self.in_a_row = None, 0

    def seconds(self, now: float) -> float:
        """Return the seconds since the first failure after the last answer."""
        return 0.0 if self._since is None else now - self._since

    @property
    def several(self) -> bool:
        """Whether so many calls failed since the last answer that the endpoint must be at fault."""
        return len(self._failing) >= SEVERAL

    @property
    def is_down(self) -> bool:
        """Whether its queue has to be held: it answered before, and nothing has succeeded for a while."""
        return self.answers > 0 and self.several and self.in_a_row >= IN_A_ROW


class Blame(Enum):
    """What caused a failed attempt."""

    CALL = auto()
    """The call: other calls to the endpoint succeed meanwhile."""
    UNKNOWN = auto()
    """Unknown: too few calls are in flight."""
    ENDPOINT = auto()
    """The endpoint: no call succeeds, so neither the attempt nor its time counts against the call's limits."""


@dataclass
class Standing:
    """Failures of one call, and their cause."""

    outage: Outage
    key: str
    mentor: bool
    uncounted: int = 0
    """Failed attempts caused by the endpoint, without rate limits."""
    _answers_seen: int | None = None

    def sent(self) -> None:
        """Record that an attempt starts. Answers before the first attempt say nothing about this call's failures."""
        if self._answers_seen is None:
            self._answers_seen = self.outage.answers

    def blame(self, now: float, *, limited: bool) -> Blame:
        """Record a failed attempt and decide what caused it.

        The call is at fault if the endpoint answered another call since the last failure. For mentors the cause is never unknown: a missing
        candidate would change the search, so the call is not given up on a suspicion.
        """
        self.outage.failed(self.key, now, limited=limited)
        others_succeed = self.outage.answers > (self._answers_seen or 0)
        self._answers_seen = self.outage.answers
        if others_succeed:
            return Blame.CALL
        if not self.mentor and not self.outage.several:
            return Blame.UNKNOWN
        self.uncounted += not limited
        return Blame.ENDPOINT


_FEWEST = 4
"""Minimum attempts per round; a smaller sample gives no useful share."""
_OVERLOAD = 1 / 2
"""Share of a round with ``Retry-After`` above which all calls wait and the limit is halved."""
_GROWTH = 1 / 10
"""Relative increase of the limit after a round without rate limits; at least one call."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How much a limiter was slowed by rate limits. Processes that share an endpoint tell each other."""

    times: int
    """Number of times that rate limits slowed this process."""
    share: float
    """Concurrent calls allowed now, as a fraction of the maximum."""
    pause: float
    """Seconds in which no call may start."""


class Limiter:
    """Limit the calls to one endpoint.

    The limit on concurrent calls follows the share of rate-limited calls in a *round*: as many attempts as the limit allows, all sent since
    the last decrease. A round decreases the limit by half that share. Rate limits that hit one call in ten at random therefore cost little,
    and an overload, which hits all of them, halves the limit. Every success raises the limit a little, up to the ceiling.

    A rate limit with ``Retry-After`` delays only its own call. If it hits half of a round (and four calls), it is an overload: the limit is
    halved at once, and every call waits.

    The lowest ``rank`` goes first: calls of cases in progress before those of new ones.
    """

    def __init__(self, ceiling: int, requests_per_minute: float | None = None) -> None:
        """``ceiling``: maximum number of concurrent calls.

        ``requests_per_minute``: evenly spaced, since endpoints count in their own time windows.
        """
        self.ceiling = ceiling
        self.allowed = float(ceiling)
        self.in_flight = 0
        self._waiting: list[tuple[int, int, asyncio.Future[bool]]] = []
        self._order = itertools.count()
        self._epoch = 0
        """Number of decreases. Rate limits of calls sent before the last one belong to the same overload."""
        self._round = self._ended = self._limited = 0
        self._begin_round()
        self._slowed = 0
        self.outage = Outage()
        self._probe_at: float | None = None
        """While the queue is held: when the next single call may be sent."""
        self._probe_wait = self._longest_wait = 0.0
        self._probing = False
        self._clock: Callable[[], float] = lambda: 0.0
        self._not_before = 0.0
        self._gap = 60.0 / requests_per_minute if requests_per_minute else 0.0
        # Calls within a tenth of a second may be sent together: timers under load are not more precise.
        self._burst = max(0.0, 0.1 - self._gap)
        self._next_slot = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._closed: Exception | None = None

    def least_seconds(self, calls: int, seconds: float) -> float:
        """Return the least time that ``calls`` of ``seconds`` each can take within the limits."""
        return max(calls * seconds / self.ceiling, calls * self._gap)

    @asynccontextmanager
    async def slot(self, rank: int = 0) -> AsyncIterator[int]:
        """Wait for a free slot and hold it. Yields the epoch for :meth:`rate_limited`."""
        probe = await self._enter(rank)
        epoch = self._epoch
        try:
            yield epoch
        finally:
            self.in_flight -= 1
            if probe:
                self._probed()
            self._count(epoch)
            self._admit()

    def succeeded(self) -> None:
        """Record a success: raise the limit a little, and stop holding the queue."""
        self.outage.answered(self._now(), was_held=self.held)
        self._probe_at = None
        self.allowed = min(float(self.ceiling), self.allowed + max(1.0 / max(1.0, self.allowed), _GROWTH))

    def rate_limited(self, epoch: int, retry_after: float | None) -> None:
        """Record a rate limit, before the call's slot is released. ``retry_after``: seconds to wait, if the endpoint gave a time."""
        now = self._now()
        overload = now < self._not_before
        if epoch == self._epoch:
            self._limited += 1
            if retry_after and self._limited >= max(float(_FEWEST), _OVERLOAD * self._round):
                overload = True
                self._decrease(0.5)
        if overload and retry_after and now + retry_after > self._not_before:
            self._not_before = now + retry_after
            self._slowed += 1

    def pace(self) -> Pace:
        return Pace(self._slowed, self.allowed / self.ceiling, max(0.0, self._not_before - self._now()))

    def follow(self, pace: Pace) -> None:
        """Be no faster than another process of the same endpoint that rate limits slowed.

        It takes over the other one's share, and not its decrease: processes that are limited at the same time do not slow each other again.
        """
        self._not_before = max(self._not_before, self._now() + pace.pause)
        if (allowed := max(1.0, pace.share * self.ceiling)) < self.allowed:
            self._lower(allowed)

    def _count(self, epoch: int) -> None:
        """Count a finished attempt. At the end of a round, lower the limit by the share of rate limits."""
        if epoch != self._epoch:
            return
        self._ended += 1
        if self._ended >= self._round:
            if self._limited:
                self._decrease(self._limited / self._ended / 2)
            else:
                self._begin_round()

    def _decrease(self, share: float) -> None:
        self._slowed += 1
        self._lower(max(1.0, self.allowed * (1.0 - share)))

    def _lower(self, allowed: float) -> None:
        self._epoch += 1
        self.allowed = allowed
        self._begin_round()

    def _begin_round(self) -> None:
        self._round, self._ended, self._limited = max(_FEWEST, int(self.allowed)), 0, 0

    @property
    def held(self) -> bool:
        """Whether the queue waits for the end of an outage."""
        return self._probe_at is not None

    def seconds_down(self) -> float:
        """Return the seconds without an answer while the queue is held. Safe to call from other threads."""
        return self.outage.seconds(self._clock()) if self.held else 0.0

    def hold(self, first_wait: float, longest_wait: float) -> None:
        """Send one call at a time until one succeeds.

        The first waits ``first_wait`` seconds, each next one twice as long, up to ``longest_wait``.
        """
        if not self.held:
            self._clock = asyncio.get_running_loop().time
            self._probe_wait, self._longest_wait = first_wait, longest_wait
            self._probe_at = self._now() + first_wait

    def _probed(self) -> None:
        """Record the end of a single trial call; if it failed, the next one waits longer."""
        self._probing = False
        if self.held:
            self._probe_wait = min(self._longest_wait, 2 * self._probe_wait)
            self._probe_at = self._now() + self._probe_wait

    def close(self, reason: Exception) -> None:
        """Admit no more calls. Waiting and new calls raise ``reason``."""
        self._closed = reason
        for *_, future in self._waiting:
            if not future.done():
                future.set_exception(reason.with_traceback(None))
        self._waiting.clear()

    async def _enter(self, rank: int) -> bool:
        """Wait for a slot. Returns whether it is for a trial call."""
        if self._closed is not None:
            raise self._closed.with_traceback(None)
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (rank, next(self._order), future))
        self._admit()
        try:
            return await future
        except asyncio.CancelledError:
            # Admitted and canceled at the same time: return the slot.
            if future.done() and not future.cancelled() and future.exception() is None:
                self.in_flight -= 1
                self._probing = self._probing and not future.result()
                self._admit()
            raise

    def _admit(self) -> None:
        """Admit the calls that may go now. If only time is missing, schedule another try."""
        while self._waiting:
            future = self._waiting[0][2]
            if future.done():  # canceled while it waited
                heapq.heappop(self._waiting)
                continue
            if self._probing if self.held else self.in_flight >= int(self.allowed):
                return
            now = self._now()
            opens = max(self._not_before, self._probe_at or 0.0, self._next_slot - self._burst if self._gap else 0.0)
            if opens > now:
                self._wake_at(opens)
                return
            heapq.heappop(self._waiting)
            self._next_slot = max(self._next_slot, now) + self._gap
            self.in_flight += 1
            self._probing = self.held
            future.set_result(self.held)

    def _wake_at(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(when, self._admit)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
