"""Experiment trackers (W&B, MLflow, trackio) through accelerate's tracker classes. TensorBoard is in :mod:`chiron.training.metrics`."""

import contextlib
import importlib.util
import json
import logging
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from chiron.errors import InputError
from chiron.io import write_atomically
from chiron.training.base import first_line
from chiron.training.metrics import HeldOut, StepMetrics, scalars
from chiron.training.recipe import Recipe

_log = logging.getLogger(__name__)

RUNS = "trackers.json"
"""File in the output folder with the id of the run at each tracker, so that a resumed training continues it."""
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSW", re.IGNORECASE)
"""Names of environment variables whose values no message may contain."""


def check_trackers(names: Sequence[str]) -> None:
    """Check that the package of each tracker is installed.

    Raises:
        InputError: One is missing.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise InputError(f"trackers: {name} needs the package '{name}', which is not installed: pip install {name}, or remove {name}")


@contextlib.contextmanager
def tracker_writer(
    name: str, recipe: Recipe, out: Path, written: Sequence[dict[str, Any]], past: Sequence[dict[str, Any]]
) -> Iterator[Callable[[StepMetrics | HeldOut], None]]:
    """Start a run at a tracker, or continue that of ``out``; yield a function that sends new metrics.

    A tracker that fails later does not end the training: the first failure is logged as a warning, and ``metrics.jsonl`` has every line.

    Args:
        name: the tracker's package.
        recipe: its name is the project or experiment, its settings are the configuration. They contain no keys.
        out: output folder of the training.
        written: lines of ``metrics.jsonl`` at the end of the run before this one. A tracker already has them.
        past: lines up to the checkpoint. A tracker that is new gets them first.

    Raises:
        InputError: The tracker does not start.
        DiskError: ``trackers.json`` cannot be written.
    """
    runs = _read_runs(out / RUNS)
    known = runs.get(name)
    try:
        tracker, run = _start(name, recipe, out, known)
    except Exception as error:
        raise InputError(f"tracker {name} does not start: {_shown(error)}; fix it, or remove it from trackers") from error
    if known is None:
        write_atomically(out / RUNS, [json.dumps({**runs, name: run}, indent=2) + "\n"])
    sender = _Sender(name, tracker, {_key(line) for line in written} if known else set())
    for line in past:
        sender.send(line)
    try:
        yield lambda metrics: sender.send(asdict(metrics))
    finally:
        sender.finish()


class _Sender:
    """Send lines of ``metrics.jsonl`` to a tracker; log failures."""

    def __init__(self, name: str, tracker: GeneralTracker, sent: set[tuple[int, bool]]) -> None:
        self._name, self._tracker, self._sent = name, tracker, sent
        self._failures = 0

    def send(self, line: dict[str, Any]) -> None:
        if _key(line) not in self._sent:  # steps that are trained again after a resume were sent before it
            self._attempt(partial(self._tracker.log, scalars(line), step=line["total_steps"]))

    def finish(self) -> None:
        self._attempt(self._tracker.finish)
        if self._failures > 1:
            _log.warning("tracker %s failed %d times in all", self._name, self._failures)

    def _attempt(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - a tracker's failure must not end the training
            self._failures += 1
            if self._failures == 1:
                problem = _shown(error)
                _log.warning("tracker %s failed: %s; training continues, and metrics.jsonl has every line", self._name, problem)


def _start(name: str, recipe: Recipe, out: Path, known: str | None) -> tuple[GeneralTracker, str]:
    """Start a tracker's run, or continue the ``known`` one; return it and its id."""
    fresh = known or secrets.token_hex(8)
    options: dict[str, dict[str, Any]] = {
        "wandb": {"id": fresh, "name": out.name, "resume": "allow", "dir": str(out)},
        "trackio": {"name": f"{out.name}-{fresh}", "resume": "allow"},
        "mlflow": {"run_id": known, "run_name": out.name},
    }
    tracker = LOGGER_TYPE_TO_CLASS[name](recipe.name, **options[name])
    tracker.start()
    if known is None:
        tracker.store_init_configuration(_flat(recipe.model_dump(mode="json", exclude={"scratch"})))
    return tracker, str(tracker.tracker.info.run_id) if name == "mlflow" else fresh


def _read_runs(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    try:
        return {str(name): str(run) for name, run in json.loads(path.read_text("utf-8")).items()}
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{path} cannot be read ({error}): remove it to start new runs at the trackers") from error


def _key(line: Mapping[str, Any]) -> tuple[int, bool]:
    return line["total_steps"], "held_out_loss" in line


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Flatten nested settings to names such as ``stages.0.learning_rate``, as trackers need them."""
    if not isinstance(value, dict | list) or not value:
        return {name: value if isinstance(value, bool | int | float | str) else json.dumps(value)}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {key: one for part, inner in items for key, one in _flat(inner, f"{name}.{part}" if name else str(part)).items()}


def _shown(error: Exception) -> str:
    """Describe an error in one line, without the values of secret environment variables."""
    text = first_line(error)
    for name, value in os.environ.items():
        if _SECRET.search(name) and len(value) >= 6:
            text = text.replace(value, "***")
    return text
