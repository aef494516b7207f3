"""Which evaluations to ask next: all at once, by exact racing, or by sequential halving. ``docs/search.md`` explains them."""

from collections.abc import Sequence
from math import ceil, floor, log2

from chiron.mics.team import EvaluationName, Score

_EPSILON = 1e-9
"""Scores are ratios of small numbers, so that different ones differ by much more."""


def next_evaluations(method: EvaluationName, scores: Sequence[Score]) -> list[int]:
    """Return how many further evaluations each candidate of a level gets now. All zeros end the level.

    The answer depends on the scores only, so that the same replies lead to the same evaluations in any order of arrival.

    Args:
        method: how candidates are evaluated.
        scores: the candidates' scores so far. Every candidate has the same number of planned evaluations.
    """
    if method == "full":
        return [score.not_asked for score in scores]
    return _racing(scores) if method == "adaptive" else _halving(scores)


def _racing(scores: Sequence[Score]) -> list[int]:
    """Continue with the candidates whose highest possible score is the highest of all.

    Any rule that finds the winner and its ties has to ask these evaluations: their candidates could still win. The others wait, and are
    never asked if the winner's score exceeds the highest score that they could reach. The winner itself is always evaluated completely.
    """
    highest = [score.highest for score in scores]
    counts = []
    for number, score in enumerate(scores):
        others = max((value for other, value in enumerate(highest) if other != number), default=-1.0)
        if highest[number] < others - _EPSILON:
            counts.append(0)
            continue
        # Even if all of these but the last are wrong, no other candidate is ahead.
        needed = 1 + floor((highest[number] - others) * (score.answered + score.not_asked) + _EPSILON)
        counts.append(min(score.not_asked, needed))
    return counts


def _halving(scores: Sequence[Score]) -> list[int]:
    """Give every candidate an equal part of its evaluations, continue with the better half, and repeat; ties with the last one stay.

    Z. Karnin, T. Koren and O. Somekh, Almost Optimal Exploration in Multi-Armed Bandits, ICML 2013. The parts of one candidate are
    equal here, so that the winner ends with all its evaluations.
    """
    if not scores:
        return []
    planned, asked = scores[0].planned, max(score.asked for score in scores)
    racing = [score.asked == asked for score in scores]
    if asked:
        # Nothing is known about a candidate whose calls all failed, so it stays.
        values = [score.value if score.answered else 1.0 for score in scores]
        ranked = sorted((value for value, races in zip(values, racing, strict=True) if races), reverse=True)
        least = ranked[ceil(len(ranked) / 2) - 1]
        racing = [races and value >= least - _EPSILON for value, races in zip(values, racing, strict=True)]
    parts = ceil(log2(len(scores))) + 1
    until = next((end for part in range(1, parts + 1) if (end := round(planned * part / parts)) > asked), planned)
    return [until - asked if races else 0 for races in racing]
