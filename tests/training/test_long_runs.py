"""What long runs meet: time limits, damaged files; and that none of it changes the result."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from chiron.training import checkpoint
from chiron.training.metrics import read_metrics
from chiron.training.recipe import Recipe
from chiron.training.session import prepare, train
from chiron.training.stage import TrainingStopped
from tests.support.waiting import PATIENCE, wait_until
from tests.training.tiny import tiny_model, tiny_tokenizer, write_rows

pytestmark = pytest.mark.slow

STAGE = {"name": "cot", "data": "cot.jsonl", "steps": 6, "batch": {"rows": 4}, "learning_rate": 1e-2}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Sums over another number of threads differ in the last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_rows(folder / "data", 9, ("text", "one"), seed=0, name="cot.jsonl")
    write_rows(folder / "data", 4, ("text", "one"), seed=1, name="held.jsonl")
    tiny_model().save_pretrained(folder / "base")
    tiny_tokenizer().save_pretrained(folder / "base")
    return folder


def recipe_of(world: Path, stage: dict[str, Any] | None = None, **changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "name": "tiny", "base": str(world / "base"), "adapter": {"rank": 4, "alpha": 8, "dropout": 0.1}, "images": {"tile": 32},
        "max_seq_length": 512, "precision": "fp32", "checkpoint_every": 100, "stages": [{**STAGE, **(stage or {})}],
    }  # fmt: skip
    return Recipe.model_validate({**values, **changes})


def run(world: Path, out: Path, recipe: Recipe, **options: Any) -> None:
    train(prepare(recipe, world / "data"), out, **options)


def names(out: Path) -> list[str]:
    return [folder.name for folder in checkpoint.checkpoints(out / "checkpoints")]


def assert_equal(one: Path, other: Path) -> None:
    """The same losses and weights, to the bit."""
    timeless = [[{k: v for k, v in line.items() if k not in {"seconds", "memory_gib"}} for line in read_metrics(out / "metrics.jsonl")]
                for out in (one, other)]  # fmt: skip
    assert timeless[0] == timeless[1]
    mine, wanted = (load_file(out / "model" / "model.safetensors") for out in (one, other))
    assert mine.keys() == wanted.keys()
    assert all(torch.equal(mine[k], wanted[k]) for k in wanted)


@pytest.fixture(scope="module")
def undisturbed(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed")
    run(world, out, recipe_of(world))
    return out


# --- signals and time -----------------------------------------------------------------------------------------------------------------


def start(world: Path, out: Path, recipe: Recipe, ranks: int = 1) -> list["subprocess.Popen[str]"]:
    """Start the command on some processes, as srun does."""
    (path := out.parent / f"{out.name}.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    arguments = [sys.executable, "-m", "chiron", "train", str(path), "--data", str(world / "data"), "--out", str(out)]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    together = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)} if ranks > 1 else {}
    return [
        subprocess.Popen(
            arguments, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **together, **({"RANK": str(n), "LOCAL_RANK": str(n)} if ranks > 1 else {})},
        )
        for n in range(ranks)
    ]  # fmt: skip


def done_steps(out: Path) -> int:
    return sum("loss" in line for line in read_metrics(out / "metrics.jsonl"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_ends_training_after_the_step_with_a_checkpoint_and_exit_code_75(world: Path, tmp_path: Path, number: int) -> None:
    out = tmp_path / "out"
    (process,) = start(world, out, recipe_of(world, {"steps": 100_000}))
    wait_until(lambda: done_steps(out) >= 2 or process.poll() is not None)
    process.send_signal(number)
    _, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 75, error
    (kept,) = checkpoint.checkpoints(out / "checkpoints")
    steps = done_steps(out)
    assert kept.name == f"step-{steps:08d}"
    assert f"stopped after step {steps}" in error
    assert "Traceback" not in error


def test_a_stopped_run_resumes_to_the_same_bits(world: Path, undisturbed: Path, tmp_path: Path) -> None:
    for at in (1, 4, 6):  # the last step of the stage too
        with pytest.raises(TrainingStopped, match=f"after step {at} "):
            run(world, tmp_path, recipe_of(world), stop=lambda: done_steps(tmp_path) == at - 1)  # noqa: B023
    run(world, tmp_path, recipe_of(world))
    assert_equal(tmp_path, undisturbed)


def test_all_processes_stop_at_the_step_in_which_one_got_the_signal(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    processes = start(world, out, recipe_of(world, {"steps": 100_000}), ranks=2)
    wait_until(lambda: done_steps(out) >= 2 or any(p.poll() is not None for p in processes))
    processes[1].send_signal(signal.SIGUSR1)
    errors = [process.communicate(timeout=PATIENCE)[1] for process in processes]
    assert [process.returncode for process in processes] == [75, 75], errors
    assert names(out) == [f"step-{done_steps(out):08d}"]
    assert set(torch.load(checkpoint.checkpoints(out / "checkpoints")[0] / "random.pt", weights_only=True)) == {"0", "1"}


def test_checkpoints_are_also_written_at_an_interval_of_time(world: Path, undisturbed: Path, tmp_path: Path) -> None:
    seen: list[list[str]] = []
    run(world, tmp_path, recipe_of(world, checkpoint_minutes=1e-9), watch=lambda _: seen.append(names(tmp_path)))
    assert [len(kept) for kept in seen] == [0, 1, 2, 2, 2, 2]
    assert seen[-1] == ["step-00000004", "step-00000005"]
    assert_equal(tmp_path, undisturbed)
    with contextlib.suppress(TrainingStopped):
        run(world, tmp_path / "long", recipe_of(world, checkpoint_minutes=60), stop=lambda: done_steps(tmp_path / "long") == 3)
    assert names(tmp_path / "long") == ["step-00000004"]


# --- damaged checkpoints --------------------------------------------------------------------------------------------------------------


def damage(path: Path, how: str) -> None:
    """Truncate a file, remove it, or flip a bit in its middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if how == "removed":
        path.unlink()
    else:
        path.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "flipped": content}[how])


@pytest.fixture(scope="module")
def stopped(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped after step 4, with the checkpoints of steps 2 and 4."""
    out = tmp_path_factory.mktemp("stopped")
    with contextlib.suppress(TrainingStopped):
        run(world, out, recipe_of(world, checkpoint_every=2), stop=lambda: done_steps(out) == 3)
    return out


@pytest.mark.parametrize("file", ["weights.safetensors", "optimizer.pt", "random.pt", "place.json"])
@pytest.mark.parametrize("how", ["cut", "empty", "flipped", "removed"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before_with_a_warning(
    stopped: Path, tmp_path: Path, file: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    if (file, how) == ("place.json", "removed"):
        pytest.skip("a folder without it is a checkpoint that was never complete")
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    damage(tmp_path / "checkpoints" / "step-00000004" / file, how)
    found = checkpoint.load_last(tmp_path / "checkpoints")
    assert found is not None
    assert found.position.step == 2
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert "step-00000004 is damaged" in caplog.text
    assert "resuming from the one before" in caplog.text


def test_a_run_that_fell_back_ends_bit_equal_and_says_so(world: Path, undisturbed: Path, stopped: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(stopped, out)
    damage(out / "checkpoints" / "step-00000004" / "weights.safetensors", "flipped")
    (process,) = start(world, out, recipe_of(world, checkpoint_every=3))
    _, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, error
    assert "step-00000004 is damaged (weights.safetensors has changed since it was written): resuming from the one before" in error
    assert_equal(out, undisturbed)


def test_a_damaged_checkpoint_does_not_count_as_one_that_is_kept(world: Path, stopped: Path, tmp_path: Path) -> None:
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    damage(tmp_path / "checkpoints" / "step-00000004" / "random.pt", "cut")
    with contextlib.suppress(TrainingStopped):
        run(world, tmp_path, recipe_of(world), stop=lambda: True)
    assert names(tmp_path) == ["step-00000002", "step-00000003"]


def test_a_checkpoint_of_an_earlier_version_without_hashes_is_resumed(stopped: Path, tmp_path: Path) -> None:
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    sums = tmp_path / "checkpoints" / "step-00000004" / "SHA256SUMS"
    checked = subprocess.run(["sha256sum", "--check", sums.name], cwd=sums.parent, capture_output=True, text=True, check=True)
    assert checked.stdout.count(": OK") == 4
    sums.unlink()
    found = checkpoint.load_last(tmp_path / "checkpoints")
    assert found is not None
    assert found.position.step == 4
