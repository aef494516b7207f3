"""Keys and values of several rows of different lengths, in one block that grows to the right."""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor

from chiron.models.local.family import Family

_ROOM = 128
"""Columns that are added when there is no more room: growing copies everything, so it is not done for every token."""


class RowCache:
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
    def of(cls, family: Family, prefixes: Sequence[Tensor | None], coming: Sequence[int]) -> Self:
        """Rows that begin with ``prefixes`` (``(layers, 2, heads, n, channels)`` each), with room for ``coming`` tokens each.

        Prefixes end where each row's coming tokens begin, when these end at the last column of :meth:`open`.
        """
        layers, heads, channels = family.cache_shape
        known = [0 if prefix is None else prefix.shape[3] for prefix in prefixes]
        total = max(n + new for n, new in zip(known, coming, strict=True))
        longest = max(coming)
        store = torch.zeros((layers, 2, len(prefixes), heads, total + _ROOM, channels), dtype=family.dtype, device=family.device)
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

    def join(self, other: "RowCache") -> None:
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
