"""Endpoints that limit, fail and go down, on the event loop's own clock: providers for a desk, without HTTP."""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from chiron.client.call import Call, Reply, TextPart
from chiron.client.failures import RateLimited, Transient


@dataclass
class Traffic:
    """A provider with latency, quotas and faults. The same calls at the same times meet the same faults."""

    seconds: float = 1.0
    """Latency of an answer; shaken by up to a tenth."""
    at_once: int | None = None
    """More calls at once than this are limited."""
    per_minute: int | None = None
    """Calls in each minute of the clock, before the rest of it is limited."""
    limited: float = 0.0
    """Share of calls that is limited at random, whatever the load."""
    failed: float = 0.0
    """Share that fails at random with a server's fault."""
    hung: float = 0.0
    """Share that answers nothing within ``timeout``."""
    timeout: float = 120.0
    retry_after: float | None = None
    """What a limited call is told; with ``per_minute`` it is told the rest of the minute."""
    down: Sequence[tuple[float, float]] = ()
    """From when to when, in seconds of the clock, every call is refused."""
    answer: Callable[[Call], str] = lambda _: "yes"
    seed: int = 0
    identity: str = "test:m"
    requests: int = 0
    refused: int = 0
    """Rate limits among them."""
    at: list[float] = field(default_factory=list)
    """When each request came."""
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
    """All the words of a call."""
    return "\n\n".join(part.text for message in call.messages for part in message.parts if isinstance(part, TextPart))
