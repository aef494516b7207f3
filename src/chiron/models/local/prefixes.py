"""What was computed of the beginnings of prompts, kept for the prompts that begin the same."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from chiron.models.local.family import SeenKey
from chiron.models.local.lru import BytesLru


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
