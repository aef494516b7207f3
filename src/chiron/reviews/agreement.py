"""Agreement between reviewers, and how well a score predicts their verdicts."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from operator import ne
from typing import TypeVar

from chiron.reviews.records import ReviewRecord, by_path, current_reviews, status_of

Ratings = Mapping[str, str]
"""Category by reviewer, for one unit."""
Rating = TypeVar("Rating", str, float)


@dataclass(frozen=True)
class PairAgreement:
    reviewers: tuple[str, str]
    units: int
    """Number of units that both rated."""
    observed: float
    """Share of units with the same category."""
    kappa: float | None
    """Cohen's kappa; ``None`` if both used only one and the same category."""


@dataclass(frozen=True)
class Agreement:
    units: int
    """Number of units with at least two ratings."""
    alpha: float | None
    """Krippendorff's alpha for nominal categories; ``None`` if fewer than two categories were used."""
    pairs: tuple[PairAgreement, ...]


def cohens_kappa(pairs: Sequence[tuple[Rating, Rating]], distance: Callable[[Rating, Rating], float] = ne) -> float | None:
    """Return Cohen's kappa, ``1 - d_o / d_e``, of the observed mean distance and that of chance (J. Cohen, 1960, and weighted 1968).

    ``None`` without pairs, or if ``d_e`` is 0. By default, unequal ratings have the distance 1.
    """
    if not pairs:
        return None
    first, second = Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    observed = sum(distance(a, b) for a, b in pairs) / len(pairs)
    expected = sum(distance(a, b) * m * n for a, m in first.items() for b, n in second.items()) / len(pairs) ** 2
    return 1 - observed / expected if expected else None


def krippendorffs_alpha(units: Sequence[Sequence[str]]) -> float | None:
    """Return Krippendorff's alpha for nominal data, ``1 - D_o / D_e``. Units with fewer than two ratings do not count."""
    rated = [Counter(unit) for unit in units if len(unit) > 1]
    totals = sum(rated, Counter[str]())
    number = totals.total()
    expected = number**2 - sum(count**2 for count in totals.values())
    if not expected:
        return None
    observed = sum((unit.total() ** 2 - sum(count**2 for count in unit.values())) / (unit.total() - 1) for unit in rated)
    return 1 - (number - 1) * observed / expected


def agreement(units: Sequence[Ratings]) -> Agreement:
    names = sorted({name for unit in units for name in unit})
    pairs = []
    for a, b in combinations(names, 2):
        both = [(unit[a], unit[b]) for unit in units if a in unit and b in unit]
        if both:
            pairs.append(PairAgreement((a, b), len(both), sum(x == y for x, y in both) / len(both), cohens_kappa(both)))
    several = [list(unit.values()) for unit in units if len(unit) > 1]
    return Agreement(len(several), krippendorffs_alpha(several), tuple(pairs))


def agreement_of_reviews(events: Sequence[ReviewRecord]) -> tuple[Agreement, Agreement]:
    """Return the agreement per step (the final answer counts as a step) and per path.

    Only reviews before the adjudication of a path count, because a reviewer may have seen the others' verdicts then.
    """
    steps: list[Ratings] = []
    paths: list[Ratings] = []
    for of_path in by_path(events).values():
        adjudicated = next((n for n, event in enumerate(of_path) if event["kind"] == "adjudication"), len(of_path))
        reviews = current_reviews(of_path[:adjudicated])
        paths.append({name: status_of(review) for name, review in reviews.items()})
        verdicts = {name: [*review["steps"], review["final"]] for name, review in reviews.items()}
        columns = zip(*verdicts.values(), strict=True)
        steps += [{name: v["verdict"] for name, v in zip(verdicts, column, strict=True) if v is not None} for column in columns]
    return agreement(steps), agreement(paths)


def auc(positive: Sequence[float], negative: Sequence[float]) -> float | None:
    """Return the area under the ROC curve: the probability that a positive has a higher score than a negative; ties count half.

    ``None`` if one of the groups is empty.
    """
    if not positive or not negative:
        return None
    ups, downs = Counter(positive), Counter(negative)
    below, area = 0, 0.0
    for score in sorted(ups | downs):
        area += ups[score] * (below + downs[score] / 2)
        below += downs[score]
    return area / (len(positive) * len(negative))
