"""An evaluation as one call, and a comparison as another, for scripts, notebooks and other pipelines."""

from collections.abc import Sequence
from pathlib import Path

from chiron.evaluation.comparing import Comparison, compare, reference_of
from chiron.evaluation.config import EvaluationFile, load_evaluation
from chiron.evaluation.controls import Control, control_of
from chiron.evaluation.running import EvaluationSummary, prepare_evaluation
from chiron.evaluation.runs import read_evaluations
from chiron.models.running import run_to_end


def evaluate(
    model: str,
    benchmarks: Sequence[str],
    run: Path | str,
    config: EvaluationFile | None = None,
    *,
    data: Path | str | None = None,
    control: Control | str = Control.NONE,
) -> EvaluationSummary:
    """Ask a model the benchmarks' questions, as far as ``run`` does not know its answers; arguments as
    :func:`chiron.evaluation.running.prepare_evaluation`. Works where an event loop already runs (a notebook).

    Without a configuration ``model`` is ``offline:NAME`` or the folder of a checkpoint.

    Raises:
        InputError: something is missing, the directory is in use, or it is of another model or protocol.
        DiskError: the files cannot be written.
    """
    config = config if config is not None else load_evaluation(None, model)
    prepared = prepare_evaluation(model, benchmarks, run, config, data=data, control=control_of(control))
    return run_to_end(prepared.session, prepared.execute)


def compare_runs(runs: Sequence[Path | str], *, reference: Path | str | None = None) -> list[Comparison]:
    """Models side by side, from the run directories of their evaluations: one comparison a protocol.

    Args:
        runs: what ``evaluate`` wrote.
        reference: the run of the model to test the others against; each benchmark's best by default.

    Raises:
        InputError: a directory holds no evaluation, or is named twice; the reference is none of them.
    """
    models = read_evaluations([Path(run) for run in runs])
    return compare(models, reference=reference_of(models, Path(reference)) if reference is not None else None)
