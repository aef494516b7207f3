"""Experiment trackers: accelerate's own classes against stand-ins of their packages, which note every call in a file."""

import importlib
import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest

from chiron.errors import InputError
from chiron.training.metrics import read_metrics
from chiron.training.recipe import Recipe
from chiron.training.session import prepare, train
from chiron.training.stage import TrainingStopped

pytestmark = pytest.mark.slow

KEY = "key-0123456789abcdef"
STAND_INS = {
    "wandb": """
import json, os
def note(**what):
    with open(os.environ["STAND_IN"], "a") as file: file.write(json.dumps(what) + "\\n")
class Run:
    def log(self, values, step=None):
        if os.environ.get("STAND_IN_FAILS"): raise OSError("no connection for " + os.environ["WANDB_API_KEY"])
        note(log=values, step=step)
    def finish(self): note(finish=True)
class config:
    @staticmethod
    def update(values, allow_val_change=False): note(config=values)
def init(project, **settings):
    if os.environ.get("STAND_IN_REFUSES"): raise ValueError("bad key " + os.environ["WANDB_API_KEY"])
    note(init=project, **settings)
    return Run()
""",
    "mlflow": """
import json, os, types
def note(**what):
    with open(os.environ["STAND_IN"], "a") as file: file.write(json.dumps(what) + "\\n")
utils = types.SimpleNamespace(validation=types.SimpleNamespace(MAX_PARAM_VAL_LENGTH=500, MAX_PARAMS_TAGS_PER_BATCH=100))
def search_experiments(filter_string): return []
def create_experiment(name, artifact_location=None, tags=None):
    note(init=name)
    return "7"
def start_run(run_id=None, **_):
    note(run_id=run_id)
    return types.SimpleNamespace(info=types.SimpleNamespace(run_id=run_id or "run-of-mlflow"))
def log_params(values): note(config=values)
def log_metrics(values, step=None): note(log=values, step=step)
def end_run(): note(finish=True)
""",
}
STAND_INS["trackio"] = STAND_INS["wandb"]


@pytest.fixture
def noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of the stand-ins' notes."""
    for name, code in STAND_INS.items():
        (tmp_path / "packages" / name).mkdir(parents=True)
        (tmp_path / "packages" / name / "__init__.py").write_text(code)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path / "packages")
    importlib.invalidate_caches()
    monkeypatch.setenv("STAND_IN", str(tmp_path / "notes.jsonl"))
    for name in ("WANDB_API_KEY", "MLFLOW_TRACKING_TOKEN", "HF_TOKEN"):
        monkeypatch.setenv(name, KEY)
    return tmp_path / "notes.jsonl"


def recipe_of(world: Path, *trackers: str, **changes: Any) -> Recipe:
    stage = {"name": "text", "data": "text.jsonl", "steps": 4, "batch": {"rows": 4}, "learning_rate": 1e-3, "held_out": "text.jsonl"}
    values: dict[str, Any] = {
        "name": "tiny", "base": str(world / "base"), "adapter": {"rank": 4, "alpha": 8}, "images": {"tile": 32}, "max_seq_length": 512,
        "precision": "fp32", "checkpoint_every": 2, "trackers": trackers, "stages": [{**stage, "held_out_every": 2}],
    }  # fmt: skip
    return Recipe.model_validate({**values, **changes})


def notes(path: Path, key: str) -> list[Any]:
    return [line for line in map(json.loads, path.read_text().splitlines()) if key in line]


@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio"])
def test_a_tracker_gets_every_line_once_also_after_a_resume_and_no_key(world: Path, tmp_path: Path, noted: Path, name: str) -> None:
    out = tmp_path / "out"
    steps = 0

    def asked_in_step_three() -> bool:
        nonlocal steps
        steps += 1
        return steps == 3

    class Killed(Exception):
        pass

    def killed_in_step_four(metrics: Any) -> None:
        if metrics.total_steps == 4:
            raise Killed

    recipe = recipe_of(world, name)
    with pytest.raises(TrainingStopped):
        train(prepare(recipe, world / "data"), out, stop=asked_in_step_three)
    with pytest.raises(Killed):
        train(prepare(recipe, world / "data"), out, watch=killed_in_step_four)
    train(prepare(recipe, world / "data"), out)
    logged = [(line["step"], "held_out_loss/text" in line["log"]) for line in notes(noted, "log")]
    # Step 4 ran twice.
    assert logged == [(1, False), (2, False), (2, True), (3, False), (4, False), (4, True)]
    losses = [line["loss"] for line in read_metrics(out / "metrics.jsonl") if "loss" in line]
    assert [line["log"]["loss/text"] for line in notes(noted, "log") if "loss/text" in line["log"]] == losses
    assert {line["init"] for line in notes(noted, "init")} == {"tiny"}
    (settings,) = notes(noted, "config")
    assert str(settings["config"]["stages.0.learning_rate"]) == "0.001"
    assert len(notes(noted, "finish")) == 3
    assert KEY not in noted.read_text()
    assert not [path for path in out.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


@pytest.mark.parametrize(("name", "key"), [("wandb", "id"), ("trackio", "name"), ("mlflow", "run_id")])
def test_a_resumed_training_continues_the_trackers_run(world: Path, tmp_path: Path, noted: Path, name: str, key: str) -> None:
    for _ in range(2):
        train(prepare(recipe_of(world, name), world / "data"), tmp_path / "out")
    first, second = (line[key] for line in notes(noted, key))
    assert second == ("run-of-mlflow" if name == "mlflow" else first)
    assert first is None if name == "mlflow" else first


def test_a_tracker_that_is_added_later_gets_the_steps_before_it(world: Path, tmp_path: Path, noted: Path) -> None:
    train(prepare(recipe_of(world), world / "data"), tmp_path / "out")
    train(prepare(recipe_of(world, "wandb", "trackio"), world / "data"), tmp_path / "out")
    assert [line["step"] for line in notes(noted, "log")] == 2 * [1, 2, 2, 3, 4, 4]


def test_a_tracker_that_fails_does_not_end_the_training_and_is_said_once_without_the_key(
    world: Path, tmp_path: Path, noted: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("STAND_IN_FAILS", "yes")
    caplog.set_level(logging.WARNING)
    train(prepare(recipe_of(world, "wandb"), world / "data"), tmp_path / "out")
    told = [record.getMessage() for record in caplog.records if record.name.startswith("chiron")]
    assert told == [
        "tracker wandb failed: no connection for ***; training continues, and metrics.jsonl has every line",
        "tracker wandb failed 6 times in all",
    ]
    assert notes(noted, "log") == []


def test_a_tracker_that_does_not_start_is_an_error_without_the_key(
    world: Path, tmp_path: Path, noted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_REFUSES", "yes")
    with pytest.raises(InputError, match=r"tracker wandb does not start: bad key \*\*\*; fix it, or remove it from trackers"):
        train(prepare(recipe_of(world, "wandb"), world / "data"), tmp_path / "out")


def test_a_missing_package_is_one_line_with_what_to_install(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        InputError, match="trackers: mlflow needs the package 'mlflow', which is not installed: pip install mlflow, or remove"
    ):
        prepare(recipe_of(world, "mlflow"), world / "no-such-data")


def test_tensorboard_may_be_named_among_the_trackers(world: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    train(prepare(recipe_of(world, "tensorboard"), world / "data"), tmp_path)
    assert list((tmp_path / "tensorboard").iterdir())


def test_an_unknown_tracker_is_refused(world: Path) -> None:
    with pytest.raises(ValueError, match="trackers"):
        recipe_of(world, "comet")
