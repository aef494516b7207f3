"""Evaluate, compare, and answer cases as one call each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from chiron.cases.case import Case
from chiron.cases.images import ImageFolder
from chiron.client.config import ProviderConfig
from chiron.client.failures import CallFailed
from chiron.evaluation.benchmarks.loading import LoadedBenchmark
from chiron.evaluation.bertscore import Encoder
from chiron.evaluation.comparing import Comparison, compare, reference_of
from chiron.evaluation.config import EvaluationConfig, EvaluationFile, EvaluationPrompts, EvaluationTokens, load_evaluation
from chiron.evaluation.controls import Control, control_of
from chiron.evaluation.evaluation import EvaluationSummary
from chiron.evaluation.items import ITEMS, Item, read_results
from chiron.evaluation.preparation import evaluation_of, prepare_evaluation
from chiron.evaluation.protocols.exact import Exact
from chiron.evaluation.read_runs import read_evaluations
from chiron.evaluation.registry import suite_of
from chiron.evaluation.suite_run import prepare_suite
from chiron.evaluation.tables.formats import Grid
from chiron.jobs.engine import EngineOptions, engine_of
from chiron.jobs.job import run_job
from chiron.mics.prompts import Prompts


def evaluate(
    model: str,
    benchmarks: Sequence[str],
    run: Path | str,
    config: EvaluationFile | None = None,
    *,
    data: Path | str | None = None,
    control: Control | str = Control.NONE,
    benchmark_files: Sequence[Path | str] = (),
    engine: str = "local",
    engine_options: EngineOptions | None = None,
) -> EvaluationSummary:
    """Ask a model the questions of some benchmarks. Answers that ``run`` already has are not asked again.

    For the arguments see :func:`chiron.evaluation.preparation.prepare_evaluation`. This also works inside a running event loop
    (a notebook).

    Benchmarks and protocols may also come from other packages or from ``benchmark_files`` (Python files, see docs/evaluation.md).
    Without a configuration, ``model`` is ``offline:NAME`` or a checkpoint directory.

    Raises:
        InputError: something is missing, or the run directory is in use or belongs to another model or protocol.
        DiskError: the files cannot be written.
    """
    config = config if config is not None else load_evaluation(None, model)
    prepared = prepare_evaluation(
        model, benchmarks, run, config, data=data, control=control_of(control), benchmark_files=benchmark_files, engine=engine,
        engine_options=engine_options,
    )  # fmt: skip
    return run_job(prepared)


def evaluate_suite(
    suite: str,
    models: Mapping[str, EvaluationFile],
    run: Path | str,
    *,
    data: Path | str | None = None,
    benchmark_files: Sequence[Path | str] = (),
    encoder: Encoder | None = None,
    engine: str = "local",
    engine_options: EngineOptions | None = None,
) -> list[Grid]:
    """Measure models on all columns of a published table, one after the other, and write the table to ``run``.

    Args:
        suite: ``table1``, ``table2``, or the name of a suite in ``benchmark_files``.
        models: the configuration of each model, from :func:`load_evaluation`.
        run: folder for the run directories, ``RUN/MODEL/BENCHMARK``, and the tables; created if missing, otherwise resumed.
        data: folder with the downloaded files; ``None`` fetches them from the hub.
        benchmark_files: Python files with further benchmarks, protocols and suites. They are executed.
        encoder: for a column of BERTScore.
        engine: name of the engine that asks the items; ``local`` is this process.
        engine_options: address, workers and storage of an engine on other machines.

    Returns:
        The measured table, and the published one. With an engine that runs jobs later, they have only what was answered before.

    Raises:
        InputError: as for :func:`evaluate`, or no column has data.
        DiskError: the files cannot be written.
    """
    files = [Path(file) for file in benchmark_files]
    prepared = prepare_suite(
        suite_of(suite, files), models, run, data=data, benchmark_files=files, encoder=encoder, engine=engine_of(engine, engine_options)
    )
    prepared.measure(lambda _, evaluation: run_job(evaluation))
    tables = prepared.tables()
    prepared.write(tables)
    return tables


def compare_runs(runs: Sequence[Path | str], *, reference: Path | str | None = None) -> list[Comparison]:
    """Compare models from the run directories of their evaluations. The result has one comparison per protocol.

    Args:
        runs: run directories written by ``evaluate``.
        reference: the run of the model to test the others against. By default, each benchmark's best model.

    Raises:
        InputError: a directory has no evaluation or is named twice, or ``reference`` is not among ``runs``.
    """
    models = read_evaluations([Path(run) for run in runs])
    return compare(models, reference=reference_of(models, Path(reference)) if reference is not None else None)


@dataclass(frozen=True, slots=True)
class Answered:
    """One case and the model's reply."""

    case: Case
    reply: str | None
    """``None`` if the case could not be asked; ``problem`` gives the reason."""
    answer: str | None
    """The final answer in the reply. ``None`` if the reply has no answer, which counts as wrong."""
    correct: bool
    """The answer has the same words as the known answer after normalization."""
    problem: str | None = None


@dataclass(frozen=True)
class Question:
    """How to ask the cases."""

    prompts: Prompts
    images: Path
    """The folder that image paths are relative to."""
    max_tokens: int = 1024
    image_side: int = 1536
    """Longest side, in pixels, of the images sent to the model."""


async def answer_all(
    sets: Mapping[str, Sequence[Case]],
    model: ProviderConfig,
    question: Question,
    run: Path,
    *,
    watch: Callable[[int], None] = lambda _: None,
) -> dict[str, list[Answered]]:
    """Answer every case at temperature 0 with the protocol ``exact``. Results keep the order of the cases.

    Args:
        sets: the cases to ask, by benchmark name.
        model: the model to ask, from any provider.
        question: the prompts and image settings. The case's history and findings are not sent.
        run: run directory of the evaluation; created if missing, otherwise resumed. Answers in its ledger are not asked again.
        watch: called with the number of cases answered so far.

    Raises:
        InputError: the model or the directory cannot be used. A case with an unusable image is returned with a ``problem`` instead.
        RunStopped: the endpoint is down or rejects every call.
        CallFailed: answers are pending after failed calls. Running again resumes them.
        DiskError: the disk is full.
    """
    check = ImageFolder(question.images).check
    loaded = [LoadedBenchmark(name, tuple(map(_item, cases)), question.images, check) for name, cases in sets.items()]
    chosen = EvaluationConfig(image_side=question.image_side, max_tokens=EvaluationTokens(model=question.max_tokens))
    prompts = replace(EvaluationPrompts.load(), search=question.prompts)
    config = EvaluationFile(models={"model": model}, evaluation=chosen)
    evaluation = evaluation_of("model", loaded, Exact(), run, config, prompts=prompts)
    evaluation.watch = watch
    summary = await evaluation.execute()
    if summary.halted is not None:
        raise summary.halted
    if summary.pending:
        # They would count as wrong answers.
        because = f"most of them because {summary.pending_because}"
        raise CallFailed(f"{summary.pending} of {summary.total} answers are pending ({run}), {because}: run the same again to resume")
    answered: dict[str, list[Answered]] = {name: [] for name in sets}
    for line in read_results(run / ITEMS):
        if line.benchmark in answered and line.control == "none":
            case = sets[line.benchmark][len(answered[line.benchmark])]
            answered[line.benchmark].append(Answered(case, line.reply, line.given, line.right, line.problem or None))
    return answered


def _item(case: Case) -> Item:
    return Item(case.id, case.question, case.answer, case.images, group=" ".join(case.images))
