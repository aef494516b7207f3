"""The way in which one unit of work asks, and a memory of how its calls failed."""

from collections.abc import Awaitable, Callable

from chiron.models.call import Call, Reply
from chiron.models.failures import CallerFault, CallFailed


class Line:
    """An ``ask`` for one unit (a case, a row, an item)."""

    def __init__(self, ask: Callable[[Call], Awaitable[Reply]]) -> None:
        """``ask``: answers a call, or raises."""
        self._ask = ask
        self._failed = self._refused = 0

    async def __call__(self, call: Call) -> Reply:
        """As :class:`~chiron.models.call.Ask`."""
        try:
            return await self._ask(call)
        except CallFailed as failure:
            self._failed += 1
            self._refused += isinstance(failure, CallerFault)
            raise

    @property
    def is_refused(self) -> bool:
        """Whether calls failed, and every one of them would fail again: running again does not help this unit."""
        return 0 < self._refused == self._failed
