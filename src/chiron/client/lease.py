"""A process's part of a budget that several processes share, and of their rate limits; the broker has the whole."""

import asyncio
import contextlib
import sqlite3
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from chiron.client.attempts import Budget, budget_spent
from chiron.client.broker import Broker
from chiron.client.failures import RunStopped
from chiron.client.limiter import Limiter, Pace

_PATIENCE = 0.2
"""Seconds between requests while other workers may return money."""
_SILENCE = 600.0
"""Seconds without a sign of life from any other holder after which a process no longer waits for their money."""


class Leases(ABC):
    """A holder's connection to the broker."""

    @abstractmethod
    async def _ask(self, method: str, *values: Any) -> Any:
        """Call a method of the broker for this holder.

        Raises:
            RunStopped: the broker does not answer.
        """

    async def lease(self, amount: float) -> float:
        """See :meth:`Broker.lease`."""
        return float(await self._ask("lease", amount))

    async def give_back(self, spent: float) -> bool:
        """See :meth:`Broker.give_back`."""
        return bool(await self._ask("give_back", spent))

    async def pace(self, own: Mapping[str, Pace]) -> Mapping[tuple[str, str], Pace]:
        """See :meth:`Broker.pace`."""
        found: Mapping[tuple[str, str], Pace] = await self._ask("pace", own)
        return found


class FileLeases(Leases):
    """A holder's connection to a broker's file on a shared folder."""

    def __init__(self, file: Path, holder: str, *, silence: float = _SILENCE) -> None:
        """``silence``: seconds without a sign of life of the other holders after which their money is not waited for."""
        self._file, self._holder, self._silence = file, holder, silence
        self._beats: list[tuple[str, int]] = []
        self._since = time.monotonic()
        self._broker: Broker | None = None
        self._thread = ThreadPoolExecutor(1)  # waiting for the file must not block the event loop

    async def give_back(self, spent: float) -> bool:
        """See :meth:`Broker.give_back`. Holders that were killed do not keep this one waiting for ever."""
        if not await super().give_back(spent):
            return False
        beats = await self._ask("beats")
        if beats != self._beats:
            self._beats, self._since = beats, time.monotonic()
        return time.monotonic() - self._since < self._silence

    async def end(self, spent: float) -> None:
        """See :meth:`Broker.end`."""
        await self._ask("end", spent)

    def close(self) -> None:
        self._thread.shutdown()
        if self._broker is not None:
            self._broker.disconnect()
            self._broker = None

    async def _ask(self, method: str, *values: Any) -> Any:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._call, method, *values)
        except (OSError, sqlite3.Error) as error:
            raise RunStopped(f"the shared budget {self._file} cannot be used ({error}): run the same command again") from error

    def _call(self, method: str, *values: Any) -> Any:
        if self._broker is None:
            self._broker = Broker.join(self._file)
        return getattr(self._broker, method)(self._holder, *values)


class SharedPace:
    """Slow the limiters of this process when rate limits slowed those of another one."""

    def __init__(self, leases: Leases, limiters: Mapping[str, Limiter]) -> None:
        """``limiters``: by endpoint."""
        self._leases, self._limiters = leases, limiters
        self._seen: dict[tuple[str, str], int] | None = None

    async def exchange(self) -> None:
        """Report the own pace, and follow those that were slowed since the last exchange.

        Raises:
            RunStopped: the broker does not answer.
        """
        others = await self._leases.pace({name: limiter.pace() for name, limiter in self._limiters.items()})
        seen, self._seen = self._seen, {place: pace.times for place, pace in others.items()}
        for place, pace in others.items():
            if place[1] not in self._limiters:
                continue
            if seen is None and pace.times:
                self._limiters[place[1]].follow(replace(pace, pause=0.0))  # its pause may be over
            elif seen is not None and pace.times > seen.get(place, 0):
                self._limiters[place[1]].follow(pace)


class LeasedBudget(Budget):
    """The part of a shared budget that one process holds. It asks for more when a call does not fit."""

    def __init__(self, leases: Leases, total: float, *, spent: float) -> None:
        """``total``: the whole budget, for messages. ``spent``: USD in this process's ledger."""
        super().__init__(spent, spent=spent)
        self._leases, self._total = leases, total

    async def _make_room(self, amount: float) -> None:
        if self.closed is not None:
            raise self.closed.with_traceback(None)
        held = self.limit or 0.0
        granted = await self._leases.lease(self.spent + self.reserved + amount - held)
        if granted:
            self.limit = held + granted
            return
        if not self._outstanding and held > self.spent:
            # Another worker may need exactly this rest.
            self.limit = self.spent
            await self._leases.give_back(self.spent)
            return
        if not self._outstanding and not await self._leases.give_back(self.spent):
            raise budget_spent(self._total, self._total, amount)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._settled.wait(), _PATIENCE)
