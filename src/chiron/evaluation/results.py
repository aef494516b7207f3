"""Write the two result files of an evaluation: one line per item, and the figures and settings of each benchmark and control."""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import fmean
from typing import Any, TypedDict, cast

from chiron.errors import InputError
from chiron.evaluation.answers.open_answers import NORMALIZER
from chiron.evaluation.benchmarks.loading import LoadedBenchmark
from chiron.evaluation.figures import accuracy, pooled_shares, shown_scores
from chiron.evaluation.items import ITEMS, RESULTS, ItemResult, Verdict, read_results
from chiron.evaluation.protocols.protocol import PARSER, Protocol
from chiron.evaluation.samples import CalibrationRecord, calibration_of, sample_scores, votes
from chiron.io import write_atomically

VERSION = 1
"""Format version of ``results.json``."""
_LIBRARIES = ("chiron-med", "numpy", "pillow", "scipy", "torch", "transformers")
_MOST_VALUES = 40
"""A label with more values is treated as a name, and gets no table."""


class AccuracyRecord(TypedDict):
    """Right answers out of all that were asked."""

    right: int
    of: int
    """Items times seeds."""
    accuracy: float | None
    """``None`` if the protocol only has scores."""
    interval: list[float] | None
    """95 % interval; ``None`` if it cannot be computed."""
    method: str
    """``Wilson`` or ``cluster t`` (:class:`chiron.evaluation.figures.Figure`)."""


class ScoreRecord(TypedDict):
    mean: float
    n: int
    """Number of answers that have the score; for a score over several samples, number of items."""


class DataRecord(TypedDict):
    fingerprint: str
    """SHA-256 (hex) of the questions."""
    revision: str | None
    """The hub's commit; ``None`` for local files."""
    images: str
    """The image folder."""


class GroupSettings(TypedDict):
    judge: str | None
    """Name of the model that gave the verdicts; ``None`` if they follow rules."""
    columns_by: dict[str, Any]
    """Names of the models that gave extra scores, by role."""
    family: str | None
    seed: int
    """Random seed of the controls."""
    control: str
    protocol: str
    prompts: dict[str, str]
    """SHA-256 (hex) by prompt name."""


class ResultGroup(GroupSettings, AccuracyRecord):
    """One benchmark under one control."""

    benchmark: str
    parser: int
    """Version of the rules that read replies."""
    answer_normalizer: int
    """Version of the rules that compare open answers."""
    n: int
    """Number of items."""
    n_of_benchmark: int
    """Number of items that the protocol counts, also where ``limit`` leaves some out."""
    limit: int | None
    left_out: dict[str, int]
    """Items that the protocol does not count, by kind."""
    data: DataRecord
    seeds: int
    by_seed: list[AccuracyRecord]
    verdicts: dict[str, int]
    unparsed_rate: float
    cut_off: int
    """Number of replies that the token limit ended."""
    published_accuracy: float | None
    """Accuracy without unparsed replies; only for a protocol whose published script counts so."""
    scores: dict[str, ScoreRecord]
    calibration: CalibrationRecord | None
    """``None`` if every item was asked once."""
    by: dict[str, dict[str, AccuracyRecord]]
    """By label, then by its value."""


class _About(TypedDict):
    model: str
    configuration: dict[str, Any]
    identity: dict[str, Any]
    """Model, protocol and settings that the run directory belongs to, as in ``run.json``."""


class ResultsFile(_About):
    """Contents of ``results.json``."""

    version: int
    libraries: dict[str, str]
    groups: list[ResultGroup]


def group_of(
    loaded: LoadedBenchmark, lines: Sequence[ItemResult], protocol: Protocol, settings: Mapping[str, Any], limit: int | None
) -> ResultGroup:
    """Compute the figures of one benchmark, with everything needed to reproduce them."""
    counted = loaded.counted_by(protocol)
    left_out: Counter[str] = Counter(item.kind or "unknown" for item in loaded.items)
    left_out.subtract(item.kind or "unknown" for item in counted)
    seeds = sorted({line.seed for line in lines})
    verdicts = Counter(line.verdict for line in lines)
    return {
        "benchmark": loaded.name,
        **cast("GroupSettings", settings),
        "parser": PARSER,
        "answer_normalizer": NORMALIZER,
        "n": len(lines) // max(1, len(seeds)),
        "n_of_benchmark": len(counted),
        "limit": limit,
        "left_out": dict(+left_out),
        "data": {"fingerprint": loaded.fingerprint, "revision": loaded.revision, "images": str(loaded.images.resolve())},
        "seeds": len(seeds),
        "by_seed": [accuracy_record([line for line in lines if line.seed == seed]) for seed in seeds],
        **accuracy_record(lines),
        "verdicts": {str(verdict): verdicts[verdict] for verdict in Verdict},
        "unparsed_rate": verdicts[Verdict.UNPARSED] / len(lines) if lines else 0.0,
        "cut_off": sum(line.cut_off for line in lines),
        "published_accuracy": _without_unparsed(lines) if protocol.leaves_out_unparsed else None,
        "scores": _scores(lines),
        "calibration": calibration_of(votes(lines)),
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
                f"{directory / RESULTS} has {group['of']:,} answers to {loaded.name} (control {control}), and this run would replace them"
                f" with {answers:,}: omit --limit and ask for as many seeds, or choose another directory with --run"
            )


def merge(directory: Path, new: Sequence[ResultGroup], lines: Sequence[ItemResult], head: Mapping[str, Any]) -> list[ResultGroup]:
    """Replace the groups of the same benchmark and control, keep the others, and write both files.

    Args:
        directory: the run directory.
        new: groups of this run.
        lines: results of this run.
        head: model, configuration and identity.

    Raises:
        InputError: the files of an earlier run cannot be read.
        DiskError: the disk is full.
    """
    replaced = {(group["benchmark"], group["control"]) for group in new}
    earlier = read_results(directory / ITEMS) if (directory / ITEMS).is_file() else ()
    kept = [line for line in earlier if (line.benchmark, line.control) not in replaced]
    groups = [*(group for group in _earlier_groups(directory) if (group["benchmark"], group["control"]) not in replaced), *new]
    write_atomically(directory / ITEMS, (json.dumps(line.to_record(), ensure_ascii=False) + "\n" for line in (*kept, *lines)))
    about = cast("_About", head)
    value: ResultsFile = {"version": VERSION, **about, "libraries": libraries(), "groups": groups}
    write_atomically(directory / RESULTS, [json.dumps(value, indent=1, ensure_ascii=False) + "\n"])
    return groups


def accuracy_record(lines: Sequence[ItemResult]) -> AccuracyRecord:
    """Compute right out of all, with the same interval as ``chiron compare``; ``null`` where no interval can be computed."""
    measured = accuracy(lines)
    if measured.scored:
        return {"right": 0, "of": measured.asked, "accuracy": None, "interval": None, "method": measured.share.method}
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


def _without_unparsed(lines: Sequence[ItemResult]) -> float | None:
    """Return the accuracy as a published script would print it that leaves unparsed replies out of the count."""
    counted = [line for line in lines if line.verdict in {Verdict.RIGHT, Verdict.WRONG}]
    return fmean(line.right for line in counted) if counted else None


def _scores(lines: Sequence[ItemResult]) -> dict[str, ScoreRecord]:
    values: defaultdict[str, list[float]] = defaultdict(list)
    for line in lines:
        for name, value in shown_scores(line).items():
            values[name].append(value)
    values.update({name: [value for value, _ in scored] for name, scored in sample_scores(lines).items() if scored})
    means: dict[str, ScoreRecord] = {name: {"mean": fmean(found), "n": len(found)} for name, found in values.items()}
    return means | {name: {"mean": share.value, "n": share.of} for name, share in pooled_shares(lines).items()}


def _by_labels(lines: Sequence[ItemResult]) -> dict[str, dict[str, AccuracyRecord]]:
    """Group the figures by the value of each label. Items without the label are under ``-``, so the parts add up to the whole."""
    names = dict.fromkeys(name for line in lines for name in line.labels)
    tables = {}
    for name in names:
        parts: defaultdict[str, list[ItemResult]] = defaultdict(list)
        for line in lines:
            parts[line.labels.get(name, "-")].append(line)
        if len(parts) <= _MOST_VALUES:
            tables[name] = {value: accuracy_record(part) for value, part in sorted(parts.items())}
    return tables


def _earlier_groups(directory: Path) -> list[ResultGroup]:
    try:
        value = json.loads((directory / RESULTS).read_text("utf-8"))
        return [group for group in value["groups"] if group["benchmark"] and group["control"]]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{directory / RESULTS} cannot be read ({error}): move it away and repeat its evaluations") from error
