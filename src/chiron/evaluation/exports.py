"""One model's results in the forms of other tools: a Hugging Face ``model-index``, and the results file of lm-evaluation-harness."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from chiron._version import __version__
from chiron.errors import InputError
from chiron.evaluation.answers.open_answers import NORMALIZER
from chiron.evaluation.benchmarks.benchmark import Benchmark
from chiron.evaluation.figures import Accuracy, accuracy, group_of, scores
from chiron.evaluation.items import ITEMS
from chiron.evaluation.protocols.protocol import PARSER
from chiron.evaluation.read_runs import REAL, Arm, Evaluated
from chiron.evaluation.registry import benchmarks
from chiron.evaluation.statistics import clustered_mean
from chiron.extras import install_command

_UNSAFE = re.compile(r"[\"<>:/|\\?*\[\]]+")


def model_index(models: Sequence[Evaluated], files: Sequence[Path] = ()) -> str:
    """Write a ``model-index`` block (YAML) for the head of a model card. Values are shares in [0, 1].

    Args:
        models: from :func:`chiron.evaluation.read_runs.read_evaluations`; one model.
        files: Python files with further benchmarks.

    Raises:
        InputError: there are several models, or huggingface_hub is missing.
    """
    model = _only(models, "model-index")
    try:
        from huggingface_hub import EvalResult, ModelCardData
    except ImportError as error:
        raise InputError(f"--format model-index needs huggingface_hub ({error}): {install_command('eval')}") from error
    known = benchmarks(files)
    entries = [
        EvalResult(
            task_type="visual-question-answering" if any(result.images for result in arm.results) else "question-answering",
            dataset_type=(benchmark.hub if benchmark is not None else None) or arm.benchmark,
            dataset_name=benchmark.title if benchmark is not None else arm.benchmark,
            # Several benchmarks share one data set, and the hub merges results of the same data set and configuration.
            dataset_config=arm.benchmark,
            metric_type=name,
            metric_name=f"{name}, protocol {arm.protocol}",
            metric_value=round(value, 6),
            metric_args=about,
        )
        for arm, benchmark in _real(model, known)
        for name, value, about in _metrics(arm)
    ]
    return str(ModelCardData(model_name=model.name, eval_results=entries).to_yaml()) + "\n"


def lm_eval_results(models: Sequence[Evaluated], files: Sequence[Path] = ()) -> str:
    """Write the results as JSON with the keys of a ``results_*.json`` of lm-evaluation-harness.

    The standard error treats items with the same images as dependent. It equals that of the harness where every item has its own image.
    Keys about the harness itself, such as ``lm_eval_version``, are left out.

    Args:
        models: from :func:`chiron.evaluation.read_runs.read_evaluations`; one model.
        files: Python files with further benchmarks.

    Raises:
        InputError: there are several models.
    """
    model = _only(models, "lm-eval")
    known = benchmarks(files)
    tasks = _tasks(model, known)
    results = {task: _lm_eval_metrics(task, arm) for task, (arm, _) in tasks.items()}
    record = {
        "results": results,
        "group_subtasks": {},
        "configs": {task: _lm_eval_config(task, arm, benchmark) for task, (arm, benchmark) in tasks.items()},
        "versions": dict.fromkeys(tasks, f"parser {PARSER}, answer_normalizer {NORMALIZER}"),
        "n-shot": dict.fromkeys(tasks, 0),
        "higher_is_better": {task: dict.fromkeys(_metric_names(of_task), True) for task, of_task in results.items()},
        "n-samples": {
            task: {"original": arm.making.whole or len(arm.first), "effective": len(arm.first)} for task, (arm, _) in tasks.items()
        },
        "config": {
            "model": "chiron",
            "model_args": f"model={model.name}",
            "limit": next((arm.making.limit for arm, _ in tasks.values()), None),
        },
        "date": max((run / ITEMS).stat().st_mtime for run in model.runs),
        "task_hashes": {task: arm.making.fingerprint for task, (arm, _) in tasks.items() if arm.making.fingerprint},
        "model_source": "chiron",
        "model_name": model.name,
        "model_name_sanitized": _UNSAFE.sub("__", model.name),
        "chiron_version": __version__,
    }
    return json.dumps(record, indent=2, ensure_ascii=False) + "\n"


def _tasks(model: Evaluated, known: Mapping[str, Benchmark]) -> dict[str, tuple[Arm, Benchmark | None]]:
    """Name each real run: by its benchmark, and by its protocol where a benchmark was asked under several."""
    pairs = _real(model, known)
    asked = Counter(arm.benchmark for arm, _ in pairs)
    return {
        (arm.benchmark if asked[arm.benchmark] == 1 else f"{arm.benchmark}_{arm.protocol}"): (arm, benchmark) for arm, benchmark in pairs
    }


def _only(models: Sequence[Evaluated], form: str) -> Evaluated:
    if len(models) != 1:
        names = ", ".join(model.name for model in models)
        raise InputError(f"--format {form} is for one model, but these runs have {len(models)} ({names}): name the runs of one model")
    return models[0]


def _real(model: Evaluated, known: Mapping[str, Benchmark]) -> list[tuple[Arm, Benchmark | None]]:
    """Return the real runs, and their benchmarks if they are known."""
    return [(arm, known.get(benchmark)) for (_, benchmark, control), arm in model.arms.items() if control == REAL]


def _metrics(arm: Arm) -> Iterator[tuple[str, float, dict[str, Any]]]:
    """Yield name, value and details of the accuracy and of every other score."""
    found = accuracy(arm.results)
    if not found.scored:
        yield "accuracy", found.share.value, {**_about(arm, found), "interval_95": _rounded(found.share.interval)}
    for name, figure in scores(arm.results).items():
        if "@" not in name or name.startswith("pass@"):
            yield name, figure.value, {"protocol": arm.protocol, "n": figure.of, "interval_95": _rounded(figure.interval)}


def _about(arm: Arm, found: Accuracy) -> dict[str, Any]:
    """Describe what weakens the accuracy; a count of zero is left out."""
    counts = {"unparsed": found.unparsed, "unjudged": found.unjudged, "unusable": found.unusable, "pending": found.pending}
    whole = arm.making.whole
    part = {"n_of_benchmark": whole} if whole is not None and whole != found.items else {}
    judge = {"judge": arm.making.judge} if arm.making.judge else {}
    samples = {"samples": len(arm.by_seed)} if len(arm.by_seed) > 1 else {}
    return {"protocol": arm.protocol, "n": found.items, **part, **judge, **samples, **{k: v for k, v in counts.items() if v}}


def _rounded(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else [round(end, 6) for end in interval]


def _metric(name: str) -> str:
    """A comma separates the metric from its filter."""
    return name.replace(",", ";")


def _metric_names(results: Mapping[str, Any]) -> list[str]:
    return [name.removesuffix(",none") for name in results if name.endswith(",none") and not name.endswith("_stderr,none")]


def _lm_eval_metrics(task: str, arm: Arm) -> dict[str, Any]:
    values: dict[str, Any] = {"name": task, "alias": task, "sample_len": len(arm.first)}
    if not accuracy(arm.results).scored:
        groups = [group_of(result) for result in arm.results]
        estimate = clustered_mean([float(result.right) for result in arm.results], groups)
        values |= {"acc,none": estimate.value, "acc_stderr,none": estimate.standard_error if estimate.groups > 1 else "N/A"}
    for name, figure in scores(arm.results).items():
        values |= {f"{_metric(name)},none": figure.value, f"{_metric(name)}_stderr,none": "N/A"}
    return values


def _lm_eval_config(task: str, arm: Arm, benchmark: Benchmark | None) -> dict[str, Any]:
    return {
        "task": task,
        "dataset_path": (benchmark.hub if benchmark is not None else None) or arm.benchmark,
        "output_type": "generate_until",
        "repeats": len(arm.by_seed),
        "num_fewshot": 0,
        "generation_kwargs": {"temperature": arm.making.settings.get("temperature")},
        "metadata": {"protocol": arm.protocol, "judge": arm.making.judge, "license": benchmark.license if benchmark is not None else None},
    }
