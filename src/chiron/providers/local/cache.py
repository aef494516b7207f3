"""Caches for generation: keys and values of rows, and of shared prompt prefixes."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SeenKey = tuple[str, int, int]
"""Key of an encoded image: its SHA-256, the longest side, and how many images share the call's tiles (0 if not shared)."""

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class CacheShape(Protocol):
    """What a cache needs to know about its model."""

    cache_shape: tuple[int, int, int]
    """Layers, heads and channels of a token's keys and values."""

    @property
    def device(self) -> torch.device:
        """Device of the weights."""

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""


class BytesLru(Generic[K, V]):
    """Least-recently-used cache with a memory limit. Not thread-safe."""

    def __init__(self, most_bytes: int, size: Callable[[V], int]) -> None:
        """``size`` returns a value's size in bytes. Values larger than ``most_bytes`` are not kept."""
        self.most_bytes = most_bytes
        self.bytes = 0
        self._size = size
        self._kept: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V | None:
        """Return the value and mark it as recently used; ``None`` if missing."""
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def put(self, key: K, value: V) -> None:
        """Store a value, replacing an earlier one with this key."""
        if key in self._kept:
            self.bytes -= self._size(self._kept.pop(key))
        if self._size(value) > self.most_bytes:
            return
        self._kept[key] = value
        self.bytes += self._size(value)
        while self.bytes > self.most_bytes:
            self.bytes -= self._size(self._kept.popitem(last=False)[1])

    def clear(self) -> None:
        """Remove all values."""
        self._kept.clear()
        self.bytes = 0


_ROOM = 128
"""Columns added when the cache is full. Growing copies everything, so it must not happen for every token."""


class KVCache:
    """Keys and values of a batch of rows. All rows end at the last used column, and each starts according to its length.

    If positions and masks are passed explicitly, transformers calls only :meth:`update`.
    """

    def __init__(self, store: Tensor, width: int, lengths: Sequence[int]) -> None:
        """``store``: ``(layers, 2, rows, heads, columns, channels)``, with the first ``width`` columns in use."""
        self._store = store
        self.width = width
        self.lengths = list(lengths)
        self._incoming: Tensor | None = None

    @classmethod
    def of(cls, shape: CacheShape, prefixes: Sequence[Tensor | None], coming: Sequence[int]) -> Self:
        """Create rows that start with ``prefixes`` (``(layers, 2, heads, n, channels)`` each), with space for ``coming`` new tokens each.

        Each prefix ends where the row's new tokens start. The new tokens end at the last column of :meth:`open`.
        """
        layers, heads, channels = shape.cache_shape
        known = [0 if prefix is None else prefix.shape[3] for prefix in prefixes]
        total = max(n + new for n, new in zip(known, coming, strict=True))
        longest = max(coming)
        store = torch.zeros((layers, 2, len(prefixes), heads, total + _ROOM, channels), dtype=shape.dtype, device=shape.device)
        for row, prefix in enumerate(prefixes):
            if prefix is not None:
                end = total - coming[row]
                store[:, :, row, :, end - known[row] : end] = prefix
        return cls(store, total - longest, known)

    def open(self, coming: Sequence[int]) -> Tensor:
        """Prepare a run over the next ``max(coming)`` columns, of which each row uses the last ``coming``.

        Returns the mask ``(rows, 1, max(coming), columns)``: true where a token may attend. A column that a row does not use attends to
        itself, since attention needs at least one key.
        """
        new = max(coming)
        end = self.width + new
        if end > self._store.shape[4]:
            wider = self._store.new_zeros((*self._store.shape[:4], end + _ROOM, self._store.shape[5]))
            wider[..., : self.width, :] = self._store[..., : self.width, :]
            self._store = wider
        device = self._store.device
        incoming = torch.tensor(coming, device=device)
        self.lengths = [n + more for n, more in zip(self.lengths, coming, strict=True)]
        starts = end - torch.tensor(self.lengths, device=device)
        columns = torch.arange(end, device=device)
        queries = columns[self.width :]
        # If all rows have equally many new tokens, no column has to be protected.
        self._incoming = None if min(coming) == new else (queries[None] >= (end - incoming)[:, None])[:, None, :, None]
        causal = columns[None, :] <= queries[:, None]
        inside = (columns[None, :] >= starts[:, None])[:, None, :]
        mask = (causal[None] & inside) | (columns[None, :] == queries[:, None])[None]
        self._opened = self.width
        self.width = end
        return mask[:, None]

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Store a layer's new keys and values, ``(rows, heads, new, channels)``; return all of the layer's."""
        for which, fresh in enumerate((keys, values)):
            place = self._store[layer, which, :, :, self._opened : self.width]
            # Columns left of a row's new tokens may contain the end of its prefix.
            place.copy_(fresh if self._incoming is None else torch.where(self._incoming, fresh, place))
        return self._store[layer, 0, :, :, : self.width], self._store[layer, 1, :, :, : self.width]

    def row(self, number: int) -> Tensor:
        """Return a copy of one row, ``(layers, 2, heads, n, channels)``."""
        return self._store[:, :, number, :, self.width - self.lengths[number] : self.width].clone()

    def select(self, rows: Sequence[int]) -> None:
        """Keep these rows, in this order; a row may occur several times."""
        lengths = [self.lengths[row] for row in rows]
        dropped = self.width - max(lengths)
        used = self._store[..., dropped : self.width, :]
        self._replace(used.index_select(2, torch.tensor(list(rows), device=used.device)), lengths)

    def join(self, other: "KVCache") -> None:
        """Append the rows of another cache."""
        width = max(self.width, other.width)
        layers, two, mine, heads, _, channels = self._store.shape
        store = self._store.new_zeros((layers, two, mine + len(other.lengths), heads, width + _ROOM, channels))
        store[:, :, :mine, :, width - self.width : width] = self._store[..., : self.width, :]
        store[:, :, mine:, :, width - other.width : width] = other._store[..., : other.width, :]  # noqa: SLF001 - the same class
        self._store, self.width, self.lengths = store, width, [*self.lengths, *other.lengths]

    def _replace(self, used: Tensor, lengths: list[int]) -> None:
        self.width = used.shape[4]
        self._store = torch.nn.functional.pad(used, (0, 0, 0, _ROOM))
        self.lengths = lengths


@dataclass(frozen=True, slots=True, eq=False)
class _Prefix:
    ids: NDArray[np.int32]
    states: Tensor


class PrefixCache:
    """The most recent long prefix for each set of images (one for prompts without images).

    Attention at a token does not depend on later tokens, so the start of a stored prefix can also be used.
    """

    def __init__(self, most_bytes: int) -> None:
        """``most_bytes``: memory limit for keys and values together."""
        self._kept: BytesLru[tuple[SeenKey, ...], _Prefix] = BytesLru(most_bytes, lambda prefix: prefix.states.nbytes)

    @property
    def bytes(self) -> int:
        """Memory used, in bytes."""
        return self._kept.bytes

    def longest(self, images: tuple[SeenKey, ...], ids: NDArray[np.int32]) -> Tensor | None:
        """Return keys and values ``(layers, 2, heads, n, channels)`` of the longest known prefix of ``ids``, with ``n`` tokens."""
        known = self._kept.get(images)
        n = 0 if known is None else common_length([known.ids, ids])
        return known.states[:, :, :, :n] if known is not None and n else None

    def keep(self, images: tuple[SeenKey, ...], ids: NDArray[np.int32], states: Tensor) -> None:
        """Store the keys and values of ``ids``, unless a stored sequence already starts with them."""
        known = self._kept.get(images)
        if known is None or common_length([known.ids, ids]) < len(ids):
            self._kept.put(images, _Prefix(ids, states))

    def forget(self) -> None:
        """Remove everything."""
        self._kept.clear()


def common_length(several: Sequence[NDArray[np.int32]]) -> int:
    """Return the number of equal tokens at the start of all sequences."""
    shortest = min(len(ids) for ids in several)
    first = several[0][:shortest]
    for ids in several[1:]:
        different = np.flatnonzero(first != ids[: len(first)])
        if len(different):
            first = first[: different[0]]
    return len(first)
