"""Figures of one model on one benchmark, recomputed from its items."""

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

from chiron.evaluation.items import ItemResult, Verdict
from chiron.evaluation.read_runs import Arm
from chiron.evaluation.samples import sample_scores
from chiron.evaluation.statistics import Consistency, Pairs, Share, Spread, clustered_difference, clustered_mean, newcombe

Method = Literal["Wilson", "Newcombe", "cluster t"]
FEW_IMAGES = 20
"""Tables warn below this number of images: intervals cover less than they claim, and tests find only large differences."""

PART, WHOLE = "/part", "/whole"
"""Ends of the names of two counts of an answer. Their sums over all answers make up a share, such as that of claims with a verdict."""


def shown_scores(result: ItemResult) -> dict[str, float]:
    """Return the scores of an answer that mean something alone: those that it has, without :data:`PART` and :data:`WHOLE`."""
    return {name: value for name, value in result.scores.items() if value is not None and not name.endswith((PART, WHOLE))}


@dataclass(frozen=True, slots=True)
class Figure:
    """A mean with its 95% interval."""

    value: float
    interval: tuple[float, float] | None
    """``None`` where no interval can be computed, for example when all items share one image."""
    of: int
    """Number of answers."""
    method: Method
    """How the interval was computed. ``cluster t`` assumes independent groups (images). The other methods assume independent observations
    and are used where the items are independent or are scaled to the number of groups.
    """


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Right answers out of all. Unparsed, unjudged, unusable and pending answers count in ``asked`` and are not right."""

    share: Figure
    right: int
    asked: int
    """Items times seeds."""
    items: int
    """The benchmark's N; for a label, the number of items with that label."""
    groups: int
    """Number of images, or of sets of images."""
    unparsed: int
    unjudged: int
    unusable: int
    pending: int
    scored: int
    """Answers that only have scores. If there are any, ``share`` means nothing."""
    seeds: Spread | None
    """Accuracy over seeds; ``None`` with one seed."""
    missing_left_out: Share
    """Right answers out of those that could be read. The paper's own script counts this way (protocol ``chiron_judge``)."""

    @property
    def has_few_images(self) -> bool:
        """Whether the interval and the tests are only approximate because there are few images."""
        return self.groups < FEW_IMAGES


def accuracy(results: Sequence[ItemResult]) -> Accuracy:
    """Compute the accuracy from answers to one benchmark under one protocol and control, or from those of one label.

    The interval is Wilson's where every item is its own group and was asked once. Otherwise it is a cluster-robust t interval on the logit
    scale.
    """
    verdicts = Counter(r.verdict for r in results)
    right, asked, groups = verdicts[Verdict.RIGHT], len(results), [group_of(r) for r in results]
    by_seed: dict[int, list[bool]] = {}
    for result in results:
        by_seed.setdefault(result.seed, []).append(result.right)
    wilson, independent = Share(right, asked), len(set(groups)) == asked
    share = Figure(wilson.value, wilson.interval, asked, "Wilson") if independent else clustered_share([r.right for r in results], groups)
    return Accuracy(
        share=share,
        right=right,
        asked=asked,
        items=len({r.id for r in results}),
        groups=len(set(groups)),
        unparsed=verdicts[Verdict.UNPARSED],
        unjudged=verdicts[Verdict.UNJUDGED],
        unusable=verdicts[Verdict.UNUSABLE],
        pending=verdicts[Verdict.PENDING],
        scored=verdicts[Verdict.SCORED],
        seeds=Spread.of([sum(s) / len(s) for s in by_seed.values()]),
        missing_left_out=Share(right, right + verdicts[Verdict.WRONG]),
    )


def by_label(results: Sequence[ItemResult], label: str) -> dict[str, list[ItemResult]]:
    """Group answers by their items' value of a label, the most frequent first. Items without the label are under ``(none)``."""
    found: dict[str, list[ItemResult]] = {}
    for result in results:
        found.setdefault(result.labels.get(label) or "(none)", []).append(result)
    return dict(sorted(found.items(), key=lambda pair: (pair[0] == "(none)", -len(pair[1]), pair[0])))


def scores(results: Sequence[ItemResult]) -> dict[str, Figure]:
    """Compute the means of the other metrics by name. Each covers the answers that have it, with a cluster-robust t interval.

    Where items were asked several times, this includes :func:`~chiron.evaluation.samples.sample_scores`, with one value per item.

    If all values are in [0, 1], the interval is on the logit scale. Where all groups also have the same mean, Wilson's interval is used,
    with the number of groups as the number of observations. Other values that are all equal have no interval.
    """
    names = dict.fromkeys(name for r in results for name in r.scores if not name.endswith((PART, WHOLE)))
    figures = pooled_shares(results)
    named = {name: [(value, r) for r in results if (value := r.scores.get(name)) is not None] for name in names}
    for name, scored in {**named, **sample_scores(results)}.items():
        if scored:
            figures[name] = _mean_score([value for value, _ in scored], [group_of(r) for _, r in scored])
    return figures


def pooled_shares(results: Sequence[ItemResult]) -> dict[str, Figure]:
    """Compute each ratio of sums (:data:`PART`, :data:`WHOLE`), with the interval of its linearization by groups."""
    figures = {}
    for name in dict.fromkeys(n.removesuffix(PART) for r in results for n in r.scores if n.endswith(PART)):
        both = [(r.scores.get(name + PART), r.scores.get(name + WHOLE), group_of(r)) for r in results]
        counts = [(part, whole, group) for part, whole, group in both if part is not None and whole is not None]
        total = sum(whole for _, whole, _ in counts)
        if total:
            share = sum(part for part, _, _ in counts) / total
            linear = [share + (part - share * whole) * len(counts) / total for part, whole, _ in counts]
            mean = clustered_mean(linear, [group for *_, group in counts])
            interval = None if mean.interval is None else (max(0.0, mean.interval[0]), min(1.0, mean.interval[1]))
            figures[name] = Figure(share, interval, len(counts), "cluster t")
    return figures


def difference(first: Arm, second: Arm) -> Figure:
    """Compute the accuracy of ``first`` minus that of ``second`` on the items that both were asked, averaged over seeds.

    The interval is Newcombe's where every item is its own group and was asked once. Otherwise it is a cluster-robust t interval. That
    interval has no width where all groups have the same difference; then Newcombe's replaces it, scaled to the number of groups.

    Raises:
        ValueError: the two have no item in common.
    """
    ids = [id_ for id_ in first.by_id if id_ in second.by_id]
    groups = [group_of(first.by_id[id_][0]) for id_ in ids]
    shares = [(_mean(first.by_id[id_]), _mean(second.by_id[id_])) for id_ in ids]
    # An item asked once has share 0 or 1. With several seeds, the products are how often both would be right.
    pairs = Pairs(*(sum(part) for part in zip(*((a * b, a * (1 - b), (1 - a) * b, (1 - a) * (1 - b)) for a, b in shares), strict=True)))
    if len(first.by_seed) == len(second.by_seed) == 1 and len(set(groups)) == len(ids):
        return Figure(pairs.difference, newcombe(pairs), len(ids), "Newcombe")
    mean = clustered_difference([a for a, _ in shares], [b for _, b in shares], groups)
    if mean.interval is None:
        interval = newcombe(pairs.scaled_to(mean.groups)) if mean.groups >= 2 else None
        return Figure(mean.value, interval, len(ids), "Newcombe" if interval else "cluster t")
    low, high = mean.interval
    return Figure(mean.value, (max(-1.0, low), min(1.0, high)), mean.of, "cluster t")


def consistency(shuffled: Arm, real: Arm | None) -> Consistency:
    """Measure how often answers stay the same over the option orders of ``shuffle-options``. The published order counts as one more."""
    orders = {id_: [(r.given, r.right) for r in results] for id_, results in shuffled.by_id.items()}
    for id_, result in real.first.items() if real else ():
        if id_ in orders:
            orders[id_].append((result.given, result.right))
    return Consistency.of(orders.values())


def group_of(result: ItemResult) -> str:
    """Return the group whose items depend on each other; an item without a group is its own group."""
    return result.group or f"item {result.id}"


def _mean_score(values: Sequence[float], groups: Sequence[str]) -> Figure:
    if min(values) >= 0 and max(values) <= 1:
        return clustered_share(values, groups)
    mean = clustered_mean(values, groups)
    return Figure(mean.value, mean.interval, mean.of, "cluster t")


def clustered_share(values: Sequence[float], groups: Sequence[Hashable]) -> Figure:
    """Compute a mean of values in [0, 1] with a cluster-robust t interval on the logit scale.

    Raises:
        ValueError: nothing is given, or the lengths differ.
    """
    mean = clustered_mean(values, groups)
    if mean.groups >= 2 and not mean.has_width:
        # All groups have the same mean, so use Wilson's interval with as many observations as groups.
        return Figure(mean.value, Share(mean.value * mean.groups, mean.groups).interval, mean.of, "Wilson")
    return Figure(mean.value, mean.share_interval, mean.of, "cluster t")


def _mean(results: Sequence[ItemResult]) -> float:
    return sum(r.right for r in results) / len(results)
