"""An evaluation as one call, for scripts, notebooks and other pipelines."""

from collections.abc import Sequence
from pathlib import Path

from chiron.evaluation.config import EvaluationFile
from chiron.evaluation.controls import Control, control_of
from chiron.evaluation.running import EvaluationSummary, prepare_evaluation
from chiron.models.running import run_to_end


def evaluate(
    model: str,
    benchmarks: Sequence[str],
    run: Path | str,
    config: EvaluationFile,
    *,
    data: Path | str | None = None,
    control: Control | str = Control.NONE,
) -> EvaluationSummary:
    """Ask a model the benchmarks' questions, as far as ``run`` does not know its answers; arguments as
    :func:`chiron.evaluation.running.prepare_evaluation`. Works where an event loop already runs (a notebook).

    Raises:
        InputError: something is missing, the directory is in use, or it is of another model or protocol.
        DiskError: the files cannot be written.
    """
    prepared = prepare_evaluation(model, benchmarks, run, config, data=data, control=control_of(control))
    return run_to_end(prepared.session, prepared.execute)
