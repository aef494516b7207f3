"""A memory that forgets the longest unused first, bounded in bytes."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class BytesLru(Generic[K, V]):
    """What was computed before. Not for several threads at once."""

    def __init__(self, most_bytes: int, size: Callable[[V], int]) -> None:
        """``size`` says how many bytes a value takes. A value larger than ``most_bytes`` is not kept at all."""
        self.most_bytes = most_bytes
        self.bytes = 0
        self._size = size
        self._kept: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V | None:
        """The value, which is now the one used last; ``None`` if it is not there."""
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def put(self, key: K, value: V) -> None:
        """Keep a value, in place of an older one of this key."""
        if key in self._kept:
            self.bytes -= self._size(self._kept.pop(key))
        if self._size(value) > self.most_bytes:
            return
        self._kept[key] = value
        self.bytes += self._size(value)
        while self.bytes > self.most_bytes:
            self.bytes -= self._size(self._kept.popitem(last=False)[1])

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self.bytes = 0
