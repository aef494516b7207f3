"""Run one score of reports with its own package: ``python report_scorers.py NAME``, in whichever Python has that package.

Reads ``[[given, known], ...]`` as JSON from standard input and writes one JSON object to standard output. It imports only the standard
library and the score's package, because these packages need older libraries than this project does.
"""

import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

Pairs = Sequence[tuple[str, str]]
Values = dict[str, list[float | None]]
_SHORT = 3
"""RaTEScore drops sentences with fewer characters, and cannot score a text without a sentence."""


def _radgraph(pairs: Pairs) -> Values:
    """F1 of RadGraph's entities (simple), of entities with whether they have a relation (partial), and with each relation (complete)."""
    from radgraph import F1RadGraph

    scorer = F1RadGraph(reward_level="all", model_type="radgraph-xl")
    _, rewards, _, _ = scorer(refs=[known for _, known in pairs], hyps=[given for given, _ in pairs])
    return {f"radgraph_{level}": [float(v) for v in rewards[n]] for n, level in enumerate(("simple", "partial", "complete"))}


def _chexbert(pairs: Pairs) -> Values:
    """Positive CheXbert labels that both reports have (twice), and that each has, of all 14 labels and of the usual 5."""
    from f1chexbert import F1CheXbert

    labeler = F1CheXbert()
    # A report without words has no labels; the labeler would still name some.
    labels = [[labeler.get_label(text.strip()) if text.strip() else [0] * 14 for text in pair] for pair in pairs]
    found: Values = {}
    for size, chosen in ((14, range(14)), (5, list(labeler.target_names_5_index))):
        name = f"chexbert_micro_f1_{size}"
        found[f"{name}/part"] = [2.0 * sum(bool(given[n] and known[n]) for n in chosen) for given, known in labels]
        found[f"{name}/whole"] = [float(sum(bool(one[n]) for one in both for n in chosen)) for both in labels]
    return found


def _ratescore(pairs: Pairs) -> Values:
    import torch
    from RaTEScore import RaTEScore

    scorer = RaTEScore(use_gpu=torch.cuda.is_available())
    full = [all(len(text.strip()) >= _SHORT for text in pair) for pair in pairs]
    values = [scorer.compute_score([pair[0]], [pair[1]]) if whole else [] for pair, whole in zip(pairs, full, strict=True)]
    return {"ratescore": [float(value[0]) if value else 0.0 for value in values]}


def _green(pairs: Pairs) -> Values:
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # with several GPUs, the package expects a distributed launch
    import torch
    from green_score import GREEN

    full = [n for n, pair in enumerate(pairs) if all(text.strip() for text in pair)]
    values: list[float | None] = [0.0] * len(pairs)
    if full:
        with tempfile.TemporaryDirectory() as folder:
            scorer = GREEN(
                "StanfordAIMI/GREEN-radllama2-7b", output_dir=folder, cpu=not torch.cuda.is_available(), compute_summary_stats=False
            )
            _, _, scores, _, _ = scorer([pairs[n][1] for n in full], [pairs[n][0] for n in full])
        for n, value in zip(full, scores, strict=True):
            values[n] = None if value is None or value != value else float(value)  # noqa: PLR0124 - NaN: the model's analysis was unreadable
    return {"green": values}


SCORERS: dict[str, tuple[Callable[[Pairs], Values], str]] = {
    "radgraph": (_radgraph, "radgraph"),
    "chexbert": (_chexbert, "f1chexbert"),
    "ratescore": (_ratescore, "RaTEScore"),
    "green": (_green, "green_score"),
}
"""Function and package by the score's name."""


def _result(name: str, pairs: Pairs) -> dict[str, Any]:
    score, package = SCORERS[name]
    try:
        values = score(pairs)
    except Exception as error:  # noqa: BLE001 - the packages raise anything, such as an OSError for a missing weight
        if isinstance(error, ModuleNotFoundError) and error.name:
            return {"missing": error.name}
        return {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    try:
        signature = f"{package} {version(package)}"
    except PackageNotFoundError:
        signature = f"{package} of unknown version"
    return {"values": values, "signature": signature}


def main() -> None:
    """Score the pairs on standard input by the score named in the first argument."""
    # The packages print to standard output, which has to contain only the result.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    pairs = [(given, known) for given, known in json.load(sys.stdin)]
    with out:
        json.dump(_result(sys.argv[1], pairs), out)


if __name__ == "__main__":
    main()
