"""The figures of one model on one benchmark, made again from its items."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from chiron.evaluation.intervals import Share
from chiron.evaluation.record import ItemResult, Verdict
from chiron.evaluation.runs import Arm
from chiron.evaluation.statistics.bootstrap import clustered_difference, clustered_mean
from chiron.evaluation.statistics.paired import Pairs, newcombe
from chiron.evaluation.statistics.repeats import Consistency, Spread

Method = Literal["Wilson", "Newcombe", "bootstrap"]


@dataclass(frozen=True, slots=True)
class Figure:
    """A mean with its 95 % interval."""

    value: float
    interval: tuple[float, float] | None
    """``None`` where nothing can be said: all items are about one image."""
    of: int
    """Answers that went into it."""
    method: Method
    """``bootstrap`` draws groups (images); the others take observations as independent: items that are, or as many as there are groups."""


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
    def unparsed_share(self) -> float:
        """Of all that was asked."""
        return self.unparsed / self.asked


def accuracy(results: Sequence[ItemResult]) -> Accuracy:
    """Of answers to one benchmark under one protocol and control: all of them, or those of one label.

    The interval is Wilson's where every item is a group of its own and was asked once, else that of a bootstrap over groups.

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
    """Means of the other metrics by name, each over the answers that have it, with a bootstrap over groups.

    Of a judge's yes and no, all alike, that has no width, and Wilson's interval takes its place, of no more answers than there are groups.
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

    Newcombe's interval where every item is a group of its own and was asked once, else that of a bootstrap over groups. Where no group
    differs from another that has no width, and Newcombe's takes its place, of no more items than there are groups.

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
    if mean.interval is not None and _no_width(*mean.interval):
        return Figure(mean.value, newcombe(pairs.scaled_to(mean.groups)), len(ids), "Newcombe")
    return Figure(mean.value, mean.interval, mean.of, "bootstrap")


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
    if mean.interval is not None and _no_width(*mean.interval) and set(values) <= {0.0, 1.0}:
        return Figure(mean.value, Share(mean.value * mean.groups, mean.groups).interval, mean.of, "Wilson")
    return Figure(mean.value, mean.interval, mean.of, "bootstrap")


def _share(results: Sequence[ItemResult], right: int, groups: int) -> Figure:
    asked = len(results)
    if groups == asked:
        share = Share(right, asked)
        return Figure(share.value, share.interval, asked, "Wilson")
    mean = clustered_mean([float(r.right) for r in results], [group_of(r) for r in results])
    if mean.interval is not None and _no_width(*mean.interval):
        # All groups are as good as each other, so the bootstrap knows no width: Wilson's, of no more observations than there are groups.
        return Figure(mean.value, Share(right * groups / asked, groups).interval, asked, "Wilson")
    return Figure(mean.value, mean.interval, asked, "bootstrap")


def _no_width(low: float, high: float) -> bool:
    # Means of resamples of the same values differ in their last bits.
    return high - low < 1e-9


def _mean(results: Sequence[ItemResult]) -> float:
    return sum(r.right for r in results) / len(results)
