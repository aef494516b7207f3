"""Two processes train as one does, each with all weights or with its share of them; what they leave behind is the same."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import InternVLForConditionalGeneration

from chiron.errors import InputError
from chiron.training.checkpoint import checkpoints
from chiron.training.metrics import read_metrics
from chiron.training.recipe import Recipe
from chiron.training.session import prepare, train
from tests.support.waiting import PATIENCE, wait_until
from tests.training.tiny import KINDS, tiny_model, tiny_tokenizer, write_rows

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
# The vision tower, though trained, is passed by in the whole first stage, and by one of two processes in some steps of the second.
STAGES = [
    {"name": "text", "data": "text.jsonl", "trainable": "all", "steps": 3, "batch": {"rows": 6}, "learning_rate": 1e-3},
    {"name": "mixed", "data": "mixed.jsonl", "trainable": "all", "steps": 14, "batch": {"rows": 3}, "learning_rate": 1e-3},
    {"name": "cot", "data": "mixed.jsonl", "steps": 5, "batch": {"rows": 6}, "learning_rate": 2e-3, "held_out": "held.jsonl"},
    {
        "name": "prefer", "data": "pairs.jsonl", "objective": "dpo", "steps": 4, "batch": {"rows": 3}, "learning_rate": 2e-3,
        "held_out": "pairs.jsonl",
    },
]  # fmt: skip
SHARDS = {"shard": True, "gradient_checkpointing": True}
Tensors = dict[str, torch.Tensor]


def recipe_of(world: Path, **changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "name": "tiny", "base": str(world / "base"), "adapter": {"rank": 4, "alpha": 8, "dropout": 0.0}, "images": {"tile": 32},
        # Decay so strong that a weight which decays in one run and not in another shows.
        "weight_decay": 1.0, "max_seq_length": 160, "precision": "fp32", "checkpoint_every": 3, "stages": STAGES,
    }  # fmt: skip
    return Recipe.model_validate({**values, **changes})


def written(world: Path, name: str, **changes: Any) -> str:
    """The path of a recipe."""
    path = world / f"{name}.yaml"
    path.write_text(yaml.safe_dump(recipe_of(world, **changes).model_dump(mode="json")))
    return str(path)


def two(*module: str) -> "subprocess.CompletedProcess[str]":
    """Run a module on two processes that meet on a free port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # accelerate's own launcher starts a single process where there is no GPU, whatever number it is given.
    arguments = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(port), "-m", *module]
    path = os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), str(ROOT), str(ROOT / "src")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    return subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=PATIENCE, env=environment, cwd=ROOT)


def losses(out: Path) -> list[float]:
    return [line["loss"] if "loss" in line else line["held_out_loss"] for line in read_metrics(out / "metrics.jsonl")]


def norms(out: Path) -> list[float]:
    return [line["gradient_norm"] for line in read_metrics(out / "metrics.jsonl") if "loss" in line]


def weights(out: Path) -> Tensors:
    return load_file(out / "model" / "model.safetensors")


def distance(one: Tensors, other: Tensors) -> float:
    assert one.keys() == other.keys()
    assert all(one[k].shape == other[k].shape and one[k].dtype == other[k].dtype for k in one)
    # Attention is blind to a bias of its keys: its gradient is rounding alone, which Adam makes whole steps of.
    return max(float((one[k] - other[k]).abs().max()) for k in one if not k.endswith("k_proj.bias"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    for number, (name, count, kinds) in enumerate([("text", 12, ("text",)), ("mixed", 12, KINDS), ("held", 4, ("one",))]):
        write_rows(folder / "data", count, kinds, seed=number, name=f"{name}.jsonl")
    with (folder / "data" / "pairs.jsonl").open("w") as file:
        for number, line in enumerate((folder / "data" / "mixed.jsonl").read_text().splitlines()[:5]):
            images = json.loads(line)["images"][:1]
            prompt = [{"role": "user", "content": "<image>" * len(images) + "Q"}]
            answers = {name: [{"role": "assistant", "content": text}] for name, text in (("chosen", "A" * number + "!"), ("rejected", "B"))}
            file.write(json.dumps({"id": str(number), "images": images, "prompt": prompt, **answers}) + "\n")
    tiny_model().save_pretrained(folder / "base")
    tiny_tokenizer().save_pretrained(folder / "base")
    return folder


@pytest.fixture(scope="module")
def one(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "one"
    train(prepare(recipe_of(world), world / "data"), out)
    return out


@dataclass(frozen=True)
class Together:
    """What several trainings on two processes left behind, and said."""

    folder: Path
    out: str
    error: str

    def shares(self, name: str) -> set[str]:
        """What was said of a training, without repetitions."""
        return set(re.findall(rf"^{name}: (.+)$", self.out, re.MULTILINE))


@pytest.fixture(scope="module")
def together(world: Path, one: Path, tmp_path_factory: pytest.TempPathFactory) -> Together:
    folder = tmp_path_factory.mktemp("together")
    whole = written(world, "whole")
    # Computing activations again gathers the weights again, on the way back.
    shards = written(world, "shards", **SHARDS)
    jobs = [
        {"name": "whole", "recipe": whole},
        {"name": "sharded", "recipe": shards},
        {"name": "done-before", "recipe": shards, "earlier": str(folder / "sharded"), "drop": 0},
        {"name": "refused", "recipe": whole, "earlier": str(one), "drop": 1},  # the last: it ends its process
    ]
    (folder / "jobs.yaml").write_text(yaml.safe_dump(jobs))
    done = two("tests.training.look_inside", str(folder / "jobs.yaml"), str(world / "data"), str(folder))
    assert (folder / "refused").exists(), done.stderr[-3000:]
    assert done.returncode != 0
    return Together(folder, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def sharded(together: Together) -> Path:
    assert together.shares("sharded") == {"processes 2 share 0.50"}
    return together.folder / "sharded"


@pytest.mark.slow
def test_two_processes_train_as_one(one: Path, together: Together) -> None:
    out = together.folder / "whole"
    assert together.shares("whole") == {"processes 2 share 1.00"}
    assert losses(out) == pytest.approx(losses(one), rel=1e-5)
    assert norms(out) == pytest.approx(norms(one), rel=1e-4)
    assert distance(weights(one), weights(out)) < 2e-5


@pytest.mark.slow
def test_two_processes_with_half_the_weights_each_train_as_one(one: Path, sharded: Path) -> None:
    assert losses(sharded) == pytest.approx(losses(one), rel=1e-5)
    assert norms(sharded) == pytest.approx(norms(one), rel=1e-4)


@pytest.mark.slow
def test_a_checkpoint_of_shards_is_as_one_without(one: Path, sharded: Path) -> None:
    """Down to the names, the order and the types, in mid-stage."""
    ours, theirs = (checkpoints(out / "checkpoints")[0] for out in (sharded, one))
    assert ours.name == theirs.name
    assert distance(load_file(ours / "weights.safetensors"), load_file(theirs / "weights.safetensors")) < 2e-5
    mine, wanted = (torch.load(folder / "optimizer.pt", weights_only=True) for folder in (ours, theirs))
    assert mine["param_groups"] == wanted["param_groups"]
    assert mine["state"].keys() == wanted["state"].keys()
    assert all(distance(mine["state"][n], wanted["state"][n]) < 2e-5 for n in wanted["state"])
    assert any(float(moments["exp_avg_sq"].max()) > 0 for moments in mine["state"].values())
    assert json.loads((ours / "place.json").read_text()) == json.loads((theirs / "place.json").read_text())
    assert set(torch.load(ours / "random.pt", weights_only=True)) == {"0", "1"}


@pytest.mark.slow
def test_the_merged_model_of_shards_is_whole(one: Path, sharded: Path) -> None:
    assert distance(weights(one), weights(sharded)) < 2e-5
    adapter = "adapter/adapter_model.safetensors"
    assert distance(load_file(one / adapter), load_file(sharded / adapter)) < 2e-5
    ids = torch.arange(10)[None]
    with torch.no_grad():
        found, wanted = (InternVLForConditionalGeneration.from_pretrained(out / "model")(input_ids=ids).logits for out in (sharded, one))
    assert torch.allclose(found, wanted, atol=1e-4)


@pytest.mark.slow
def test_shards_go_on_from_their_checkpoint_to_the_same_bits(world: Path, sharded: Path, tmp_path: Path) -> None:
    """Through the command itself, from the checkpoint before the last."""
    out = tmp_path / "resumed"
    shutil.copytree(sharded, out)
    shutil.rmtree(checkpoints(out / "checkpoints")[-1])
    shutil.rmtree(out / "model")
    done = two("chiron", "train", written(world, "resumed", **SHARDS), "--data", str(world / "data"), "--out", str(out))
    assert done.returncode == 0, done.stderr[-3000:]
    assert losses(out) == losses(sharded)
    assert distance(weights(sharded), weights(out)) == 0


@pytest.mark.slow
def test_shards_that_have_nothing_left_to_do_write_the_same_model(sharded: Path, together: Together) -> None:
    out = together.folder / "done-before"
    assert losses(out) == losses(sharded)
    assert distance(weights(sharded), weights(out)) == 0


@pytest.mark.slow
def test_one_process_goes_on_from_a_checkpoint_of_shards(world: Path, one: Path, sharded: Path, tmp_path: Path) -> None:
    out = tmp_path / "resumed"
    shutil.copytree(sharded, out)
    shutil.rmtree(checkpoints(out / "checkpoints")[-1])
    train(prepare(recipe_of(world, gradient_checkpointing=True), world / "data"), out)
    assert losses(out) == pytest.approx(losses(one), rel=1e-5)
    assert distance(weights(one), weights(out)) < 2e-5


@pytest.mark.slow
def test_more_processes_than_wrote_a_checkpoint_is_an_error_that_says_so(together: Together) -> None:
    assert "the last checkpoint was written by 1 process: resume with as many or fewer (these are 2)" in together.error
    assert not (together.folder / "refused" / "model").exists()


def test_the_launchers_own_sharding_is_refused(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(InputError, match="shard: true"):
        train(prepare(recipe_of(world), world / "data"), tmp_path / "out")


def test_restarts_that_share_a_store_are_refused(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A restarted process would read addresses of dead ones."""
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    with pytest.raises(InputError, match="TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"):
        train(prepare(recipe_of(world), world / "data"), tmp_path / "out")


# --- two nodes ------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Nodes:
    """Two nodes on this machine, each in a folder with its own copy of data and base. They share ``out``."""

    folders: list[Path]
    shared: Path

    def start(self, *module: str) -> list["subprocess.Popen[str]"]:
        """Start the documented command on both, for the module ``chiron`` or another one."""
        page = (ROOT / "docs" / "training.md").read_text("utf-8")
        command = next(block for block in page.split("```bash\n")[1:] if " torchrun --nnodes" in block).partition("```")[0]
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        for old, new in (
            ("torchrun", f"exec {sys.executable} -m torch.distributed.run"),
            ("--nproc-per-node 8", "--nproc-per-node 1"),
            ("node1:29500", f"127.0.0.1:{port}"), ("/shared", str(self.shared)),
        ):  # fmt: skip
            assert old in command
            command = command.replace(old, new)
        if module:
            command = " ".join([command.partition(" -m chiron ")[0], "-m", *module])
        path = os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), str(ROOT), str(ROOT / "src")])
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
        processes = []
        for folder in self.folders:
            with (folder / "errors.txt").open("w") as errors:  # a full pipe of one would block the other
                processes.append(subprocess.Popen(["/bin/bash", "-c", command], cwd=folder, env=environment, stderr=errors, text=True))
            Finalize(None, processes[-1].terminate, exitpriority=1)
        return processes

    def ended(self, processes: list["subprocess.Popen[str]"]) -> list[str]:
        """Wait for both, and return what each printed on standard error. If one does not end or failed, none is left running."""
        try:
            codes = [process.wait(PATIENCE) for process in processes]
        finally:
            for process in processes:
                process.terminate()  # torchrun ends its workers
        errors = [(folder / "errors.txt").read_text() for folder in self.folders]
        assert codes == [0, 0], errors
        return errors


@pytest.fixture(scope="module")
def nodes(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Nodes:
    folders = [tmp_path_factory.mktemp("node") for _ in range(2)]
    for folder in folders:
        shutil.copytree(world / "data", folder / "mmrp")
        shutil.copytree(world / "base", folder / "base")
        recipe = recipe_of(world, base="base").model_dump(mode="json")
        (folder / "mmrp" / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        (folder / "shards.yaml").write_text(yaml.safe_dump({**recipe, **SHARDS}))
    shared = tmp_path_factory.mktemp("shared")
    jobs = [{"name": "whole", "recipe": "mmrp/recipe.yaml"}, {"name": "sharded", "recipe": "shards.yaml"}]
    (shared / "jobs.yaml").write_text(yaml.safe_dump(jobs))
    return Nodes(folders, shared)


@pytest.fixture(scope="module")
def across(nodes: Nodes) -> Path:
    """Undisturbed trainings on both nodes."""
    processes = nodes.start("tests.training.look_inside", str(nodes.shared / "jobs.yaml"), "mmrp", str(nodes.shared))
    nodes.ended(processes)
    return nodes.shared


@pytest.mark.parametrize("name", ["whole", "sharded"])
def test_two_nodes_train_as_one_process(one: Path, across: Path, name: str) -> None:
    assert losses(across / name) == pytest.approx(losses(one), rel=1e-5)
    assert distance(weights(one), weights(across / name)) < 2e-5


def test_a_process_that_is_killed_is_started_again_and_the_run_ends_bit_equal(nodes: Nodes, across: Path) -> None:
    """By torchrun, as documented; in the second stage."""
    out = nodes.shared / "runs" / "8b"
    processes = nodes.start()
    wait_until(lambda: len(losses(out)) >= 8 or any(process.poll() is not None for process in processes))
    (worker,) = Path(f"/proc/{processes[1].pid}/task/{processes[1].pid}/children").read_text().split()
    os.kill(int(worker), signal.SIGKILL)
    errors = nodes.ended(processes)
    assert "(exitcode: -9)" in errors[1]
    assert losses(out) == losses(across / "whole")
    assert distance(weights(across / "whole"), weights(out)) == 0
