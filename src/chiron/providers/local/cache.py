"""Caches of generation: keys and values of rows, and of shared prompt prefixes."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SeenKey = tuple[str, int, int]
"""An image as a model sees it: its SHA-256, the longest side shown, and how many images share the call's tiles (0 where none do)."""

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class CacheShape(Protocol):
    """What a cache needs to know of the model whose keys and values it keeps."""

    cache_shape: tuple[int, int, int]
    """Layers, heads and channels of the keys and values of a token."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""

    @property
    def dtype(self) -> torch.dtype:
        """Their precision."""


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


_ROOM = 128
"""Columns that are added when there is no more room: growing copies everything, so it is not done for every token."""


class KVCache:
    """What attention remembers of rows: every row ends at the last column, and begins where its length says.

    A model of transformers asks nothing of its cache but :meth:`update`, when positions and masks are given to it.
    """

    def __init__(self, store: Tensor, width: int, lengths: Sequence[int]) -> None:
        """``store``: ``(layers, 2, rows, heads, columns, channels)``, of whose columns the first ``width`` are in use."""
        self._store = store
        self.width = width
        self.lengths = list(lengths)
        self._incoming: Tensor | None = None

    @classmethod
    def of(cls, shape: CacheShape, prefixes: Sequence[Tensor | None], coming: Sequence[int]) -> Self:
        """Rows that begin with ``prefixes`` (``(layers, 2, heads, n, channels)`` each), with room for ``coming`` tokens each.

        Prefixes end where each row's coming tokens begin, when these end at the last column of :meth:`open`.
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
        """Make ready for a run over the next ``max(coming)`` columns, of which each row uses the last ``coming``.

        Returns the mask ``(rows, 1, max(coming), columns)``: true where a token may look. A column that a row does not use sees itself,
        since there must be something to see.
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
        # Where all rows bring as many, there is nothing of theirs to spare.
        self._incoming = None if min(coming) == new else (queries[None] >= (end - incoming)[:, None])[:, None, :, None]
        causal = columns[None, :] <= queries[:, None]
        inside = (columns[None, :] >= starts[:, None])[:, None, :]
        mask = (causal[None] & inside) | (columns[None, :] == queries[:, None])[None]
        self._opened = self.width
        self.width = end
        return mask[:, None]

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Keep a layer's new keys and values, ``(rows, heads, new, channels)``; all of the layer's come back."""
        for which, fresh in enumerate((keys, values)):
            place = self._store[layer, which, :, :, self._opened : self.width]
            # Left of what a row brings may stand the end of its prefix.
            place.copy_(fresh if self._incoming is None else torch.where(self._incoming, fresh, place))
        return self._store[layer, 0, :, :, : self.width], self._store[layer, 1, :, :, : self.width]

    def row(self, number: int) -> Tensor:
        """A copy of what is known of one row, ``(layers, 2, heads, n, channels)``."""
        return self._store[:, :, number, :, self.width - self.lengths[number] : self.width].clone()

    def select(self, rows: Sequence[int]) -> None:
        """Keep these rows, in this order; a row may come several times."""
        lengths = [self.lengths[row] for row in rows]
        dropped = self.width - max(lengths)
        used = self._store[..., dropped : self.width, :]
        self._replace(used.index_select(2, torch.tensor(list(rows), device=used.device)), lengths)

    def join(self, other: "KVCache") -> None:
        """Take in the rows of another cache, after those that are here."""
        width = max(self.width, other.width)
        layers, two, mine, heads, _, channels = self._store.shape
        store = self._store.new_zeros((layers, two, mine + len(other.lengths), heads, width + _ROOM, channels))
        store[:, :, :mine, :, width - self.width : width] = self._store[..., : self.width, :]
        store[:, :, mine:, :, width - other.width : width] = other._store[..., : other.width, :]  # noqa: SLF001 - of its own class
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
    """The longest beginning computed last for each set of images (one for prompts without any).

    What attention computes at a token depends on nothing after it: a beginning of a beginning is as good.
    """

    def __init__(self, most_bytes: int) -> None:
        """``most_bytes``: of keys and values together."""
        self._kept: BytesLru[tuple[SeenKey, ...], _Prefix] = BytesLru(most_bytes, lambda prefix: prefix.states.nbytes)

    @property
    def bytes(self) -> int:
        """What is kept takes so much."""
        return self._kept.bytes

    def longest(self, images: tuple[SeenKey, ...], ids: NDArray[np.int32]) -> Tensor | None:
        """Keys and values ``(layers, 2, heads, n, channels)`` of the first ``n`` of ``ids``, as many as are known."""
        known = self._kept.get(images)
        n = 0 if known is None else common_length([known.ids, ids])
        return known.states[:, :, :, :n] if known is not None and n else None

    def keep(self, images: tuple[SeenKey, ...], ids: NDArray[np.int32], states: Tensor) -> None:
        """Remember the keys and values of ``ids``, unless those of something that begins with them are there."""
        known = self._kept.get(images)
        if known is None or common_length([known.ids, ids]) < len(ids):
            self._kept.put(images, _Prefix(ids, states))

    def forget(self) -> None:
        """Let go of everything."""
        self._kept.clear()


def common_length(several: Sequence[NDArray[np.int32]]) -> int:
    """With how many equal tokens all of these begin."""
    shortest = min(len(ids) for ids in several)
    first = several[0][:shortest]
    for ids in several[1:]:
        different = np.flatnonzero(first != ids[: len(first)])
        if len(different):
            first = first[: different[0]]
    return len(first)
