"""The world's truth: four attributes, six invented diagnoses, and the table that leads from the ones to the others."""

from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import combinations, product
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


@dataclass(frozen=True)
class Rule:
    """One line of the world's table."""

    attributes: Attributes
    diagnosis: str


@dataclass(frozen=True)
class World:
    """A table from the 36 combinations to the 6 diagnoses, drawn at random among the fair ones.

    Fair means: a diagnosis has 6 combinations, and every value of every attribute is found equally often with each diagnosis,
    so that a single attribute tells nothing at all; and no two attributes together make a diagnosis likelier than one half.
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
        rng = np.random.default_rng(self.seed)
        names = rng.permutation(len(DIAGNOSES))
        assigned = _fair_assignment(rng)
        return {a: DIAGNOSES[names[k]] for a, k in zip(COMBINATIONS, assigned, strict=True)}


def _fair_assignment(rng: np.random.Generator) -> NDArray[np.int64]:
    """A diagnosis number for each combination. Half of the singly fair tables or so are doubly fair: a few draws suffice."""
    values = _membership(1)
    pairs = _membership(2)
    while True:
        assigned = _singly_fair(values, rng)
        if bool((_counts(pairs, assigned) * 2 <= pairs.sum(axis=1, keepdims=True)).all()):
            return assigned


def _singly_fair(values: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Swap two combinations as long as it does no harm, until every value meets every diagnosis equally often."""
    fair = values.sum(axis=1, keepdims=True) // len(DIAGNOSES)
    assigned = rng.permutation(np.arange(len(COMBINATIONS)) % len(DIAGNOSES))
    unfairness = int(((_counts(values, assigned) - fair) ** 2).sum())
    while unfairness:
        one, other = rng.integers(len(COMBINATIONS), size=2)
        swapped = assigned.copy()
        swapped[[one, other]] = assigned[[other, one]]
        after = int(((_counts(values, swapped) - fair) ** 2).sum())
        # Now and then a step uphill is taken, or the walk would stay in a hollow for ever.
        if after <= unfairness or rng.random() < 0.02:
            assigned, unfairness = swapped, after
    return assigned


def _membership(together: int) -> NDArray[np.int64]:
    """Rows: every choice of values of so many attributes at once. Columns: whether each combination has them (0 or 1)."""
    rows = []
    for names in combinations(("side", "size", "density", "margin"), together):
        held = [tuple(getattr(a, name) for name in names) for a in COMBINATIONS]
        rows += [[int(h == values) for h in held] for values in dict.fromkeys(held)]
    return np.array(rows, dtype=np.int64)


def _counts(membership: NDArray[np.int64], assigned: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often each row's values meet each diagnosis; shape (rows, diagnoses)."""
    return membership @ np.eye(len(DIAGNOSES), dtype=np.int64)[assigned]
