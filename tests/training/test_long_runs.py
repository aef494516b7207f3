"""What long runs meet: time limits, damaged files; and that none of it changes the result."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoTokenizer, InternVLForConditionalGeneration

from chiron.errors import InputError
from chiron.evaluation.reward import row_is_right
from chiron.training import checkpoint
from chiron.training.held_out import BestWeights
from chiron.training.metrics import read_metrics
from chiron.training.recipe import Recipe
from chiron.training.session import TrainingSummary, prepare, train
from chiron.training.stage import TrainingStopped
from tests.support.command import Forked
from tests.support.waiting import PATIENCE, wait_until
from tests.training.tiny import tiny_model, tiny_tokenizer, write_rows

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

STAGE = {"name": "cot", "data": "cot.jsonl", "steps": 6, "batch": {"rows": 4}, "learning_rate": 1e-2}


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


def run(world: Path, out: Path, recipe: Recipe, **options: Any) -> TrainingSummary:
    return train(prepare(recipe, world / "data"), out, score=row_is_right, **options)


def names(out: Path) -> list[str]:
    return [folder.name for folder in checkpoint.checkpoints(out / "checkpoints")]


def assert_equal(one: Path, other: Path) -> None:
    """The same losses and weights, to the bit."""
    varying = {"seconds", "memory_gib", "waited"}
    timeless = [[{k: v for k, v in line.items() if k not in varying} for line in read_metrics(out / "metrics.jsonl")]
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


def start(
    world: Path, out: Path, recipe: Recipe | Sequence[Recipe], ranks: int = 1, outs: Sequence[Path] = (), data: Sequence[Path] = ()
) -> list[Forked]:
    """Start the command on some processes, as srun does. ``outs``, ``data``: folders of each, if they do not share ``out`` and the data."""
    outs = outs or [out] * ranks
    ranks = len(outs)
    recipes = [recipe] * ranks if isinstance(recipe, Recipe) else recipe
    paths = [out.parent / f"{out.name}-{n}.yaml" for n in range(ranks)]
    for path, one in zip(paths, recipes, strict=True):
        path.write_text(yaml.safe_dump(one.model_dump(mode="json")))
    data = data or [world / "data"] * ranks
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    together = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)} if ranks > 1 else {}
    return [
        Forked(
            "train", paths[n], "--data", data[n], "--out", outs[n], errors=out.parent / f"{out.name}-{n}.txt",
            **together, **({"RANK": str(n), "LOCAL_RANK": str(n)} if ranks > 1 else {}),
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
    code, _, error = process.wait()
    assert code == 75, error
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
    ended = [process.wait() for process in processes]
    assert [one.returncode for one in ended] == [75, 75], ended
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
        path.write_bytes({"cut": bytes(content[: len(content) // 2]), "empty": b"", "flipped": bytes(content)}[how])


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
    code, _, error = process.wait()
    assert code == 0, error
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
    checked = subprocess.run(["sha256sum", "--check", sums.name], cwd=sums.parent, capture_output=True, text=True, check=True)  # noqa: S607
    assert checked.stdout.count(": OK") == 4
    sums.unlink()
    found = checkpoint.load_last(tmp_path / "checkpoints")
    assert found is not None
    assert found.position.step == 4


# --- held-out rows during a stage -------------------------------------------------------------------------------------------------------

MEASURED = {"held_out": "held.jsonl", "held_out_every": 2, "answers": 3, "answer_tokens": 8}


def measurements(out: Path) -> list[dict[str, Any]]:
    return [line for line in read_metrics(out / "metrics.jsonl") if "held_out_loss" in line]


def samples(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "samples.jsonl").read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def measured(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("measured")
    run(world, out, recipe_of(world, MEASURED))
    return out


def test_measuring_held_out_rows_changes_no_weight(measured: Path, undisturbed: Path) -> None:
    assert [line["total_steps"] for line in measurements(measured)] == [2, 4, 6]
    assert len({line["held_out_loss"] for line in measurements(measured)}) == 3
    steps = [[line["loss"] for line in read_metrics(out / "metrics.jsonl") if "loss" in line] for out in (measured, undisturbed)]
    assert steps[0] == steps[1]
    mine, wanted = (load_file(out / "model" / "model.safetensors") for out in (measured, undisturbed))
    assert all(torch.equal(mine[k], wanted[k]) for k in wanted)


def test_the_last_samples_are_what_transformers_generates_from_the_exported_model(world: Path, measured: Path) -> None:
    told = [line for line in samples(measured) if line["total_steps"] == 6]
    assert [len([line for line in samples(measured) if line["total_steps"] == step]) for step in (2, 4, 6)] == [3, 3, 3]
    model: Any = InternVLForConditionalGeneration.from_pretrained(measured / "model")
    tokenizer: Any = AutoTokenizer.from_pretrained(measured / "model")
    text = next(line for line in told if not line["images"])
    rows = {row["id"]: row for row in map(json.loads, (world / "data" / "held.jsonl").read_text("utf-8").splitlines())}
    turns = rows[text["id"]]["messages"]
    ids = tokenizer.apply_chat_template(turns[:-1], add_generation_prompt=True, return_tensors="pt", return_dict=True)["input_ids"]
    made = model.generate(input_ids=ids, do_sample=False, max_new_tokens=8, eos_token_id=tokenizer.convert_tokens_to_ids("<|im_end|>"))
    assert tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True) == text["reply"]
    assert (text["question"], text["reference"]) == (turns[-2]["content"], turns[-1]["content"])
    assert text["finished"] is False


def test_generated_answers_are_scored_by_the_answer_reader(world: Path, tmp_path: Path) -> None:
    """A model that learned one row by heart answers it correctly, in its own words or as an option."""
    row = {"images": [], "messages": [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "B"}]}
    rows = [{**row, "id": "a", "options": ["no", "yes"], "answer": "yes"}, {**row, "id": "b"}, {**row, "id": "c", "answer": "heart"}]
    (world / "data" / "known.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    stage = {**MEASURED, "data": "known.jsonl", "held_out": "known.jsonl", "steps": 40, "held_out_every": 39, "batch": {"rows": 3}}
    run(world, tmp_path, recipe_of(world, {**stage, "learning_rate": 3e-2}, adapter={"rank": 8, "alpha": 32, "dropout": 0}))
    last = {line["id"]: line for line in samples(tmp_path) if line["total_steps"] == 40}
    assert {name: (line["reply"], line["finished"], line["correct"]) for name, line in last.items()} == {
        "a": ("B", True, True), "b": ("B", True, True), "c": ("B", True, False),
    }  # fmt: skip
    assert (measurements(tmp_path)[-1]["answers"], measurements(tmp_path)[-1]["accuracy"]) == (3, pytest.approx(2 / 3))


@pytest.mark.parametrize("change", [{}, {"keep_best": True}, {"keep_best": True, "patience": 1}])
def test_a_measured_run_that_was_stopped_anywhere_ends_bit_equal(world: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    recipe = recipe_of(world, {**MEASURED, "steps": 8, "learning_rate": 5e-2, "warmup": 0.6, **change}, checkpoint_every=3)
    run(world, tmp_path / "whole", recipe)
    for at in (1, 2, 4, 5, 6):
        with contextlib.suppress(TrainingStopped):
            run(world, tmp_path / "cut", recipe, stop=lambda: done_steps(tmp_path / "cut") == at - 1)  # noqa: B023
    run(world, tmp_path / "cut", recipe)
    assert_equal(tmp_path / "cut", tmp_path / "whole")
    assert samples(tmp_path / "cut") == samples(tmp_path / "whole")


def test_a_stage_that_keeps_its_best_weights_ends_with_those_of_the_lowest_held_out_loss(world: Path, tmp_path: Path) -> None:
    """The learning rate rises until the loss does too."""
    stage = {"held_out": "held.jsonl", "held_out_every": 1, "steps": 6, "learning_rate": 0.3, "warmup": 0.99}
    best = run(world, tmp_path / "best", recipe_of(world, {**stage, "keep_best": True})).held_out["cot"]
    losses = [line["held_out_loss"] for line in measurements(tmp_path / "best")]
    at = losses.index(min(losses)) + 1
    assert 1 <= at < 6
    assert best == min(losses)
    assert f"{best:.4f}" in (tmp_path / "best" / "model" / "README.md").read_text()
    with contextlib.suppress(TrainingStopped):
        run(world, tmp_path / "at", recipe_of(world, stage), stop=lambda: done_steps(tmp_path / "at") == at - 1)
    wanted = load_file(tmp_path / "at" / "checkpoints" / f"step-{at:08d}" / "weights.safetensors")
    kept = load_file(tmp_path / "best" / "checkpoints" / "step-00000006" / "weights.safetensors")
    assert all(torch.equal(kept[k], wanted[k]) for k in wanted)


def test_a_stage_ends_early_when_its_patience_is_over(world: Path, tmp_path: Path) -> None:
    stage = {"held_out": "held.jsonl", "held_out_every": 1, "steps": 50, "learning_rate": 0.3, "warmup": 0.2, "patience": 2}
    run(world, tmp_path, recipe_of(world, {**stage, "keep_best": True}))
    losses = [line["held_out_loss"] for line in measurements(tmp_path)]
    assert len(losses) < 50
    assert losses.index(min(losses)) == len(losses) - 3
    assert f"| {len(losses)} |" in (tmp_path / "model" / "README.md").read_text()


def test_patience_counts_measurements_since_the_best_one() -> None:
    stage = recipe_of(Path(), {**MEASURED, "patience": 2}).stages[0]
    history = BestWeights(stage, [(2, 3.0)], None)
    assert [history.add(step, loss) for step, loss in ((4, 2.0), (6, 2.0), (8, 1.5), (10, float("nan")))] == [True, False, True, False]
    assert not history.patience_is_over
    history.add(12, 1.6)
    assert history.patience_is_over


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ({"answers": 3}, "set held_out"),
        ({"held_out": "held.jsonl", "keep_best": True}, "set held_out_every"),
        ({"held_out": "held.jsonl", "patience": 1}, "set held_out_every"),
    ],
)
def test_measurements_without_what_they_need_are_refused(stage: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        recipe_of(Path(), stage)


def test_answers_that_cannot_be_compared_are_an_error_before_training(world: Path, tmp_path: Path) -> None:
    row = {"id": "x", "images": [], "messages": [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "B"}]}
    (world / "data" / "other.jsonl").write_text(json.dumps({**row, "options": ["no", "yes"], "answer": "maybe"}) + "\n")
    with pytest.raises(InputError, match=r"other\.jsonl, row x: a reply cannot be compared with 'maybe'"):
        run(world, tmp_path, recipe_of(world, {**MEASURED, "held_out": "other.jsonl"}))
    assert done_steps(tmp_path) == 0


@pytest.mark.parametrize("shard", [False, True])
def test_two_processes_measure_as_one(world: Path, tmp_path: Path, shard: bool) -> None:
    """With shards, the best weights are gathered, and answers are not supported."""
    stage = {**MEASURED, "keep_best": True, "learning_rate": 0.1, "warmup": 0.99, **({"answers": 0} if shard else {})}
    recipe = recipe_of(world, stage, adapter={"rank": 4, "alpha": 8, "dropout": 0.0})
    run(world, tmp_path / "one", recipe)
    processes = start(world, tmp_path / "two", recipe.model_copy(update={"shard": shard}), ranks=2)
    ended = [process.wait() for process in processes]
    assert [one.returncode for one in ended] == [0, 0], ended
    one, two = (measurements(tmp_path / name) for name in ("one", "two"))
    assert [line["held_out_loss"] for line in two] == pytest.approx([line["held_out_loss"] for line in one], rel=1e-4)
    assert [(line["total_steps"], line["answers"]) for line in two] == [(line["total_steps"], line["answers"]) for line in one]
    mine, wanted = (load_file(tmp_path / name / "checkpoints" / "step-00000006" / "weights.safetensors") for name in ("two", "one"))
    assert max(float((mine[name] - wanted[name]).abs().max()) for name in wanted) < 1e-4
    assert min(line["held_out_loss"] for line in one) < one[-1]["held_out_loss"]
    if not shard:
        asked = [[(line["total_steps"], line["id"], line["question"]) for line in samples(tmp_path / name)] for name in ("one", "two")]
        assert asked[0] == asked[1]


def test_the_chosen_reply_of_a_preference_pair_is_answered(world: Path, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "A"}, {"role": "user", "content": "Sure?"}]
    pair = {"id": "p", "images": [], "prompt": turns, "chosen": [{"role": "assistant", "content": "yes"}]}
    row = {**pair, "rejected": [{"role": "assistant", "content": "no, not at all"}]}
    (world / "data" / "pairs.jsonl").write_text(json.dumps(row) + "\n")
    stage = {"data": "pairs.jsonl", "objective": "dpo", "steps": 2, "batch": {"rows": 1}, **MEASURED, "held_out": "pairs.jsonl"}
    prepared = prepare(recipe_of(world, stage), world / "data")
    (question,) = prepared.questions["cot"]
    prompt = prepared.base.tokenizer.decode(question.encoded.input_ids)
    assert prompt.endswith("<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n")
    train(prepared, tmp_path, score=row_is_right)
    (sample,) = samples(tmp_path)
    assert (sample["question"], sample["reference"], sample["correct"]) == ("Sure?", "yes", False)


def test_processes_that_find_different_checkpoints_stop(world: Path, stopped: Path, tmp_path: Path) -> None:
    """As on two nodes without a shared file system."""
    shutil.copytree(stopped, tmp_path / "b")
    outs = [tmp_path / "a", tmp_path / "b"]
    processes = start(world, tmp_path / "a", recipe_of(world, checkpoint_every=2), outs=outs)
    ended = [process.wait() for process in processes]
    assert [one.returncode for one in ended] == [2, 2], ended
    assert "the processes found different checkpoints" in ended[0].stderr


def test_processes_with_different_data_stop_and_name_the_file(world: Path, tmp_path: Path) -> None:
    """As on two nodes with copies of their own; a process also stops if only another one differs."""
    shutil.copytree(world / "data", tmp_path / "data")
    row = json.loads((world / "data" / "held.jsonl").read_text().splitlines()[0])
    with (tmp_path / "data" / "held.jsonl").open("a") as file:
        file.write(json.dumps({**row, "id": "more"}) + "\n")
    recipe = recipe_of(world, {"held_out": "held.jsonl"})
    processes = start(world, tmp_path / "out", recipe, ranks=2, data=[world / "data", tmp_path / "data"])
    ended = [process.wait() for process in processes]
    errors = [" ".join(one.stderr.split()) for one in ended]
    assert [one.returncode for one in ended] == [2, 2], errors
    assert "held.jsonl of process 1 differs from that of process 0: copy the same recipe, data and base to all nodes" in errors[0]
    assert not (tmp_path / "out").exists()


def test_a_tile_cache_that_one_process_cannot_write_is_an_error_of_all(world: Path, tmp_path: Path) -> None:
    """As on two nodes of which only one has the scratch disk."""
    (tmp_path / "file").write_text("")
    recipes = [recipe_of(world, tile_cache=str(tmp_path / name)) for name in ("tiles", "file")]
    processes = start(world, tmp_path / "out", recipes, ranks=2)
    ended = [process.wait() for process in processes]
    errors = [" ".join(one.stderr.split()) for one in ended]
    assert [one.returncode for one in ended] == [2, 2], errors
    assert f"process 1: tile_cache {tmp_path / 'file'} cannot be written" in errors[0]
    assert not (tmp_path / "out").exists()


def test_the_documented_slurm_script_requeues_after_the_signal(world: Path, tmp_path: Path) -> None:
    """With stand-ins of Slurm's commands: srun starts two tasks and passes signals on, and its exit code is the tasks' highest."""
    (tmp_path / "mmrp").symlink_to(world / "data")
    recipe = recipe_of(world, {"steps": 100_000}).model_dump(mode="json")
    (world / "data" / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    commands = {
        "srun": f"""#!{sys.executable}
import os, signal, subprocess, sys
tasks = [subprocess.Popen(sys.argv[1:], env={{**os.environ, "SLURM_PROCID": n, "SLURM_LOCALID": n, "SLURM_NTASKS": "2"}}) for n in "01"]
signal.signal(signal.SIGUSR1, lambda *_: [task.send_signal(signal.SIGUSR1) for task in tasks])
sys.exit(max(task.wait() for task in tasks))
""",
        "scontrol": """#!/bin/sh
if [ $1 = show ]; then echo 127.0.0.1; echo other; else echo "$@" >> requeued; fi
""",
        "chiron": f"""#!/bin/sh
exec {sys.executable} -m chiron "$@"
""",
    }
    (tmp_path / "bin").mkdir()
    for name, code in commands.items():
        (tmp_path / "bin" / name).write_text(code)
        (tmp_path / "bin" / name).chmod(0o755)
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text("utf-8")
    script = next(block for block in page.split("```bash\n")[1:] if "#SBATCH" in block).partition("```")[0]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (tmp_path / "job.sh").write_text(script.replace("MASTER_PORT=29500", f"MASTER_PORT={port}"))
    source = os.pathsep.join(filter(None, [str(Path(__file__).parents[2] / "src"), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    slurm = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "node[1-2]"}
    out = tmp_path / "runs" / "8b"
    job = subprocess.Popen(
        ["/bin/bash", "job.sh"], cwd=tmp_path, env={**environment, **slurm}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_until(lambda: done_steps(out) >= 2 or job.poll() is not None)
    job.send_signal(signal.SIGUSR1)
    _, error = job.communicate(timeout=PATIENCE)
    assert job.returncode == 75, error
    assert (tmp_path / "requeued").read_text() == "requeue 4711\n"
    assert names(out) == [f"step-{done_steps(out):08d}"]
