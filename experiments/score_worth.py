"""How well the MICS-Score predicts that a prefix of reasoning is true, from the tree of a finished search."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from chiron.client.ledger import Ledger


@dataclass(frozen=True)
class Node:
    """A scored candidate: a prefix of reasoning."""

    depth: int
    true: bool
    """All of its steps are true."""
    evaluations: tuple[tuple[str, bool], ...]
    """Name of the intern and verdict of each answered evaluation."""

    def score(self, interns: Sequence[str] | None = None) -> float:
        """MICS-Score of the prefix, from all interns or some of them; NaN without an answered evaluation."""
        counted = [right for intern, right in self.evaluations if interns is None or intern in interns]
        return sum(counted) / len(counted) if counted else float("nan")


def read_nodes(run: Path, truth: Mapping[str, set[str]]) -> list[Node]:
    """Read every candidate of a run's search trees. ``truth`` has the true steps of each case."""
    nodes = []
    with Ledger.read(run / "ledger.sqlite") as ledger:
        for result in ledger.results():
            for levels in result.record["tree"]:
                prefix: list[str] = []
                for level in levels:
                    taken = prefix
                    for candidate in level["candidates"]:
                        steps = [*prefix, *candidate["steps"]]
                        if candidate["steps"]:
                            nodes.append(_node(level["depth"], steps, candidate, truth[result.case_id]))
                        if candidate["chosen"]:
                            taken = steps
                    prefix = taken
    return nodes


def _node(depth: int, steps: Sequence[str], candidate: Mapping[str, Any], truth: set[str]) -> Node:
    verdicts = tuple((e["intern"], bool(e["correct"])) for e in candidate["evaluations"] if e["correct"] is not None)
    return Node(depth, all(step in truth for step in steps), verdicts)


def auc(scores: Iterable[float], labels: Iterable[bool]) -> float | None:
    """Area under the ROC curve: the probability that a true item scores higher than a false one; ties count half.

    ``None`` if all items are true or all are false.
    """
    values, true = np.asarray(list(scores), dtype=float), np.asarray(list(labels), dtype=bool)
    positive, negative = values[true], values[~true]
    if not len(positive) or not len(negative):
        return None
    ordered = np.sort(negative)
    below = np.searchsorted(ordered, positive, side="left")
    ties = np.searchsorted(ordered, positive, side="right") - below
    return float((below + ties / 2).mean() / len(negative))


def calibration(scores: Iterable[float], labels: Iterable[bool]) -> list[dict[str, float]]:
    """Share of true items at each score: ``score``, ``n`` and ``true``."""
    groups = defaultdict(list)
    for score, true in zip(scores, labels, strict=True):
        groups[round(score, 3)].append(true)
    return [{"score": score, "n": len(group), "true": sum(group) / len(group)} for score, group in sorted(groups.items())]


def score_worth(run: Path, truth: Mapping[str, set[str]], interns: Sequence[str]) -> dict[str, Any]:
    """Compute AUC and calibration of a run's scores, by depth and by number of interns."""
    nodes = [node for node in read_nodes(run, truth) if node.evaluations]

    def of(chosen: Sequence[Node], some: Sequence[str] | None = None) -> dict[str, Any]:
        scored = [(node.score(some), node.true) for node in chosen if not np.isnan(node.score(some))]
        scores, labels = [score for score, _ in scored], [true for _, true in scored]
        return {"n": len(scored), "auc": auc(scores, labels), "calibration": calibration(scores, labels)}

    by_depth = {str(depth): of([node for node in nodes if node.depth == depth]) for depth in sorted({node.depth for node in nodes})}
    by_interns = {str(count): of(nodes, interns[:count]) for count in range(1, len(interns) + 1)}
    return {"all": of(nodes), "by_depth": by_depth, "by_interns": by_interns}
