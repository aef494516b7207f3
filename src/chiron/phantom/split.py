"""Seen and held-out combinations: what a model may be shown a diagnosis of, and what it must find by reasoning."""

from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from chiron.phantom.world import COMBINATIONS, DIAGNOSES, Attributes, World

HELD_OUT_EACH: Final = 2
"""Combinations held out of each diagnosis's six: twelve in all."""


@dataclass(frozen=True)
class Split:
    """The 36 combinations of a world in two parts.

    Every value of every attribute is held out as often as any other of its attribute, and every diagnosis as often as any other, so that
    nothing but the combination itself is new in a held-out case.
    """

    seen: tuple[Attributes, ...]
    """24, in the order of :data:`~chiron.phantom.world.COMBINATIONS`."""
    held_out: tuple[Attributes, ...]
    """12, in the same order."""


@lru_cache(maxsize=8)
def split(world: World) -> Split:
    """The split of a world; it depends on the world's seed alone."""
    rng = np.random.default_rng([world.seed, 0x5EED])
    groups = np.array([[i for i, a in enumerate(COMBINATIONS) if world.diagnose(a) == diagnosis] for diagnosis in DIAGNOSES])
    while True:
        # A fair choice is one in many thousands: tried by the thousand. Shape (tries, diagnoses, held out of each), then flat.
        order = rng.random((5000, *groups.shape)).argsort(axis=2)[..., :HELD_OUT_EACH]
        tries = np.take_along_axis(groups[None], order, axis=2).reshape(len(order), -1)
        fair = np.flatnonzero(_is_fair(tries))
        if len(fair):
            held = set(tries[fair[0]].tolist())
            seen = tuple(a for i, a in enumerate(COMBINATIONS) if i not in held)
            return Split(seen, tuple(a for i, a in enumerate(COMBINATIONS) if i in held))


def _is_fair(tries: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Of each row of combinations, shape (tries, held out), whether every value stands in it as often as the others of its attribute."""
    fair = np.ones(len(tries), dtype=np.bool_)
    for name in (field.name for field in fields(Attributes)):
        values = np.array([getattr(a, name) for a in COMBINATIONS])
        different = np.unique(values)
        for value in different:
            fair &= (values[tries] == value).sum(axis=1) * len(different) == tries.shape[1]
    return fair
