"""Limit concurrent calls per endpoint adaptively, count requests per minute, and detect outages."""

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum, auto

SEVERAL = 3
"""Calls that failed since the last answer, from which on the endpoint is suspected rather than the calls."""
IN_A_ROW = 10
"""Attempts that failed since the last answer, before the endpoint's queue is held."""


@dataclass
class Outage:
    """What one endpoint answered last, and what has failed since."""

    answers: int = 0
    """Answers since this process began."""
    in_a_row: int = 0
    """Failed attempts since the last answer; rate limits are not among them."""
    seconds_down: float = 0.0
    """Of past outages, from the first failure to the first answer."""
    times_down: int = 0
    _failing: set[str] = field(default_factory=set)
    _since: float | None = None

    def failed(self, key: str, now: float, *, limited: bool) -> None:
        """An attempt of the call ``key`` got no answer. ``now``: seconds of the event loop's clock."""
        self._failing.add(key)
        self._since = now if self._since is None else self._since
        self.in_a_row += not limited

    def answered(self, now: float, *, was_held: bool) -> None:
        """The endpoint answered a call."""
        self.answers += 1
        if was_held:
            self.times_down += 1
            self.seconds_down += self.seconds(now)
        self._failing.clear()
        self._since, self.in_a_row = None, 0

    def seconds(self, now: float) -> float:
        """How long the endpoint has answered nothing, from the first failure on."""
        return 0.0 if self._since is None else now - self._since

    @property
    def several(self) -> bool:
        """Whether so many calls failed since the last answer that it is the endpoint's fault rather than theirs."""
        return len(self._failing) >= SEVERAL

    @property
    def is_down(self) -> bool:
        """Whether its queue is to be held: it answered before, and nothing has succeeded for a while."""
        return self.answers > 0 and self.several and self.in_a_row >= IN_A_ROW


class Blame(Enum):
    """Whose fault a failed attempt is."""

    CALL = auto()
    """Other calls to the endpoint succeed meanwhile."""
    UNKNOWN = auto()
    """Too few calls are under way to tell."""
    ENDPOINT = auto()
    """Nothing succeeds, so that the attempt counts neither against the call's attempts nor its deadline."""


@dataclass
class Standing:
    """One call's failures, and whose fault they are."""

    outage: Outage
    key: str
    mentor: bool
    uncounted: int = 0
    """Failed attempts that were the endpoint's fault, rate limits aside."""
    _answers_seen: int | None = None

    def sent(self) -> None:
        """An attempt is about to be sent. What was answered before the first one says nothing about this call's failures."""
        if self._answers_seen is None:
            self._answers_seen = self.outage.answers

    def blame(self, now: float, *, limited: bool) -> Blame:
        """Record a failed attempt, and decide whose fault it is.

        It is the call's if the endpoint answered another call since the last failure. A mentor's is never unknown: without its candidate
        the case would take another course, so it is not given up on a suspicion.
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
"""Attempts in the shortest round: of fewer, a share says nothing."""
_OVERLOAD = 1 / 2
"""The share of a round that has to be limited, with ``Retry-After``, before all calls wait and half as many are allowed."""
_GROWTH = 1 / 10
"""How much of what is allowed a round without limits adds to it, and one call at least."""


class Limiter:
    """The door to one endpoint.

    What is allowed at once follows the share of calls that the endpoint limits in a *round* (as many attempts as are allowed at once,
    all sent since the last decrease). A round decreases it by half that share, so a limit that meets one call in ten at random costs
    little and an overload, which meets them all, halves it. Every success gives a little back, up to the ceiling.

    A rate limit that says when to come back delays its own call. Once half of a round (and four calls) were told so, it is an overload:
    what is allowed is halved at once, and every call waits.

    The lowest ``rank`` goes first: calls of cases already begun before those of new ones.
    """

    def __init__(self, ceiling: int, requests_per_minute: float | None = None) -> None:
        """``ceiling``: calls at once, at most. ``requests_per_minute``: sent evenly, since endpoints count in windows of their own."""
        self.ceiling = ceiling
        self.allowed = float(ceiling)
        self.in_flight = 0
        self._waiting: list[tuple[int, int, asyncio.Future[bool]]] = []
        self._order = itertools.count()
        self._epoch = 0
        """Counts decreases: calls sent before the last one tell of the same overload."""
        self._round = self._ended = self._limited = 0
        self._begin_round()
        self.outage = Outage()
        self._probe_at: float | None = None
        """While the queue is held: when the next call may be let in, alone."""
        self._probe_wait = self._longest_wait = 0.0
        self._probing = False
        self._clock: Callable[[], float] = lambda: 0.0
        self._not_before = 0.0
        self._gap = 60.0 / requests_per_minute if requests_per_minute else 0.0
        # A tenth of a second's worth may go together: timers are no finer than that under load.
        self._burst = max(0.0, 0.1 - self._gap)
        self._next_slot = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._closed: Exception | None = None

    @asynccontextmanager
    async def slot(self, rank: int = 0) -> AsyncIterator[int]:
        """Wait for a place, and hold it. Yields the epoch, to be handed to :meth:`rate_limited`."""
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
        """One call came back in order: allow a little more, and no longer hold the queue."""
        self.outage.answered(self._now(), was_held=self.held)
        self._probe_at = None
        self.allowed = min(float(self.ceiling), self.allowed + max(1.0 / max(1.0, self.allowed), _GROWTH))

    def rate_limited(self, epoch: int, retry_after: float | None) -> None:
        """The endpoint said "too many" to a call that still holds its place. ``retry_after``: seconds, where it said when to come back."""
        now = self._now()
        overload = now < self._not_before
        if epoch == self._epoch:
            self._limited += 1
            if retry_after and self._limited >= max(float(_FEWEST), _OVERLOAD * self._round):
                overload = True
                self._decrease(0.5)
        if overload and retry_after:
            self._not_before = max(self._not_before, now + retry_after)

    def _count(self, epoch: int) -> None:
        """An attempt has ended; at the end of a round, allow less in proportion to the share that was limited."""
        if epoch != self._epoch:
            return
        self._ended += 1
        if self._ended >= self._round:
            if self._limited:
                self._decrease(self._limited / self._ended / 2)
            else:
                self._begin_round()

    def _decrease(self, share: float) -> None:
        self._epoch += 1
        self.allowed = max(1.0, self.allowed * (1.0 - share))
        self._begin_round()

    def _begin_round(self) -> None:
        self._round, self._ended, self._limited = max(_FEWEST, int(self.allowed)), 0, 0

    @property
    def held(self) -> bool:
        """Whether the queue waits for the end of an outage."""
        return self._probe_at is not None

    def seconds_down(self) -> float:
        """How long the endpoint has answered nothing, while the queue is held. May be asked from another thread, as views do."""
        return self.outage.seconds(self._clock()) if self.held else 0.0

    def hold(self, first_wait: float, longest_wait: float) -> None:
        """Let in one call at a time until one has succeeded: the first after ``first_wait`` seconds, the next after twice as many, and so
        on up to ``longest_wait``.
        """
        if not self.held:
            self._clock = asyncio.get_running_loop().time
            self._probe_wait, self._longest_wait = first_wait, longest_wait
            self._probe_at = self._now() + first_wait

    def _probed(self) -> None:
        """The call that was let in alone has ended; if it failed, the next one waits for longer."""
        self._probing = False
        if self.held:
            self._probe_wait = min(self._longest_wait, 2 * self._probe_wait)
            self._probe_at = self._now() + self._probe_wait

    def close(self, reason: Exception) -> None:
        """Let nobody in any more: whoever waits, and whoever comes, gets ``reason``."""
        self._closed = reason
        for *_, future in self._waiting:
            if not future.done():
                future.set_exception(reason.with_traceback(None))
        self._waiting.clear()

    async def _enter(self, rank: int) -> bool:
        """Wait for a place; whether it is the one for a probe."""
        if self._closed is not None:
            raise self._closed.with_traceback(None)
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (rank, next(self._order), future))
        self._admit()
        try:
            return await future
        except asyncio.CancelledError:
            # Admitted and cancelled at once: give the place back.
            if future.done() and not future.cancelled() and future.exception() is None:
                self.in_flight -= 1
                self._probing = self._probing and not future.result()
                self._admit()
            raise

    def _admit(self) -> None:
        """Let in whoever may go now; if only time stands in the way, come back then."""
        while self._waiting:
            future = self._waiting[0][2]
            if future.done():  # cancelled while it waited
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
