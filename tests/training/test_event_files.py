"""TensorBoard beside ``metrics.jsonl``: the same steps, each once, and no surprise where its package is missing."""

import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from chiron.errors import DiskError, InputError
from chiron.training.metrics import HeldOut, StepMetrics, read_metrics, tensorboard_writer
from chiron.training.recipe import Recipe
from chiron.training.session import prepare, train

STAGES = [
    {"name": "text", "data": "text.jsonl", "steps": 4, "batch": {"rows": 4}, "learning_rate": 1e-3, "held_out": "text.jsonl"},
    {"name": "cot", "data": "text.jsonl", "steps": 3, "batch": {"rows": 4}, "learning_rate": 1e-3},
]


class Killed(Exception):
    pass


def recipe_of(world: Path, **changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "name": "tiny", "base": str(world / "base"), "adapter": {"rank": 4, "alpha": 8}, "images": {"tile": 32}, "max_seq_length": 512,
        "precision": "fp32", "checkpoint_every": 2, "tensorboard": True, "stages": STAGES,
    }  # fmt: skip
    return Recipe.model_validate({**values, **changes})


def shown(out: Path) -> dict[str, list[tuple[int, float]]]:
    """Every scalar of every event file, as written: steps that came twice are there twice."""
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    found: dict[str, list[tuple[int, float]]] = {}
    for file in sorted((out / "tensorboard").iterdir()):
        for event in loader.EventFileLoader(str(file)).Load():
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.tensor.float_val[0]))
    return found


def recorded(out: Path, stage: str, key: str) -> list[tuple[int, Any]]:
    lines = [line for line in read_metrics(out / "metrics.jsonl") if line["stage"] == stage and key in line]
    return [(line["total_steps"], pytest.approx(line[key], rel=1e-6)) for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("at", [None, 1, 3, 4, 6])
def test_tensorboard_shows_every_step_once_also_after_a_kill(world: Path, tmp_path: Path, at: int | None) -> None:
    pytest.importorskip("tensorboard")

    def cut(metrics: StepMetrics | HeldOut) -> None:
        if isinstance(metrics, StepMetrics) and metrics.total_steps == at:
            # On disk by now: what kills a run need not be so kind as to close its files.
            assert [step for step, _ in shown(tmp_path)["learning_rate"]] == list(range(1, at + 1))
            raise Killed

    if at is not None:
        with pytest.raises(Killed):
            train(prepare(recipe_of(world), world / "data"), tmp_path, watch=cut)
    train(prepare(recipe_of(world), world / "data"), tmp_path)
    found = shown(tmp_path)
    assert found["loss/text"] == recorded(tmp_path, "text", "loss")
    assert found["loss/cot"] == recorded(tmp_path, "cot", "loss")
    assert found["held_out_loss/text"] == recorded(tmp_path, "text", "held_out_loss")
    assert [step for step, _ in found["learning_rate"]] == [1, 2, 3, 4, 5, 6, 7]
    assert found.keys() == {
        "loss/text", "loss/cot", "held_out_loss/text", "learning_rate", "gradient_norm", "tokens_per_second", "utilisation", "memory_gib",
    }  # fmt: skip


@pytest.mark.slow
def test_a_run_begun_without_it_shows_all_of_it_later(world: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    train(prepare(recipe_of(world, tensorboard=False), world / "data"), tmp_path)
    assert not (tmp_path / "tensorboard").exists()
    train(prepare(recipe_of(world), world / "data"), tmp_path)
    assert shown(tmp_path)["loss/text"] == recorded(tmp_path, "text", "loss")


def test_a_missing_package_is_said_before_any_row_is_read(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("tensorboard", "torch.utils.tensorboard"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(InputError, match=r"pip install 'chiron-med\[tensorboard\]'"):
        prepare(recipe_of(world), world / "no-such-data")


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.summary.writer.record_writer import RecordWriter

    def full(self: object, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(DiskError, match="No space left on device"), tensorboard_writer(tmp_path / "tensorboard", []) as add:
        monkeypatch.setattr(RecordWriter, "write", full)
        # The writer's thread ends with the error, and would tell pytest of it too.
        monkeypatch.setattr(threading, "excepthook", lambda _: None)
        add(HeldOut("text", 3, 1.5, 8))
