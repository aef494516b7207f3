"""How many calls an endpoint gets at once, and how soon: adaptive concurrency, requests a minute, and who goes first."""

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Limiter:
    """The door to one endpoint.

    Additive increase, multiplicative decrease: every rate limit halves what is allowed at once (at most once for the calls that were
    under way together, since they tell of the same overload), every success gives a little back, up to the ceiling. The lowest
    ``rank`` goes first: calls of cases already begun before those of new ones.
    """

    def __init__(self, ceiling: int, requests_per_minute: float | None = None) -> None:
        """``ceiling``: calls at once, at most. ``requests_per_minute``: sent evenly, since endpoints count in windows of their own."""
        self.ceiling = ceiling
        self.allowed = float(ceiling)
        self.in_flight = 0
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._order = itertools.count()
        self._epoch = 0
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
        await self._enter(rank)
        try:
            yield self._epoch
        finally:
            self.in_flight -= 1
            self._admit()

    def succeeded(self) -> None:
        """One call came back in order: allow a little more (about one more a round of calls)."""
        self.allowed = min(float(self.ceiling), self.allowed + 1.0 / max(1.0, self.allowed))

    def rate_limited(self, epoch: int, retry_after: float | None) -> None:
        """The endpoint said "too many": halve, and send nothing before ``retry_after`` seconds are over."""
        if epoch == self._epoch:
            self._epoch += 1
            self.allowed = max(1.0, self.allowed / 2)
        if retry_after:
            self._not_before = max(self._not_before, self._now() + retry_after)

    def close(self, reason: Exception) -> None:
        """Let nobody in any more: whoever waits, and whoever comes, gets ``reason``."""
        self._closed = reason
        for *_, future in self._waiting:
            if not future.done():
                future.set_exception(reason.with_traceback(None))
        self._waiting.clear()

    async def _enter(self, rank: int) -> None:
        if self._closed is not None:
            raise self._closed.with_traceback(None)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (rank, next(self._order), future))
        self._admit()
        try:
            await future
        except asyncio.CancelledError:
            # Admitted and cancelled at once: give the place back.
            if future.done() and not future.cancelled() and future.exception() is None:
                self.in_flight -= 1
                self._admit()
            raise

    def _admit(self) -> None:
        """Let in whoever may go now; if only time stands in the way, come back then."""
        while self._waiting:
            future = self._waiting[0][2]
            if future.done():  # cancelled while it waited
                heapq.heappop(self._waiting)
                continue
            if self.in_flight >= int(self.allowed):
                return
            now = self._now()
            opens = max(self._not_before, self._next_slot - self._burst if self._gap else 0.0)
            if opens > now:
                self._wake_at(opens)
                return
            heapq.heappop(self._waiting)
            self._next_slot = max(self._next_slot, now) + self._gap
            self.in_flight += 1
            future.set_result(None)

    def _wake_at(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(when, self._admit)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
