"""The two result files of an evaluation: one line per item, and the figures and settings of each benchmark and control."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import fmean
from typing import Any

from chiron.errors import InputError
from chiron.evaluation.answers.open_answers import NORMALIZER
from chiron.evaluation.benchmarks.loading import LoadedBenchmark
from chiron.evaluation.figures import accuracy
from chiron.evaluation.items import ITEMS, RESULTS, ItemResult, Verdict, read_results
from chiron.evaluation.protocols.protocol import PARSER, Protocol
from chiron.evaluation.statistics.intervals import Share
from chiron.io import write_atomically

VERSION = 1
"""Format version of ``results.json``."""
_LIBRARIES = ("chiron-med", "numpy", "pillow", "scipy", "torch", "transformers")
_MOST_VALUES = 40
"""A label with more values is treated as a name, and gets no table."""

Group = dict[str, Any]
"""One benchmark under one control, as in ``results.json``."""


def group_of(
    loaded: LoadedBenchmark, lines: Sequence[ItemResult], protocol: Protocol, settings: Mapping[str, Any], limit: int | None
) -> Group:
    """Compute the figures of one benchmark, with everything needed to reproduce them."""
    counted = loaded.counted_by(protocol)
    left_out = Counter(item.kind or "unknown" for item in loaded.items) - Counter(item.kind or "unknown" for item in counted)
    draws = sorted({line.seed for line in lines})
    return {
        "benchmark": loaded.name,
        **settings,
        "parser": PARSER,
        "answer_normalizer": NORMALIZER,
        "n": len(lines) // max(1, len(draws)),
        "n_of_benchmark": len(counted),
        "limit": limit,
        "left_out": dict(left_out),
        "data": {"fingerprint": loaded.fingerprint, "revision": loaded.revision, "images": str(loaded.images.resolve())},
        "seeds": len(draws),
        "by_seed": [share_of([line for line in lines if line.seed == draw]) for draw in draws],
        **share_of(lines),
        **_rates(lines),
        "published_accuracy": _without_unparsed(lines) if protocol.leaves_out_unparsed else None,
        "scores": _scores(lines),
        "by": _by_labels(lines),
    }


def need_no_smaller(directory: Path, loaded: LoadedBenchmark, control: str, answers: int) -> None:
    """Keep a smaller run (fewer items or seeds) from replacing the larger results of an earlier run on the same data.

    Args:
        directory: the run directory.
        loaded: the benchmark.
        control: the control under which it will be asked.
        answers: number of answers that this run will give: items times seeds.

    Raises:
        InputError: the earlier run has more answers, or its files cannot be read.
    """
    for group in _earlier_groups(directory):
        same = (group["benchmark"], group["control"]) == (loaded.name, control)
        if same and group.get("data", {}).get("fingerprint") == loaded.fingerprint and group.get("of", 0) > answers:
            raise InputError(
                f"{directory / RESULTS} has {group['of']:,} answers of {loaded.name} (control {control}), and this run would put"
                f" {answers:,} in their place: leave --limit away and ask for as many seeds, or name another directory with --run"
            )


def merge(directory: Path, new: Sequence[Group], lines: Sequence[ItemResult], head: Mapping[str, Any]) -> list[Group]:
    """Replace the groups of the same benchmark and control, keep the others, and write both files.

    Raises:
        InputError: the files of an earlier run cannot be read.
        DiskError: the disk is full.
    """
    kept = [line for line in _earlier_lines(directory) if not any(_same(line, group) for group in new)]
    groups = [
        g for g in _earlier_groups(directory) if not any((g["benchmark"], g["control"]) == (n["benchmark"], n["control"]) for n in new)
    ]
    groups = [*groups, *new]
    write_atomically(directory / ITEMS, (json.dumps(line.to_record(), ensure_ascii=False) + "\n" for line in (*kept, *lines)))
    value = {"version": VERSION, **head, "libraries": libraries(), "groups": groups}
    write_atomically(directory / RESULTS, [json.dumps(value, indent=1, ensure_ascii=False) + "\n"])
    return groups


def share_of(lines: Sequence[ItemResult]) -> dict[str, Any]:
    """Compute right out of all, with the same interval as ``chiron compare``; ``null`` where no interval can be computed."""
    if not lines:
        nothing = Share(0, 0)
        return {"right": 0, "of": 0, "accuracy": nothing.value, "interval": list(nothing.interval), "method": "Wilson"}
    measured = accuracy(lines)
    share = measured.share
    interval = None if share.interval is None else list(share.interval)
    return {"right": measured.right, "of": measured.asked, "accuracy": share.value, "interval": interval, "method": share.method}


def libraries() -> dict[str, str]:
    """Return the installed versions of the libraries that affect a figure."""
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _rates(lines: Sequence[ItemResult]) -> dict[str, Any]:
    counts = Counter(line.verdict for line in lines)
    tally = {str(verdict): counts[verdict] for verdict in Verdict}
    return {
        "verdicts": tally,
        "unparsed_rate": counts[Verdict.UNPARSED] / len(lines) if lines else 0.0,
        "cut_off": sum(line.cut_off for line in lines),
    }


def _without_unparsed(lines: Sequence[ItemResult]) -> float | None:
    """Return the accuracy as a published script would print it that leaves unparsed replies out of the count."""
    counted = [line for line in lines if line.verdict in {Verdict.RIGHT, Verdict.WRONG}]
    return fmean(line.right for line in counted) if counted else None


def _scores(lines: Iterable[ItemResult]) -> dict[str, dict[str, float]]:
    values: defaultdict[str, list[float]] = defaultdict(list)
    for line in lines:
        for name, value in line.scores.items():
            if value is not None:
                values[name].append(value)
    return {name: {"mean": fmean(found), "n": len(found)} for name, found in values.items()}


def _by_labels(lines: Sequence[ItemResult]) -> dict[str, dict[str, Any]]:
    """Group the figures by the value of each label. Items without the label are under ``-``, so the parts add up to the whole."""
    names = dict.fromkeys(name for line in lines for name in line.labels)
    tables = {}
    for name in names:
        parts: defaultdict[str, list[ItemResult]] = defaultdict(list)
        for line in lines:
            parts[line.labels.get(name, "-")].append(line)
        if len(parts) <= _MOST_VALUES:
            tables[name] = {value: share_of(part) for value, part in sorted(parts.items())}
    return tables


def _same(line: ItemResult, group: Group) -> bool:
    return (line.benchmark, line.control) == (group["benchmark"], group["control"])


def _earlier_lines(directory: Path) -> Iterable[ItemResult]:
    return read_results(directory / ITEMS) if (directory / ITEMS).is_file() else ()


def _earlier_groups(directory: Path) -> list[Group]:
    try:
        value = json.loads((directory / RESULTS).read_text("utf-8"))
        return [group for group in value["groups"] if group["benchmark"] and group["control"]]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{directory / RESULTS} cannot be read ({error}): move it away and run every evaluation of it again") from error
