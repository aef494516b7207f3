"""Rules of the synthetic world: attributes, diagnoses, the table between them, and held-out combinations."""

from collections import Counter
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import product
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

Side = Literal["left", "right"]
"""The patient's side; a radiological image shows it on the opposite side."""
Level = Literal["upper", "middle", "lower"]
"""Height of the lesion in the image."""
Size = Literal["small", "medium", "large"]
Density = Literal["dark", "grey", "bright"]
"""Density of the lesion's inside relative to the tissue around it. All modalities share the words, so that texts can be matched."""
Margin = Literal["smooth", "spiculated"]

SIDES: Final[tuple[Side, ...]] = ("left", "right")
LEVELS: Final[tuple[Level, ...]] = ("upper", "middle", "lower")
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
    "Quillow fibroma",
    "Dorrim lipoma",
    "Yelvik teratoma",
)
"""Diagnoses, all invented. No two share a word, so that a word of one answer never occurs in another."""


@dataclass(frozen=True)
class Attributes:
    """True attributes of a lesion, which determine its diagnosis."""

    side: Side
    level: Level
    size: Size
    density: Density
    margin: Margin

    def to_record(self) -> dict[str, str]:
        """Convert to a JSON object."""
        return asdict(self)


COMBINATIONS: Final = tuple(Attributes(*values) for values in product(SIDES, LEVELS, SIZES, DENSITIES, MARGINS))
"""All 108 combinations of attributes, in a fixed order."""


@dataclass(frozen=True)
class Rule:
    """One line of the world's table."""

    attributes: Attributes
    diagnosis: str


@dataclass(frozen=True)
class World:
    """A table from the 108 combinations to the 9 diagnoses, chosen at random among the fair ones.

    In a fair table, each diagnosis has 12 combinations, and every value of every attribute occurs equally often with each diagnosis.
    A single attribute is therefore uninformative.
    """

    seed: int = 0
    """Seed of the world, not negative."""

    def diagnose(self, attributes: Attributes) -> str:
        """Return the diagnosis of a lesion.

        Raises:
            KeyError: a value is not in the vocabulary.
        """
        return _table(self)[attributes]

    def rules(self) -> tuple[Rule, ...]:
        """Return the whole table: 108 rules, in the order of :data:`COMBINATIONS`."""
        return tuple(Rule(attributes, diagnosis) for attributes, diagnosis in _table(self).items())


@lru_cache(maxsize=64)
def _table(world: World) -> dict[Attributes, str]:
    """Return a world's table. Kept for all worlds of the same seed, because it takes a tenth of a second to find."""
    labels = _balanced(np.arange(len(COMBINATIONS)) % len(DIAGNOSES), _ONE_GROUP, np.random.default_rng(world.seed))
    return {attributes: DIAGNOSES[k] for attributes, k in zip(COMBINATIONS, labels, strict=True)}


_ONE_GROUP: Final = np.zeros(len(COMBINATIONS), dtype=np.int64)
_VALUES: Final = [frozenset(f"{name} {value}" for name, value in a.to_record().items()) for a in COMBINATIONS]


def _balanced(labels: NDArray[np.int64], groups: NDArray[np.int64], rng: np.random.Generator) -> list[int]:
    """Shuffle labels within groups, so that every value of an attribute occurs equally often with each label.

    Start from any order and swap the labels of two combinations of a group at a time. Accept a swap that lowers unfairness; accept
    others with Metropolis probability, to leave local minima.

    Args:
        labels: label of each combination, shape (combinations,). Each label's number must allow a fair table.
        groups: group of each combination, shape (combinations,).
        rng: random generator.
    """
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    table: list[int] = labels.tolist()
    for own in members:
        for k, label in zip(own.tolist(), rng.permutation(labels[own]).tolist(), strict=True):
            table[k] = label
    met = Counter((v, label) for held, label in zip(_VALUES, table, strict=True) for v in held)
    sizes, sums = Counter(table), Counter(v for held in _VALUES for v in held)
    target = {(v, label): n * size // len(table) for v, n in sums.items() for label, size in sizes.items()}
    unfairness = sum((met[key] - wanted) ** 2 for key, wanted in target.items())
    while unfairness:
        own = members[int(rng.integers(len(members)))]
        i, j = own[rng.integers(len(own), size=2)].tolist()
        one, other = table[i], table[j]
        if one == other:
            continue
        moved = [(v, one, other) for v in _VALUES[i] - _VALUES[j]] + [(v, other, one) for v in _VALUES[j] - _VALUES[i]]
        change = sum(2 + 2 * (met[v, to] - target[v, to]) - 2 * (met[v, away] - target[v, away]) for v, away, to in moved)
        if change <= 0.3 * rng.exponential():
            table[i], table[j] = other, one
            unfairness += change
            met.update((v, to) for v, _, to in moved)
            met.subtract((v, away) for v, away, _ in moved)
    return table


HELD_OUT_EACH: Final = 4
"""Number of combinations held out of each diagnosis's twelve: 36 in all."""


@dataclass(frozen=True)
class Split:
    """Split of a world's 108 combinations into seen and held-out ones.

    Values of an attribute are held out equally often, and so are diagnoses. Only the combination itself is therefore new in a
    held-out case.
    """

    seen: tuple[Attributes, ...]
    """72 combinations, in the order of :data:`~chiron.phantom.world.COMBINATIONS`."""
    held_out: tuple[Attributes, ...]
    """36 combinations, in the same order."""


@lru_cache(maxsize=8)
def split(world: World) -> Split:
    """Return the split of a world, which depends only on the world's seed."""
    groups = np.array([DIAGNOSES.index(world.diagnose(a)) for a in COMBINATIONS])
    labels = np.zeros(len(COMBINATIONS), dtype=np.int64)
    for group in range(len(DIAGNOSES)):
        labels[np.flatnonzero(groups == group)[:HELD_OUT_EACH]] = 1
    held = _balanced(labels, groups, np.random.default_rng([world.seed, 0x5EED]))
    parts = [tuple(a for a, label in zip(COMBINATIONS, held, strict=True) if label == wanted) for wanted in (0, 1)]
    return Split(*parts)
