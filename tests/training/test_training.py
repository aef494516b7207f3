"""A whole training: what is promised of stages, checkpoints, kills, and what comes out."""

import hashlib
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from chiron.cases.images import ImageFolder
from chiron.cli.app import app
from chiron.errors import DiskError, InputError
from chiron.training import checkpoint
from chiron.training.base import LoadedModel
from chiron.training.batches import collate
from chiron.training.encoding import trained_tokens
from chiron.training.estimate import estimate
from chiron.training.known_bases import KNOWN_BASES
from chiron.training.loop import learning_rate
from chiron.training.metrics import MetricsFile, StepMetrics, read_metrics
from chiron.training.model import Loss, add_adapter, plain
from chiron.training.packing import plan_stage, steps_of_stage
from chiron.training.recipe import Adapter, Recipe, builtin_recipe, load_recipe
from chiron.training.session import Prepared, prepare, train
from tests.support.command import Forked, chiron
from tests.support.waiting import wait_until
from tests.training.tiny import tiny_model, tiny_tokenizer, write_rows

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

STAGES = [
    {"name": "text", "data": "text.jsonl", "trainable": "all", "steps": 4, "batch": {"rows": 6}, "learning_rate": 1e-3},
    {
        "name": "alignment", "data": "alignment.jsonl", "steps": 5, "batch": {"tokens": 400}, "learning_rate": 2e-3,
        "replay": {"text": 0.3}, "held_out": "held.jsonl",
    },
    {
        "name": "cot", "data": "cot.jsonl", "epochs": 2, "batch": {"rows": 5}, "learning_rate": 1e-3,
        "replay": {"text": 0.2, "alignment": 0.3},
    },
]  # fmt: skip

RUN = checkpoint.RunIdentity(recipe="tiny", data={}, sha256="")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, a base model, and a recipe."""
    folder = tmp_path_factory.mktemp("world")
    files = [("text", 12, ("text",)), ("alignment", 10, ("one",)), ("cot", 9, ("one", "several")), ("held", 4, ("one",))]
    for number, (name, count, kinds) in enumerate(files):
        write_rows(folder / "data", count, kinds, seed=number, name=f"{name}.jsonl")
    tiny_model().save_pretrained(folder / "base")
    tiny_tokenizer().save_pretrained(folder / "base")
    return folder


def recipe_of(world: Path, **changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "name": "tiny", "base": str(world / "base"), "adapter": {"rank": 4, "alpha": 8, "dropout": 0.1},
        "images": {"tile": 32, "max_tiles": 6, "thumbnail": True}, "max_seq_length": 512, "precision": "fp32", "checkpoint_every": 2,
        "stages": STAGES,
    }  # fmt: skip
    return Recipe.model_validate({**values, **changes})


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model" / "model.safetensors")


def losses(out: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(out / "metrics.jsonl") if "loss" in line]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.fixture(scope="module")
def undisturbed(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed")
    train(prepare(recipe_of(world), world / "data"), out)
    return out


def test_the_same_seed_gives_the_same_losses_and_weights(world: Path, undisturbed: Path, tmp_path: Path) -> None:
    train(prepare(recipe_of(world), world / "data"), tmp_path)
    assert losses(tmp_path) == losses(undisturbed)
    assert same(weights(tmp_path), weights(undisturbed))
    train(prepare(recipe_of(world, seed=1, stages=STAGES[:1]), world / "data"), tmp_path / "other")
    assert losses(tmp_path / "other") != losses(undisturbed)[:4]


class Killed(Exception):
    pass


@pytest.mark.parametrize("cuts", [(1, 4, 9), (2, 5, 10), (3, 7, 12)])
def test_a_run_cut_off_anywhere_ends_bit_equal(world: Path, undisturbed: Path, tmp_path: Path, cuts: tuple[int, ...]) -> None:
    for at in cuts:

        def cut(metrics: Any, at: int = at) -> None:
            if isinstance(metrics, StepMetrics) and metrics.total_steps == at:
                raise Killed

        with pytest.raises(Killed):
            train(prepare(recipe_of(world), world / "data"), tmp_path, watch=cut)
    train(prepare(recipe_of(world), world / "data"), tmp_path)
    assert losses(tmp_path) == losses(undisturbed)
    assert same(weights(tmp_path), weights(undisturbed))
    assert same(load_file(tmp_path / "adapter/adapter_model.safetensors"), load_file(undisturbed / "adapter/adapter_model.safetensors"))


def test_a_finished_run_called_again_writes_the_same_model(world: Path, undisturbed: Path, tmp_path: Path) -> None:
    """As after a kill while the model was written: its last checkpoint is all that there is."""
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "model")
    shutil.rmtree(tmp_path / "adapter")
    train(prepare(recipe_of(world), world / "data"), tmp_path)
    assert same(weights(tmp_path), weights(undisturbed))
    assert same(load_file(tmp_path / "adapter/adapter_model.safetensors"), load_file(undisturbed / "adapter/adapter_model.safetensors"))


def test_a_finished_run_without_an_adapter_called_again_writes_the_same_model(world: Path, tmp_path: Path) -> None:
    train(prepare(recipe_of(world, stages=STAGES[:1]), world / "data"), tmp_path)
    wanted = weights(tmp_path)
    train(prepare(recipe_of(world, stages=STAGES[:1]), world / "data"), tmp_path)
    assert same(weights(tmp_path), wanted)


def command(world: Path, out: Path, recipe: Recipe) -> list[str]:
    (world / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    return [str(world / "recipe.yaml"), "--data", str(world / "data"), "--out", str(out)]


def test_two_kills_end_bit_equal_to_an_undisturbed_run(world: Path, undisturbed: Path, tmp_path: Path) -> None:
    for wanted in (3, 8):
        process = Forked("train", *command(world, tmp_path, recipe_of(world)), errors=tmp_path.with_suffix(".txt"))
        wait_until(lambda: len(list(read_metrics(tmp_path / "metrics.jsonl"))) >= wanted or process.poll() is not None)  # noqa: B023
        process.send_signal(signal.SIGKILL)
        assert process.wait().returncode == -signal.SIGKILL
    done = CliRunner().invoke(app, ["train", *command(world, tmp_path, recipe_of(world))])
    assert done.exit_code == 0, done.output
    assert str(tmp_path / "model") in done.stderr.replace("\n", "")
    assert losses(tmp_path) == losses(undisturbed)
    assert same(weights(tmp_path), weights(undisturbed))


def test_the_merged_model_loads_in_plain_transformers_and_says_what_training_knew(undisturbed: Path, world: Path) -> None:
    code = f"""
import torch
from transformers import AutoTokenizer, InternVLForConditionalGeneration
model = InternVLForConditionalGeneration.from_pretrained({str(undisturbed / "model")!r}).eval()
tokenizer = AutoTokenizer.from_pretrained({str(undisturbed / "model")!r})
ids = tokenizer("What is 3?", return_tensors="pt").input_ids
print(float(model(input_ids=ids).logits.double().sum()), "chiron" in str(__import__("sys").modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    total, chiron_seen = done.stdout.split()[-2:]
    assert chiron_seen == "False"
    assert float(total) != 0
    settings = json.loads((undisturbed / "model" / "preprocessor_config.json").read_text())
    assert settings["size"] == {"height": 32, "width": 32}
    card = (undisturbed / "model" / "README.md").read_text()
    assert "Not a medical device" in card
    assert "| cot | adapter | sft | 9 |" in card
    assert "sha256" in card


def test_only_the_language_model_is_adapted(undisturbed: Path) -> None:
    names = load_file(undisturbed / "adapter/adapter_model.safetensors").keys()
    assert names
    assert all("language_model" in name and "lora_" in name for name in names)
    assert json.loads((undisturbed / "adapter/adapter_config.json").read_text())["base_model_name_or_path"] == "../base.safetensors"
    base, trained = load_file(undisturbed / "base.safetensors"), weights(undisturbed)
    frozen = [k for k in trained if "vision_tower" in k]
    assert frozen
    assert all(torch.equal(trained[k], base[k] if k in base else base[f"model.{k}"]) for k in frozen)


def test_everything_is_told_and_drawn(undisturbed: Path) -> None:
    lines = list(read_metrics(undisturbed / "metrics.jsonl"))
    assert [line["stage"] for line in lines if "loss" in line] == ["text"] * 4 + ["alignment"] * 5 + ["cot"] * (
        len(losses(undisturbed)) - 9
    )
    assert sum("held_out_loss" in line for line in lines) == 1
    assert (undisturbed / "curves.png").stat().st_size > 5000
    assert all(0 < line["utilisation"] <= 1 and line["trained_tokens"] < line["tokens"] for line in lines if "loss" in line)


def test_a_step_weighs_every_token_the_same(world: Path) -> None:
    """One packed line at once or three: the same step."""
    found = []
    for at_once in (1, 3):
        seen: list[StepMetrics] = []

        def keep(metrics: Any, seen: list[StepMetrics] = seen) -> None:
            seen.append(metrics)
            raise Killed

        recipe = recipe_of(world, micro_batch_size=at_once, max_seq_length=256)
        with pytest.raises(Killed):
            train(prepare(recipe, world / "data"), world / f"at-once-{at_once}", watch=keep)
        found.append((seen[0].loss, seen[0].gradient_norm))
    assert found[0] == pytest.approx(found[1], rel=1e-5)


@pytest.mark.parametrize(("weighting", "power"), [("token", 0.0), ("sample", 1.0), ("square", 0.5)])
def test_what_weighs_the_same_is_the_recipes_choice(world: Path, weighting: str, power: float) -> None:
    """The loss of a step is the mean of its rows' summed losses, each over the root, or all, or none of its trained tokens."""
    recipe = recipe_of(world, loss_weighting=weighting, max_seq_length=256, micro_batch_size=2)
    prepared = prepare(recipe, world / "data")
    (step,) = steps_of_stage(recipe, recipe.stages[0], prepared.data, 1)
    rows = [row for line in step for row in line]
    counts = [int((row.labels != -100).sum()) for row in rows]
    assert len(set(counts)) > 1
    loss = Loss(prepared.base.model.eval())
    with torch.no_grad():
        summed = []
        for row in rows:
            batch = collate([[row]], {}, length=None, pad_id=0)
            summed.append(float(loss(batch.input_ids, batch.position_ids, batch.labels, None)))
    shares = [count**-power for count in counts]
    wanted = sum(s * share for s, share in zip(summed, shares, strict=True)) / sum(
        count * share for count, share in zip(counts, shares, strict=True)
    )
    seen: list[StepMetrics] = []

    def keep(metrics: Any) -> None:
        seen.append(metrics)
        raise Killed

    with pytest.raises(Killed):
        train(prepared, world / f"weighting-{weighting}", watch=keep)
    assert seen[0].loss == pytest.approx(wanted, rel=1e-5)


def test_a_system_message_is_said_before_rows_that_bring_none(world: Path) -> None:
    plain, told = (prepare(recipe_of(world, system=system), world / "data") for system in (None, "internvl2_5"))
    tokenizer = tiny_tokenizer()
    message = "<|im_start|>system\n\u4f60\u662f\u4e66\u751f\u00b7\u4e07\u8c61\uff0c\u82f1\u6587\u540d\u662fInternVL"
    for one, other in zip(plain.data["cot"], told.data["cot"], strict=True):
        before, after = (tokenizer.decode(row.input_ids.tolist()) for row in (one, other))
        if before.startswith("<|im_start|>system"):
            assert after == before
        else:
            assert after.startswith(message)
            assert after.endswith(before)


def test_tiles_may_be_for_each_image_or_for_all_of_a_row(world: Path) -> None:
    shared, each = (
        prepare(recipe_of(world, images={"tile": 32, "max_tiles": 6, "max_tiles_per": per}), world / "data") for per in ("row", "image")
    )
    several = [number for number, row in enumerate(shared.data["cot"]) if len(row.images) > 1]
    assert several
    for number in several:
        assert all(count <= 4 for count in shared.data["cot"][number].tile_counts)
    assert max(max(each.data["cot"][number].tile_counts) for number in several) > 4


def test_the_exported_model_says_how_it_is_asked_and_served(undisturbed: Path) -> None:
    from transformers import AutoTokenizer

    model = undisturbed / "model"
    assert json.loads((model / "chiron.json").read_text()) == {"max_tiles": 6, "max_tiles_per": "row", "thumbnail": True, "system": None}
    card = (model / "README.md").read_text()
    assert "max_patches = max(1, 6 // number of images)" in card
    assert '"mm_processor_kwargs": {"max_patches": N}' in card
    assert "vllm serve FOLDER --trust-request-mm-kwargs" in card
    content: Any = [{"type": "text", "text": "Modality 1: "}, {"type": "image"}, {"type": "text", "text": "\nWhy?"}]
    rendered = AutoTokenizer.from_pretrained(model).apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    assert rendered == "<|im_start|>user\nModality 1: <IMG_CONTEXT>\nWhy?<|im_end|>\n<|im_start|>assistant\n"


def test_training_learns(world: Path, tmp_path: Path) -> None:
    stage = {"name": "text", "data": "text.jsonl", "trainable": "all", "steps": 60, "batch": {"rows": 12}, "learning_rate": 5e-3}
    train(prepare(recipe_of(world, stages=[stage], weight_decay=0.0), world / "data"), tmp_path)
    assert losses(tmp_path)[-1] < 0.5 * losses(tmp_path)[0]


def test_replay_takes_its_share_of_tokens(world: Path) -> None:
    prepared = prepare(recipe_of(world), world / "data")
    stage = prepared.recipe.stages[2]
    plan = plan_stage(prepared.recipe, stage, prepared.data)
    rows = [r for step in steps_of_stage(prepared.recipe, stage, prepared.data, plan.steps) for line in step for r in line]
    tokens = {s: sum(len(r.input_ids) for r in rows if r.id.startswith(f"r{n}-")) for n, s in enumerate(("text", "alignment", "cot"))}
    total = sum(tokens.values())
    assert tokens["text"] / total == pytest.approx(0.2, abs=0.05)
    assert tokens["alignment"] / total == pytest.approx(0.3, abs=0.08)
    assert sorted(r.id for r in rows if r.id.startswith("r2-")) == sorted([f"r2-{n}" for n in range(9)] * 2)


def test_the_learning_rate_rises_and_falls(world: Path) -> None:
    prepared = prepare(recipe_of(world), world / "data")
    plan = prepared.plans[0]
    rates = [learning_rate(plan, step) for step in range(plan.steps)]
    assert max(rates) == plan.stage.learning_rate
    assert rates[-1] < rates[1]


def test_a_dry_run_estimates_and_trains_nothing(world: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["train", *command(world, tmp_path / "out", recipe_of(world)), "--dry-run"])
    assert done.exit_code == 0, done.output
    assert "estimates" in done.stderr
    assert not (tmp_path / "out").exists()
    found = estimate(prepare(recipe_of(world), world / "data"), gpus=2, tflops=1e-3)
    assert found.hours > 0
    assert found.trained < found.parameters / 2


def test_a_dry_run_measures_the_speed_of_a_few_steps(world: Path, tmp_path: Path) -> None:
    words = ["train", *command(world, tmp_path / "out", recipe_of(world)), "--dry-run"]
    done = CliRunner().invoke(app, [*words, "--measure", "4"])
    printed = " ".join(done.stderr.split())
    assert done.exit_code == 0
    assert "tokens/s" in printed
    assert "waited for images" in printed
    assert "in all about" in printed
    assert "at 330 TFLOP/s" not in printed
    assert not (tmp_path / "out" / "checkpoints").exists()
    refused = CliRunner().invoke(app, [*words, "--measure", "1"])
    assert "at least two steps" in str(refused.exception)


def test_a_dry_run_of_a_packaged_recipe_needs_no_network_and_no_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    (tmp_path / "images").mkdir()
    Image.new("L", (512, 512)).save(tmp_path / "images" / "a.png")
    turns = [{"role": "user", "content": "<image>\nWhat is seen?"}, {"role": "assistant", "content": "abcd" * 50}]
    for name in ("text", "alignment", "cot"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"id": name, "images": ["a.png"], "messages": turns}) + "\n")
    done = CliRunner().invoke(
        app, ["train", "--recipe", "smolvlm-256m-cpu", "--data", str(tmp_path), "--out", str(tmp_path / "out"), "--dry-run"]
    )
    printed = " ".join(done.stderr.split())
    assert done.exit_code == 0, done.output
    assert "estimated without the base's tokenizer" in printed
    assert "(52 trained on)" in printed  # a space and 200 characters, and the end of the turn
    assert "256.5 M weights" in printed
    words = [
        "train",
        "--recipe",
        "smolvlm-256m-cpu",
        "--data",
        str(tmp_path),
        "--out",
        str(tmp_path / "out"),
        "--dry-run",
        "--measure",
        "3",
    ]
    assert "--measure needs the weights" in str(CliRunner().invoke(app, words).exception)


def test_the_sizes_of_every_packaged_base_are_known() -> None:
    bases = {load_recipe(path).base for path in builtin_recipe("chiron-o1-2b").parent.glob("*.yaml")}
    assert bases == set(KNOWN_BASES)


def test_a_dry_run_counts_what_training_then_sees(world: Path, undisturbed: Path) -> None:
    """Replayed rows and their tiles included."""
    prepared = prepare(recipe_of(world), world / "data")
    steps = [line for line in read_metrics(undisturbed / "metrics.jsonl") if "loss" in line]
    for plan, stage in zip(prepared.plans, estimate(prepared).stages, strict=True):
        taken = [line for line in steps if line["stage"] == stage.stage]
        rows = [r for step in steps_of_stage(prepared.recipe, plan.stage, prepared.data, plan.steps) for line in step for r in line]
        assert plan.steps == len(taken)
        assert stage.tokens == sum(line["tokens"] for line in taken)
        assert stage.tiles == sum(sum(r.tile_counts) for r in rows)
        assert sum(map(trained_tokens, rows)) == sum(line["trained_tokens"] for line in taken)


def test_a_dry_run_tells_of_gpus_that_would_have_nothing_to_do(world: Path, tmp_path: Path) -> None:
    prepared = prepare(recipe_of(world), world / "data")
    alone, many = (estimate(prepared, gpus=n).stages[0] for n in (1, 64))
    assert alone.busy == 1
    assert many.busy < 0.2
    assert many.hours == pytest.approx(alone.hours / 64 / many.busy)
    done = CliRunner().invoke(app, ["train", *command(world, tmp_path / "out", recipe_of(world)), "--dry-run", "--gpus", "64"])
    assert "64 cannot share the rows of a step evenly" in " ".join(done.stderr.split())


@pytest.mark.parametrize("sequence", [8192, 260])
def test_a_step_holds_exactly_as_many_rows_as_asked_for(world: Path, sequence: int) -> None:
    """The paper's 16 rows a step: neither all that fit into 8,192 tokens, nor as many lines as hold about 16."""
    stages = [{**STAGES[0], "steps": None, "epochs": 1, "batch": {"rows": 5}}]
    prepared = prepare(recipe_of(world, stages=stages, max_seq_length=sequence), world / "data")
    steps = list(steps_of_stage(prepared.recipe, prepared.recipe.stages[0], prepared.data, prepared.plans[0].steps))
    assert [sum(len(line) for line in step) for step in steps] == [5, 5, 2]
    assert any(len(step) > 1 for step in steps) is (sequence == 260)
    assert all(sum(len(r.input_ids) for r in line) <= sequence for step in steps for line in step)
    assert sorted(r.id for step in steps for line in step for r in line) == sorted(r.id for r in prepared.data["text"])


@pytest.mark.parametrize(("rank", "speaks"), [("0", True), ("1", False)])
def test_of_several_processes_one_speaks(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: str, speaks: bool) -> None:
    monkeypatch.setenv("RANK", rank)
    done = CliRunner().invoke(app, ["train", *command(world, tmp_path / "out", recipe_of(world)), "--dry-run"])
    assert ("stage text" in done.stderr) is speaks
    # The next command in this process speaks again.
    assert "error" in chiron("status", tmp_path / "none").stderr


# --- what can go wrong --------------------------------------------------------------------------------------------------------------


def test_another_recipe_or_other_data_is_refused(world: Path, undisturbed: Path) -> None:
    with pytest.raises(InputError, match="another recipe or other data"):
        train(prepare(recipe_of(world, clip=0.5), world / "data"), undisturbed)


def test_an_empty_stage_is_an_error_by_name(world: Path) -> None:
    (world / "data" / "empty.jsonl").write_text("")
    stages = [{**STAGES[0], "data": "empty.jsonl"}]
    with pytest.raises(InputError, match=r"empty\.jsonl"):
        prepare(recipe_of(world, stages=stages), world / "data")


def test_a_row_that_does_not_fit_is_an_error_before_training(world: Path) -> None:
    with pytest.raises(InputError, match="longer than 64 tokens"):
        prepare(recipe_of(world, max_seq_length=64), world / "data")


def test_a_loss_that_is_no_number_stops_with_a_checkpoint_left(world: Path, tmp_path: Path) -> None:
    stage = {
        "name": "text",
        "data": "text.jsonl",
        "trainable": "all",
        "steps": 40,
        "batch": {"rows": 6},
        "learning_rate": 1e30,
        "warmup": 0.9,
    }
    with pytest.raises(InputError, match="is not finite"):
        train(prepare(recipe_of(world, stages=[stage], checkpoint_every=1, clip=1e30), world / "data"), tmp_path)
    assert checkpoint.load_last(tmp_path / "checkpoints") is not None


def test_a_full_disk_leaves_the_checkpoints_before_it(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = 0

    def full(*arguments: Any, **options: Any) -> None:
        nonlocal written
        written += 1
        if written > 1:
            raise OSError(28, "No space left on device")
        real(*arguments, **options)

    real = torch.save
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(DiskError, match="free space"):
        train(prepare(recipe_of(world), world / "data"), tmp_path)
    assert len(checkpoint.checkpoints(tmp_path / "checkpoints")) <= 1
    monkeypatch.undo()
    train(prepare(recipe_of(world), world / "data"), tmp_path)
    assert (tmp_path / "model" / "model.safetensors").is_file()


def test_running_out_of_memory_says_what_to_do(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hungry(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    prepared = prepare(recipe_of(world), world / "data")
    monkeypatch.setattr("chiron.training.model.Loss.forward", hungry)
    with pytest.raises(InputError, match="gradient_checkpointing"):
        train(prepared, tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"base": None}, "either base or scratch"),
        ({"adapter": None}, "has none"),
        ({"stages": [{**STAGES[0], "steps": 3, "epochs": 1}]}, "either epochs or steps"),
        ({"stages": [STAGES[0], STAGES[0]]}, "two stages"),
        ({"stages": [{**STAGES[0], "replay": {"cot": 0.5}}]}, "not an earlier stage"),
        ({"stages": [{**STAGES[0], "trainable": "adapter"}, {**STAGES[0], "name": "again"}]}, "put it before"),
        ({"stages": [{**STAGES[0], "batch": {"rows": 3, "tokens": 5}}]}, "either tokens or rows"),
        ({"max_seq_lenght": 5}, "max_seq_lenght"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused(world: Path, tmp_path: Path, change: dict[str, Any], words: str) -> None:
    values = {**recipe_of(world).model_dump(mode="json", exclude_unset=True), **change}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(InputError, match=words):
        load_recipe(tmp_path / "r.yaml")


def test_a_run_is_identified_by_the_bytes_of_its_rows(world: Path) -> None:
    prepared = prepare(recipe_of(world, stages=STAGES[:1]), world / "data")
    file = str(STAGES[0]["data"])
    assert prepared.hashes == {file: hashlib.sha256((world / "data" / file).read_bytes()).hexdigest()}


def test_a_run_of_an_earlier_version_is_recognized() -> None:
    """The hash was written when the keys were called sequence, lines_at_once, earlier and train."""
    stages = [
        {**STAGES[0], "replay": {"looks": 0.25}},
        {"name": "cot", "data": "cot.jsonl", "epochs": 1, "batch": {"tokens": 400}, "learning_rate": 1e-3},
    ]
    recipe = Recipe.model_validate(
        {"name": "old", "base": "some/model", "max_seq_length": 256, "base_stages": {"looks": "looks.jsonl"}, "stages": stages}
    )
    prepared = Prepared(recipe, LoadedModel(torch.nn.Module(), None), {}, {}, [], {"text.jsonl": "0" * 64}, ImageFolder(Path()))
    assert prepared.identity["sha256"] == "7788235a7a0ea6837e0deb6bbe1d93fb9b68b724652347145fd8fcb31f3502d8"


def test_the_shipped_recipes_are_in_order() -> None:
    for name in ("chiron-o1-2b", "chiron-o1-8b"):
        recipe = load_recipe(builtin_recipe(name))
        assert [s.name for s in recipe.stages] == ["text", "alignment", "cot"]
        assert (recipe.system, recipe.loss_weighting, recipe.images.max_tiles_per) == ("internvl2_5", "token", "row")


def test_a_base_that_is_none_is_named(world: Path) -> None:
    with pytest.raises(InputError, match="cannot be loaded"):
        prepare(recipe_of(world, base=str(world / "data")), world / "data")


def test_a_frozen_vision_tower_is_not_differentiated_with_checkpointing(world: Path) -> None:
    prepared = prepare(recipe_of(world, gradient_checkpointing=True), world / "data")
    model = add_adapter(prepared.base.model, Adapter()).train()
    pixels = torch.zeros(1, 3, 32, 32)
    seen: list[torch.Tensor] = []
    plain(model).model.vision_tower.register_forward_hook(lambda _, __, found: seen.append(found.last_hidden_state))
    ids = torch.full((1, 8), 3)
    config: Any = prepared.base.model.config
    ids[0, 1:5] = config.image_token_id
    loss = Loss(model)(ids, torch.arange(8)[None], ids, pixels)
    loss.backward()
    assert not seen[0].requires_grad
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    assert any(module.gradient_checkpointing for module in model.modules() if hasattr(module, "gradient_checkpointing"))


@pytest.fixture
def base(world: Path, tmp_path: Path) -> Path:
    """A copy of the base model, to be spoilt."""
    return shutil.copytree(world / "base", tmp_path / "base")


def test_a_base_that_lacks_weights_is_refused(world: Path, base: Path) -> None:
    """Transformers would make some up."""
    weights = load_file(base / "model.safetensors")
    save_file({k: v for k, v in weights.items() if "projector" not in k}, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"lacks weights .*multi_modal_projector.* and 3 more"):
        prepare(recipe_of(world, base=str(base)), world / "data")


@pytest.mark.parametrize("spoil", ["cut", "shape"])
def test_a_base_with_broken_weights_is_refused(world: Path, base: Path, spoil: str) -> None:
    if spoil == "cut":
        (base / "model.safetensors").write_bytes((base / "model.safetensors").read_bytes()[:-1000])
    else:
        weights = load_file(base / "model.safetensors")
        name = next(k for k in weights if "linear_1.weight" in k)
        weights[name] = weights[name][:-1].contiguous()
        save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="cannot be loaded"):
        prepare(recipe_of(world, base=str(base)), world / "data")


def test_a_base_that_sees_other_tiles_is_refused_before_training(world: Path) -> None:
    with pytest.raises(InputError, match=r"images\.tile is 448, but the base needs 32"):
        prepare(recipe_of(world, images={"tile": 448}), world / "data")


@pytest.mark.parametrize(("change", "words"), [({"image_token_id": 5}, "image token is"), ({"rows": 100}, "rows of the model's embedding")])
def test_another_models_tokenizer_is_refused_before_training(world: Path, base: Path, change: dict[str, int], words: str) -> None:
    settings = json.loads((base / "config.json").read_text())
    if "rows" in change:
        weights = load_file(base / "model.safetensors")
        settings["text_config"]["vocab_size"] = change["rows"]
        cut = {k: v[: change["rows"]].contiguous() if "embed_tokens" in k or "lm_head" in k else v for k, v in weights.items()}
        save_file(cut, base / "model.safetensors", metadata={"format": "pt"})
    else:
        settings |= change
    (base / "config.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match=words):
        prepare(recipe_of(world, base=str(base)), world / "data")


@pytest.mark.parametrize("file", ["weights.safetensors", "optimizer.pt", "random.pt", "place.json"])
@pytest.mark.parametrize("left", [0, 0.5])
def test_checkpoints_that_are_all_damaged_are_an_error_not_a_new_start(undisturbed: Path, tmp_path: Path, file: str, left: float) -> None:
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    for folder in checkpoint.checkpoints(tmp_path / "checkpoints"):
        (damaged := folder / file).write_bytes(damaged.read_bytes()[: int(damaged.stat().st_size * left)])
    with pytest.raises(InputError, match=r"is damaged .*and there is no other: remove .*checkpoints to start again"):
        checkpoint.load_last(tmp_path / "checkpoints")


def test_a_disk_that_is_full_in_the_midst_of_the_weights_is_an_error_that_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(DiskError, match="free space"):
        checkpoint.save_checkpoint(tmp_path, checkpoint.TrainPosition(0, 1, 1), {}, {}, {}, RUN)
    with pytest.raises(DiskError, match="free space"):
        checkpoint.write_weights(tmp_path / "base.safetensors", {})
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_only_when_it_is_synced_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DiskError, match="free space"):
        checkpoint.save_checkpoint(tmp_path, checkpoint.TrainPosition(0, 1, 1), {}, {}, {}, RUN)
    assert list(tmp_path.iterdir()) == []


def test_what_a_kill_left_of_a_checkpoint_does_not_stay(tmp_path: Path) -> None:
    (tmp_path / ".step-00000003.4711").mkdir()
    (tmp_path / ".step-00000003.4711" / "weights.safetensors").write_bytes(b"half")
    checkpoint.save_checkpoint(tmp_path, checkpoint.TrainPosition(0, 1, 1), {"a": torch.zeros(1)}, {}, {}, RUN)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]


def test_the_metrics_of_a_run_survive_a_kill_or_a_full_disk_when_it_goes_on(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was told of earlier steps stands nowhere else."""
    path = tmp_path / "metrics.jsonl"
    shutil.copy(undisturbed / "metrics.jsonl", path)
    told = list(read_metrics(path))

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DiskError, match="free space"):
        MetricsFile(path, total_steps=3)
    assert list(read_metrics(path)) == told


def test_weights_under_an_adapter_that_are_gone_are_named(world: Path, undisturbed: Path, tmp_path: Path) -> None:
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    (tmp_path / "base.safetensors").unlink()
    with pytest.raises(InputError, match=r"base\.safetensors, the weights under the adapter, cannot be read"):
        train(prepare(recipe_of(world), world / "data"), tmp_path)


@pytest.mark.parametrize("where", ["torch.optim.AdamW.step", "chiron.training.stage.held_out_loss", "chiron.training.stage._train_state"])
def test_running_out_of_memory_outside_of_the_model_says_what_to_do(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def hungry(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    prepared = prepare(recipe_of(world, stages=[{**STAGES[0], "held_out": "held.jsonl", "steps": 1}]), world / "data")
    monkeypatch.setattr(where, hungry)
    with pytest.raises(InputError, match="gradient_checkpointing"):
        train(prepared, tmp_path)


def test_a_run_goes_on_where_fewer_gpus_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process keeps the random state of its own GPU, and asks nothing of those beside it."""
    put_back: list[torch.Tensor] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda: torch.arange(3))
    monkeypatch.setattr(torch.cuda, "set_rng_state", put_back.append)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    checkpoint.restore_random_states(checkpoint.random_states())
    assert [state.tolist() for state in put_back] == [[0, 1, 2]]
