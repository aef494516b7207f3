"""The figures of one model on one benchmark, made again from its items."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from chiron.evaluation.items import ItemResult, Verdict
from chiron.evaluation.read_runs import Arm
from chiron.evaluation.statistics.intervals import Consistency, Estimate, Share, Spread, clustered_difference, clustered_mean
from chiron.evaluation.statistics.paired import Pairs, newcombe

Method = Literal["Wilson", "Newcombe", "cluster t"]
FEW_IMAGES = 20
"""Below so many images a table says so: intervals cover less than they claim there, and a test finds only large differences."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A mean with its 95 % interval."""

    value: float
    interval: tuple[float, float] | None
    """``None`` where nothing can be said: all items are about one image."""
    of: int
    """Answers that went into it."""
    method: Method
    """``cluster t`` takes groups (images) as independent; the others take observations as independent: items that are, or as many as
    there are groups."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Right answers of all. What is unparsed, unjudged, unusable or pending is in ``asked``, and not right."""

    share: Figure
    right: int
    asked: int
    """Items times seeds."""
    items: int
    """The benchmark's N, or of a label the items that bear it."""
    groups: int
    """Images, or sets of images."""
    unparsed: int
    unjudged: int
    unusable: int
    pending: int
    seeds: Spread | None
    """Accuracy over seeds; ``None`` of one seed."""
    missing_left_out: Share
    """Right of the answers that could be read: how the paper's own script counts (protocol ``chiron_judge``)."""

    @property
    def has_few_images(self) -> bool:
        """Whether its interval and any test of it are rough."""
        return self.groups < FEW_IMAGES

    @property
    def unparsed_share(self) -> float:
        """Of all that was asked."""
        return self.unparsed / self.asked


def accuracy(results: Sequence[ItemResult]) -> Accuracy:
    """Of answers to one benchmark under one protocol and control: all of them, or those of one label.

    The interval is Wilson's where every item is a group of its own and was asked once, else a cluster-robust t interval on the logit scale.

    Raises:
        ValueError: there are none.
    """
    verdicts = Counter(r.verdict for r in results)
    right, asked, groups = verdicts[Verdict.RIGHT], len(results), len({group_of(r) for r in results})
    by_seed: dict[int, list[bool]] = {}
    for result in results:
        by_seed.setdefault(result.seed, []).append(result.right)
    return Accuracy(
        share=_share(results, right, groups),
        right=right,
        asked=asked,
        items=len({r.id for r in results}),
        groups=groups,
        unparsed=verdicts[Verdict.UNPARSED],
        unjudged=verdicts[Verdict.UNJUDGED],
        unusable=verdicts[Verdict.UNUSABLE],
        pending=verdicts[Verdict.PENDING],
        seeds=Spread.of([sum(s) / len(s) for s in by_seed.values()]) if len(by_seed) > 1 else None,
        missing_left_out=Share(right, right + verdicts[Verdict.WRONG]),
    )


def by_label(results: Sequence[ItemResult], label: str) -> dict[str, list[ItemResult]]:
    """Answers by their items' value of a label, the most frequent first; items without it are under ``(none)``."""
    found: dict[str, list[ItemResult]] = {}
    for result in results:
        found.setdefault(result.labels.get(label) or "(none)", []).append(result)
    return dict(sorted(found.items(), key=lambda pair: (pair[0] == "(none)", -len(pair[1]), pair[0])))


def scores(results: Sequence[ItemResult]) -> dict[str, Figure]:
    """Means of the other metrics by name, each over the answers that have it, with a cluster-robust t interval.

    If all values are in [0, 1] it is on the logit scale, and where all groups score alike Wilson's takes its place, of as many
    answers as there are groups. Of other values that are all alike there is no interval.
    """
    names = dict.fromkeys(name for r in results for name in r.scores)
    figures = {}
    for name in names:
        scored = [(value, group_of(r)) for r in results if (value := r.scores.get(name)) is not None]
        if scored:
            figures[name] = _mean_score([value for value, _ in scored], [group for _, group in scored])
    return figures


def difference(first: Arm, second: Arm) -> Figure:
    """Accuracy of ``first`` less that of ``second`` on the items that both were asked, over the means of their seeds.

    Newcombe's interval where every item is a group of its own and was asked once, else a cluster-robust t interval. Where no group
    differs from another that has no width, and Newcombe's takes its place, of as many items as there are groups.

    Raises:
        ValueError: they have no item in common.
    """
    ids = [id_ for id_ in first.by_id if id_ in second.by_id]
    groups = [group_of(first.by_id[id_][0]) for id_ in ids]
    shares = [(_mean(first.by_id[id_]), _mean(second.by_id[id_])) for id_ in ids]
    # Shares are 0 or 1 of an item that was asked once; of several seeds, how often both would be right.
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
    """Whether answers stay the same over the orders of ``shuffle-options``; the order as published is one more."""
    orders = {id_: [(r.given, r.right) for r in results] for id_, results in shuffled.by_id.items()}
    for id_, result in real.first.items() if real else ():
        if id_ in orders:
            orders[id_].append((result.given, result.right))
    return Consistency.of(orders.values())


def group_of(result: ItemResult) -> str:
    """What it is not independent of; an item without a group is alone."""
    return result.group or f"item {result.id}"


def _mean_score(values: Sequence[float], groups: Sequence[str]) -> Figure:
    mean = clustered_mean(values, groups)
    if min(values) >= 0 and max(values) <= 1:
        return _clustered_share(mean)
    return Figure(mean.value, mean.interval, mean.of, "cluster t")


def _share(results: Sequence[ItemResult], right: int, groups: int) -> Figure:
    asked = len(results)
    if groups == asked:
        share = Share(right, asked)
        return Figure(share.value, share.interval, asked, "Wilson")
    return _clustered_share(clustered_mean([float(r.right) for r in results], [group_of(r) for r in results]))


def _clustered_share(mean: Estimate) -> Figure:
    """Of values in [0, 1]."""
    if mean.groups >= 2 and not mean.has_width:
        # All groups are as good as each other: Wilson's interval, of as many observations as there are groups.
        return Figure(mean.value, Share(mean.value * mean.groups, mean.groups).interval, mean.of, "Wilson")
    return Figure(mean.value, mean.share_interval, mean.of, "cluster t")


def _mean(results: Sequence[ItemResult]) -> float:
    return sum(r.right for r in results) / len(results)
