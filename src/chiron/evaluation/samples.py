"""Several samples of each item: majority vote, pass@k, best of k, and calibration of the votes.

An answer is *right* as its protocol counts it. Pending samples are left out; unparsed ones are samples without a vote.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import comb
from statistics import fmean
from typing import TypedDict

from chiron.evaluation.answers.open_answers import normal_form
from chiron.evaluation.items import ItemResult, Verdict

RANK, REWARD = "rank:", "reward:"
"""Prefixes of the scores that may choose between samples. ``judge:`` and ``mics_score`` may not: they know the right answer."""
_BINS = 10


@dataclass(frozen=True, slots=True)
class Vote:
    """Majority vote over the samples of one item (self-consistency, Wang et al., ICLR 2023)."""

    chosen: ItemResult
    """The first sample with the most frequent answer; the first sample if none has an answer. Of equally frequent answers, the one that
    was given first wins."""
    share: float
    """Samples with that answer out of all: the confidence of the vote, in [0, 1]. 0 if no sample has an answer."""


class ReliabilityBin(TypedDict):
    """Items with similar confidence."""

    confidence: float
    """Mean confidence."""
    accuracy: float
    n: int


class AbstentionPoint(TypedDict):
    """Accuracy if the model answers only where its confidence is at least ``threshold``."""

    threshold: float
    coverage: float
    """Share of items that are answered."""
    accuracy: float
    """Right answers out of the answered items."""


class CalibrationRecord(TypedDict):
    """How well a confidence (the share of votes, or a stated one) predicts that the answer is right."""

    ece: float
    """Expected calibration error, ten bins of equal width (Guo et al., ICML 2017). 0 is perfect."""
    brier: float
    """Mean squared difference of confidence and correctness (Brier, 1950). 0 is perfect, 0.25 is that of always 0.5."""
    bins: list[ReliabilityBin]
    abstention: list[AbstentionPoint]
    """By ascending threshold. The last points cover few items."""


def vote(samples: Sequence[ItemResult]) -> Vote:
    """Take the most frequent answer of an item's samples.

    Raises:
        ValueError: ``samples`` is empty.
    """
    if not samples:
        raise ValueError("no samples to vote")
    answers = {n: _answer(sample) for n, sample in enumerate(samples)}
    votes = Counter(answer for answer in answers.values() if answer is not None)
    if not votes:
        return Vote(samples[0], 0.0)
    elected, count = votes.most_common(1)[0]  # Counter keeps the order of first occurrence among equals
    return Vote(next(samples[n] for n, answer in answers.items() if answer == elected), count / len(samples))


def pass_at(k: int, right: int, of: int) -> float:
    """Estimate without bias how likely it is that one of ``k`` samples is right (Chen et al., 2021, Eq. 1).

    Args:
        k: number of samples, at most ``of``.
        right: right samples.
        of: all samples.
    """
    return 1.0 - comb(of - right, k) / comb(of, k)


def sample_scores(results: Sequence[ItemResult]) -> dict[str, list[tuple[float, ItemResult]]]:
    """Compute the scores that need several samples: one value per item, with one of its results.

    ``vote`` is 1 where the majority is right. ``pass@k`` is given for k = 2, 4, 8, ... and for all samples; items with fewer samples are
    left out. ``best of k by NAME`` is 1 where the sample with the highest ``NAME`` is right. Empty if every item has one sample.
    """
    items = _by_item(results)
    most = max((len(samples) for samples in items), default=0)
    if most < 2:
        return {}
    found: dict[str, list[tuple[float, ItemResult]]] = {"vote": [(float(vote(s).chosen.right), s[0]) for s in items]}
    for k in sorted({*(2**n for n in range(1, most.bit_length()) if 2**n < most), most}):
        found[f"pass@{k}"] = [(pass_at(k, sum(r.right for r in s), len(s)), s[0]) for s in items if len(s) >= k]
    for name in dict.fromkeys(name for r in results for name in r.scores if name.startswith((RANK, REWARD))):
        found[f"best of {most} by {name}"] = [(float(_best(s, name).right), s[0]) for s in items]
    return found


def votes(results: Sequence[ItemResult]) -> list[tuple[float, bool]]:
    """Return the share of each item's vote and whether the voted answer is right; empty if every item has one sample."""
    items = _by_item(results)
    if max((len(samples) for samples in items), default=0) < 2:
        return []
    return [(v.share, v.chosen.right) for v in map(vote, items)]


def calibration_of(pairs: Sequence[tuple[float, bool]]) -> CalibrationRecord | None:
    """Compare confidence, in [0, 1], with correctness; ``None`` without a pair."""
    if not pairs:
        return None
    bins: dict[int, list[tuple[float, bool]]] = {}
    for pair in pairs:  # a share of 0.3 belongs to the bin that begins there, in spite of rounding
        bins.setdefault(min(_BINS - 1, int(pair[0] * _BINS + 1e-9)), []).append(pair)
    reliability: list[ReliabilityBin] = [
        {"confidence": fmean(share for share, _ in part), "accuracy": fmean(right for _, right in part), "n": len(part)}
        for _, part in sorted(bins.items())
    ]
    return {
        "ece": sum(b["n"] * abs(b["confidence"] - b["accuracy"]) for b in reliability) / len(pairs),
        "brier": fmean((share - right) ** 2 for share, right in pairs),
        "bins": reliability,
        "abstention": list(_abstention(pairs)),
    }


def _abstention(pairs: Sequence[tuple[float, bool]]) -> Iterator[AbstentionPoint]:
    for threshold in sorted({share for share, _ in pairs}):
        answered = [right for share, right in pairs if share >= threshold]
        yield {"threshold": threshold, "coverage": len(answered) / len(pairs), "accuracy": fmean(answered)}


def _by_item(results: Sequence[ItemResult]) -> list[list[ItemResult]]:
    items: dict[str, list[ItemResult]] = {}
    for result in results:
        if result.verdict not in {Verdict.PENDING, Verdict.SCORED}:
            items.setdefault(result.id, []).append(result)
    return [sorted(samples, key=lambda r: r.seed) for samples in items.values()]


def _answer(sample: ItemResult) -> object:
    """Return what two samples with the same answer have in common; ``None`` without an answer."""
    if sample.given is None:
        return None
    return sample.given if sample.options else normal_form(sample.given) or None


def _best(samples: Sequence[ItemResult], name: str) -> ItemResult:
    """Return the first sample with the highest score; one without the score comes last."""
    return max(samples, key=lambda r: -1.0 if (value := r.scores.get(name)) is None else value)
