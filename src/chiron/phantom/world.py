"""The world's truth: attributes, diagnoses, the table between them, and which combinations are held out."""

from collections import Counter
from dataclasses import asdict, dataclass, fields
from functools import cached_property, lru_cache
from itertools import product
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

Side = Literal["left", "right"]
"""The patient's side, which a radiological picture shows on the opposite side of the image."""
Size = Literal["small", "medium", "large"]
Density = Literal["dark", "grey", "bright"]
"""Of the lesion's inside against the tissue around it: one vocabulary for all modalities, so that words can be matched."""
Margin = Literal["smooth", "spiculated"]

SIDES: Final[tuple[Side, ...]] = ("left", "right")
SIZES: Final[tuple[Size, ...]] = ("small", "medium", "large")
DENSITIES: Final[tuple[Density, ...]] = ("dark", "grey", "bright")
MARGINS: Final[tuple[Margin, ...]] = ("smooth", "spiculated")

DIAGNOSES: Final = (
    "Corvane nodule",
    "Teldrith hamartoma",
    "Ostwen granuloma",
    "Marlune adenoma",
    "Brithel myxoma",
    "Zandovar pseudotumour",
)
"""The diagnoses, all invented. No two share a word, so that a word of an answer is never a word of another one."""


@dataclass(frozen=True)
class Attributes:
    """What is true of a lesion, and all that its diagnosis depends on."""

    side: Side
    size: Size
    density: Density
    margin: Margin

    def to_record(self) -> dict[str, str]:
        """The attributes as a JSON object, by name."""
        return asdict(self)


COMBINATIONS: Final = tuple(Attributes(*values) for values in product(SIDES, SIZES, DENSITIES, MARGINS))
"""All 36 combinations of attributes, in a fixed order."""

_NAMES: Final = tuple(field.name for field in fields(Attributes))


@dataclass(frozen=True)
class Rule:
    """One line of the world's table."""

    attributes: Attributes
    diagnosis: str


@dataclass(frozen=True)
class World:
    """A table from the 36 combinations to the 6 diagnoses, drawn at random among the fair ones.

    Fair means: a diagnosis has 6 combinations, and every value of every attribute is found equally often with each diagnosis,
    so that a single attribute tells nothing at all. It follows that two together never make a diagnosis likelier than one half.
    """

    seed: int = 0
    """Not negative. The same seed is the same world."""

    def diagnose(self, attributes: Attributes) -> str:
        """The diagnosis of a lesion.

        Raises:
            KeyError: a value is none of the vocabulary's.
        """
        return self._table[attributes]

    def rules(self) -> tuple[Rule, ...]:
        """The whole table: 36 rules, in the order of :data:`COMBINATIONS`."""
        return tuple(Rule(attributes, diagnosis) for attributes, diagnosis in self._table.items())

    @cached_property
    def _table(self) -> dict[Attributes, str]:
        return dict(zip(COMBINATIONS, _fair_assignment(np.random.default_rng(self.seed)), strict=True))


def _fair_assignment(rng: np.random.Generator) -> list[str]:
    """A diagnosis for each combination, so that every value meets every diagnosis equally often.

    Starts from any balanced table and swaps the diagnoses of two combinations at a time, which keeps it balanced: downhill in
    unfairness always, uphill with the odds of a Metropolis walk, or it would stay in a hollow for ever.
    """
    table = [DIAGNOSES[k] for k in rng.permutation(np.arange(len(COMBINATIONS)) % len(DIAGNOSES))]
    values = [{f"{name} {getattr(a, name)}" for name in _NAMES} for a in COMBINATIONS]
    met = Counter((v, diagnosis) for held, diagnosis in zip(values, table, strict=True) for v in held)
    sums = Counter(v for held in values for v in held)
    unfairness = sum((met[v, d] - n // len(DIAGNOSES)) ** 2 for v, n in sums.items() for d in DIAGNOSES)
    while unfairness:
        i, j = rng.integers(len(COMBINATIONS), size=2).tolist()
        one, other = table[i], table[j]
        if one == other:
            continue
        lost, gained = values[i] - values[j], values[j] - values[i]
        change = sum(2 - 2 * met[v, one] + 2 * met[v, other] for v in lost)
        change += sum(2 + 2 * met[v, one] - 2 * met[v, other] for v in gained)
        if change <= 0.8 * rng.exponential():
            table[i], table[j] = other, one
            unfairness += change
            met.update([(v, other) for v in lost] + [(v, one) for v in gained])
            met.subtract([(v, one) for v in lost] + [(v, other) for v in gained])
    return table


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
