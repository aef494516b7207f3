"""Simulated providers with rate limits, faults and outages, on the event loop's clock and without HTTP."""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from chiron.client.call import Call, Reply, TextPart
from chiron.client.failures import RateLimited, Transient


@dataclass
class Traffic:
    """Provider with latency, quotas and faults. The same calls at the same times get the same faults."""

    seconds: float = 1.0
    """Latency of a reply, varied by up to 10%."""
    at_once: int | None = None
    """Maximum number of parallel calls; more are rate limited."""
    per_minute: int | None = None
    """Maximum number of calls per minute of the clock; more are rate limited."""
    limited: float = 0.0
    """Share of calls that are rate limited at random, independent of load."""
    failed: float = 0.0
    """Share of calls that fail at random with a server error."""
    hung: float = 0.0
    """Share of calls without a reply within ``timeout`` seconds."""
    timeout: float = 120.0
    retry_after: float | None = None
    """Retry-after seconds of a rate-limited call; with ``per_minute``, the rest of the minute."""
    down: Sequence[tuple[float, float]] = ()
    """Outages as (start, end) in seconds of the clock; every call fails."""
    answer: Callable[[Call], str] = lambda _: "yes"
    seed: int = 0
    identity: str = "test:m"
    requests: int = 0
    refused: int = 0
    """Number of rate-limited requests."""
    at: list[float] = field(default_factory=list)
    """Time of each request."""
    _dice: random.Random = field(init=False)
    _in_flight: int = 0
    _minute: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        self._dice = random.Random(self.seed)

    async def complete(self, call: Call) -> Reply:
        now = asyncio.get_running_loop().time()
        self.requests += 1
        self.at.append(now)
        dice, shake = self._dice.random(), self._dice.uniform(0.9, 1.1)
        if any(begin <= now < end for begin, end in self.down):
            raise Transient("connection refused")
        self._limit(now, dice)
        dice -= self.limited
        self._in_flight += 1
        try:
            if 0 <= dice < self.hung:
                await asyncio.sleep(self.timeout)
                raise Transient(f"no answer within {self.timeout:g} s", maybe_billed=True)
            await asyncio.sleep(self.seconds * shake)
        finally:
            self._in_flight -= 1
        dice -= self.hung
        if 0 <= dice < self.failed:
            raise Transient("HTTP 500")
        if any(now < begin <= asyncio.get_running_loop().time() for begin, _ in self.down):
            raise Transient("connection reset", maybe_billed=True)
        return Reply(self.answer(call))

    async def close(self) -> None:
        pass

    def _limit(self, now: float, dice: float) -> None:
        told = self.retry_after
        over = dice < self.limited or (self.at_once is not None and self._in_flight >= self.at_once)
        if self.per_minute is not None:
            minute, used = self._minute
            self._minute = (int(now // 60), used + 1) if int(now // 60) == minute else (int(now // 60), 1)
            if self._minute[1] > self.per_minute:
                over, told = True, 60 - now % 60
        if over:
            self.refused += 1
            raise RateLimited("HTTP 429", retry_after=told)


def text_of(call: Call) -> str:
    """Return the complete text of a call."""
    return "\n\n".join(part.text for message in call.messages for part in message.parts if isinstance(part, TextPart))
