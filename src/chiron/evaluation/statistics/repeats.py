"""One item asked several times: how far figures move from seed to seed, and whether an answer survives another order of its options."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over seeds."""

    mean: float
    sd: float | None
    """Sample standard deviation (divided by n - 1); ``None`` of one seed."""
    low: float
    high: float
    """Smallest and largest."""
    seeds: int

    @classmethod
    def of(cls, figures: Sequence[float]) -> "Spread":
        """Of one figure a seed.

        Raises:
            ValueError: there is none.
        """
        if not figures:
            raise ValueError("no figure to spread")
        sd = statistics.stdev(figures) if len(figures) > 1 else None
        return cls(statistics.fmean(figures), sd, min(figures), max(figures), len(figures))


@dataclass(frozen=True, slots=True)
class Consistency:
    """Whether answers stay the same when the options stand in another order."""

    items: int
    """Asked in at least two orders."""
    always_same: int
    """Items with one and the same answer in every order."""
    always_right: int
    """Items that are right in every order."""
    agreement: float
    """Mean over items of the share of pairs of orders with the same answer; 0 of no items."""

    @classmethod
    def of(cls, items: Iterable[Sequence[tuple[str | None, bool]]]) -> "Consistency":
        """From each item's (answer in words, whether it is right) in every order; items of one order are left out.

        An answer that could not be read (``None``) is the same as no other.
        """
        number = same = right = 0
        agreement = 0.0
        for answers in items:
            if len(answers) < 2:
                continue
            pairs = [a is not None and a == b for (a, _), (b, _) in combinations(answers, 2)]
            number += 1
            same += all(pairs)
            right += all(is_right for _, is_right in answers)
            agreement += sum(pairs) / len(pairs)
        return cls(number, same, right, agreement / number if number else 0.0)
