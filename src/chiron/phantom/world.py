"""Rules of the synthetic world: attributes, diagnoses, the table between them, and held-out combinations."""

from collections import Counter
from dataclasses import asdict, dataclass, fields
from functools import cached_property, lru_cache
from itertools import product
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

Side = Literal["left", "right"]
"""The patient's side; a radiological image shows it on the opposite side."""
Size = Literal["small", "medium", "large"]
Density = Literal["dark", "grey", "bright"]
"""Density of the lesion's inside relative to the tissue around it. All modalities share the words, so that texts can be matched."""
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
"""Diagnoses, all invented. No two share a word, so that a word of one answer never occurs in another."""


@dataclass(frozen=True)
class Attributes:
    """True attributes of a lesion, which determine its diagnosis."""

    side: Side
    size: Size
    density: Density
    margin: Margin

    def to_record(self) -> dict[str, str]:
        """Convert to a JSON object."""
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
    """A table from the 36 combinations to the 6 diagnoses, chosen at random among the fair ones.

    In a fair table, each diagnosis has 6 combinations, and every value of every attribute occurs equally often with each diagnosis.
    A single attribute is therefore uninformative, and two together never make a diagnosis more likely than one half.
    """

    seed: int = 0
    """Seed of the world, not negative."""

    def diagnose(self, attributes: Attributes) -> str:
        """Return the diagnosis of a lesion.

        Raises:
            KeyError: a value is not in the vocabulary.
        """
        return self._table[attributes]

    def rules(self) -> tuple[Rule, ...]:
        """Return the whole table: 36 rules, in the order of :data:`COMBINATIONS`."""
        return tuple(Rule(attributes, diagnosis) for attributes, diagnosis in self._table.items())

    @cached_property
    def _table(self) -> dict[Attributes, str]:
        return dict(zip(COMBINATIONS, _fair_assignment(np.random.default_rng(self.seed)), strict=True))


def _fair_assignment(rng: np.random.Generator) -> list[str]:
    """Assign a diagnosis to each combination, so that every value occurs equally often with every diagnosis.

    Start from any balanced table and swap the diagnoses of two combinations at a time, which keeps it balanced. Accept a swap that
    lowers unfairness; accept others with Metropolis probability, to leave local minima.
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
"""Number of combinations held out of each diagnosis's six: twelve in all."""


@dataclass(frozen=True)
class Split:
    """Split of a world's 36 combinations into seen and held-out ones.

    Values of an attribute are held out equally often, and so are diagnoses. Only the combination itself is therefore new in a
    held-out case.
    """

    seen: tuple[Attributes, ...]
    """24 combinations, in the order of :data:`~chiron.phantom.world.COMBINATIONS`."""
    held_out: tuple[Attributes, ...]
    """12 combinations, in the same order."""


@lru_cache(maxsize=8)
def split(world: World) -> Split:
    """Return the split of a world, which depends only on the world's seed."""
    rng = np.random.default_rng([world.seed, 0x5EED])
    groups = np.array([[i for i, a in enumerate(COMBINATIONS) if world.diagnose(a) == diagnosis] for diagnosis in DIAGNOSES])
    while True:
        # Only one choice in many thousands is fair, so try thousands at once. Shape (tries, diagnoses, held out of each), then flat.
        order = rng.random((5000, *groups.shape)).argsort(axis=2)[..., :HELD_OUT_EACH]
        tries = np.take_along_axis(groups[None], order, axis=2).reshape(len(order), -1)
        fair = np.flatnonzero(_is_fair(tries))
        if len(fair):
            held = set(tries[fair[0]].tolist())
            seen = tuple(a for i, a in enumerate(COMBINATIONS) if i not in held)
            return Split(seen, tuple(a for i, a in enumerate(COMBINATIONS) if i in held))


def _is_fair(tries: NDArray[np.int64]) -> NDArray[np.bool_]:
    """For each row of combinations, shape (tries, held out), check whether the values of each attribute occur equally often."""
    fair = np.ones(len(tries), dtype=np.bool_)
    for name in (field.name for field in fields(Attributes)):
        values = np.array([getattr(a, name) for a in COMBINATIONS])
        different = np.unique(values)
        for value in different:
            fair &= (values[tries] == value).sum(axis=1) * len(different) == tries.shape[1]
    return fair
