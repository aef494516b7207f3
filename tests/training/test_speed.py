"""What makes training fast changes no loss and no gradient."""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from chiron.errors import InputError
from chiron.providers.local.tiling import normalise
from chiron.training import attention as attention_module
from chiron.training import model as model_module
from chiron.training import resources
from chiron.training.attention import row_boundaries
from chiron.training.base import load_base
from chiron.training.batches import collate, normalized, one_ahead
from chiron.training.estimate import estimate, measure_throughput
from chiron.training.model import Loss, add_adapter, compile_layers, language_layers
from chiron.training.recipe import Adapter, Recipe
from chiron.training.resources import Operations, choose_recomputed, passes_of
from chiron.training.session import Prepared, prepare, train
from tests.training.tiny import PATCH, TILE, tiny_model, tiny_tokenizer, write_rows

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PRECISION = "bf16" if DEVICE == "cuda" else "fp32"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("speed")
    write_rows(folder / "data", 9)
    tiny_model(hidden=64).save_pretrained(folder / "base")
    tiny_tokenizer().save_pretrained(folder / "base")
    return folder


def recipe_of(world: Path, **changes: Any) -> Recipe:
    stage = {"name": "cot", "data": "rows.jsonl", "steps": 3, "batch": {"rows": 5}, "learning_rate": 1e-2}
    settings = {"name": "r", "base": str(world / "base"), "images": {"tile": TILE}, "max_seq_length": 1024, "precision": PRECISION}
    return Recipe.model_validate({**settings, "adapter": {"dropout": 0.0}, "stages": [stage], **changes})


def prepared_of(world: Path, **changes: Any) -> Prepared:
    return prepare(recipe_of(world, **changes), world / "data")


def loss_of(prepared: Prepared) -> Loss:
    """A loss whose adapter already does something."""
    torch.manual_seed(0)
    model = add_adapter(prepared.base.model, prepared.recipe.adapter or Adapter()).train()
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    return Loss(model).to(DEVICE)


def gradients(loss: Loss, prepared: Prepared, *, lines: int = 2, count: int | None = None) -> tuple[float, dict[str, torch.Tensor]]:
    """The summed loss of all rows, or of the first ``count``, in so many lines, and the gradient of every trained weight."""
    rows = prepared.data["cot"][:count]
    packed = [rows[begin::lines] for begin in range(lines)]

    def pixels(key: Any) -> Any:
        random = np.random.default_rng(zlib.crc32(key[0].encode()))
        return random.integers(0, 255, size=(key[1], TILE, TILE, 3), dtype=np.uint8)

    batch = collate(packed, pixels, length=None, pad_id=0, layout=prepared.base.layout, raw=True).to(DEVICE)
    with torch.autocast(DEVICE, torch.bfloat16, enabled=DEVICE == "cuda"):
        summed = loss(**batch.loss_inputs())
    summed.backward()
    found = {name.replace("._orig_mod", ""): p.grad.float().cpu() for name, p in loss.named_parameters() if p.grad is not None}
    return summed.item(), found


def agree(one: tuple[float, dict[str, torch.Tensor]], other: tuple[float, dict[str, torch.Tensor]]) -> None:
    loose = DEVICE == "cuda"  # bf16
    assert one[0] == pytest.approx(other[0], rel=5e-3 if loose else 1e-5)
    assert one[1].keys() == other[1].keys()
    for name, gradient in other[1].items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(one[1][name], gradient, rtol=1e-3, atol=scale * (0.1 if loose else 1e-4), msg=name)


@pytest.fixture(scope="module")
def reference(world: Path) -> tuple[float, dict[str, torch.Tensor]]:
    """With "eager" attention, without anything that makes it fast."""
    prepared = prepared_of(world, attention="eager")
    return gradients(loss_of(prepared), prepared)


@pytest.mark.parametrize("lines", [1, 2, 3])
@pytest.mark.parametrize(
    "attention", ["varlen", "sdpa", pytest.param("flex_attention", marks=pytest.mark.skipif(DEVICE == "cpu", reason="GPU"))]
)
def test_every_attention_gives_the_same_loss_and_gradients(world: Path, reference: Any, attention: str, lines: int) -> None:
    prepared = prepared_of(world, attention=attention)
    agree(gradients(loss_of(prepared), prepared, lines=lines), reference)


def test_rows_begin_where_positions_restart() -> None:
    positions = torch.tensor([[0, 1, 2, 0, 1, 0], [0, 1, 2, 3, 4, 5]])
    bounds, longest = row_boundaries(positions)
    assert bounds.tolist() == [0, 3, 5, 6, 12]
    assert longest == 6


def test_logits_in_chunks_give_the_same_loss_and_gradients(world: Path, reference: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_module, "CHUNK", 7)
    sizes: list[int] = []
    prepared = prepared_of(world)
    loss = loss_of(prepared)
    head: Any = model_module.plain(loss.model).lm_head
    head.register_forward_hook(lambda *found: sizes.append(len(found[2])))
    agree(gradients(loss, prepared), reference)
    assert max(sizes) == 7
    assert len(sizes) > 20


@pytest.mark.parametrize(("setting", "recomputed"), [(True, 2), ("all", 2), (1, 1), (9, 2), (False, 0), ("none", 0)])
def test_so_many_layers_compute_their_activations_again(world: Path, reference: Any, setting: Any, recomputed: int) -> None:
    prepared = prepared_of(world, gradient_checkpointing=setting)
    loss = loss_of(prepared)
    assert choose_recomputed(loss, prepared.recipe, torch.device(DEVICE)) == recomputed
    calls = []
    for layer in language_layers(loss.model):
        layer.mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    agree(gradients(loss, prepared), reference)
    assert len(calls) == 2 + recomputed


def test_the_free_memory_decides_how_many_layers_compute_their_activations_again(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = prepared_of(world, gradient_checkpointing="auto")
    loss = loss_of(prepared)
    counts = []
    for room in (1e5, 1e7, 1e8, 1e12):
        monkeypatch.setattr(resources, "free_memory", lambda _, room=room: room)
        random = torch.get_rng_state()
        counts.append(choose_recomputed(loss, prepared.recipe, torch.device(DEVICE)))
        assert torch.equal(torch.get_rng_state(), random)  # dropout of the run is the same
    assert counts == sorted(counts, reverse=True)
    assert (counts[0], counts[-1]) == (2, 0)


def test_compiled_layers_give_the_same_loss_and_gradients(world: Path) -> None:
    """With a row of text and one with an image in a line: on a CPU, the attention of every further row is compiled for ten seconds."""
    prepared = prepared_of(world, attention="varlen", gradient_checkpointing=1)
    assert [bool(row.images) for row in prepared.data["cot"][:2]] == [False, True]
    eager = prepared_of(world, attention="eager")
    reference = gradients(loss_of(eager), eager, lines=1, count=2)
    loss = loss_of(prepared)
    choose_recomputed(loss, prepared.recipe, torch.device(DEVICE))
    compile_layers(loss.model, backend="inductor" if DEVICE == "cuda" else "aot_eager")  # code for a CPU is compiled for minutes
    agree(gradients(loss, prepared, lines=1, count=2), reference)


@pytest.mark.parametrize("change", [{"attention": "varlen"}, {"gradient_checkpointing": "auto"}])
def test_a_run_trains_and_answers_as_without(world: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    """Generation during training has a cache and no packed rows."""
    stage = {**recipe_of(world).stages[0].model_dump(exclude_none=True), "held_out": "rows.jsonl", "held_out_every": 3, "answers": 2}
    stages = [{**stage, "answer_tokens": 4}]
    found = []
    for name, changes in (("plain", {"attention": "sdpa"}), ("changed", change)):
        train(prepared_of(world, stages=stages, **changes), tmp_path / name, score=lambda *_: True)
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        found.append([json.loads(line)["loss"] for line in lines if '"loss"' in line])
    assert found[1] == pytest.approx(found[0], rel=5e-3 if DEVICE == "cuda" else 1e-4)


def test_a_finished_training_reports_its_speed_and_what_limited_it(world: Path, tmp_path: Path) -> None:
    prepared = prepared_of(world)
    train(prepared, tmp_path / "out")
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    speed = measure_throughput(prepared, tmp_path / "out" / "metrics.jsonl")
    assert speed is not None
    steps = lines[1:]  # the first is a warm-up
    assert speed.tokens_per_second == pytest.approx(sum(s["tokens"] for s in steps) / sum(s["seconds"] for s in steps))
    assert sum(speed.shares.values()) == pytest.approx(1)
    assert all(0 <= s["waited"] <= s["seconds"] for s in lines)
    assert "tokens/s" in speed.lines()[0]
    slow = [json.dumps({**s, "waited": 0.5 * s["seconds"]}) for s in lines]
    (tmp_path / "slow.jsonl").write_text("\n".join(slow))
    limited = measure_throughput(prepared, tmp_path / "slow.jsonl")
    assert limited is not None
    assert limited.limit == "data"
    assert limited.waited == pytest.approx(0.5)
    assert "raise workers" in limited.lines()[1]


def test_operations_are_those_that_torch_counts(world: Path) -> None:
    """Against torch's own counter, forward and backward, without the adapter's operations."""
    prepared = prepared_of(world, attention="eager", adapter={"rank": 1, "dropout": 0.0})
    loss = loss_of(prepared).to("cpu")
    rows = prepared.data["cot"][:1]
    counted = Operations.of(loss.model, prepared.base.family).useful(rows, passes_of(prepared.recipe, prepared.recipe.stages[0]))
    batch = collate([rows], {}, length=len(rows[0].input_ids), pad_id=0)
    with FlopCounterMode(display=False) as counter:
        loss(**batch.loss_inputs()).backward()
    # Torch counts the whole square of attention; half of it is useful.
    assert not rows[0].images
    assert counter.get_total_flops() == pytest.approx(sum(counted.values()) + counted["attention"], rel=0.1)


def test_the_hours_follow_the_useful_operations(world: Path) -> None:
    """A speed in useful operations, as a training reports it, gives the same hours with and without layers that are computed again."""
    kept, again = (prepared_of(world, gradient_checkpointing=setting) for setting in (False, True))
    assert estimate(again, tflops=1.0).hours == pytest.approx(estimate(kept, tflops=1.0).hours)
    assert estimate(again).hours == pytest.approx(1.5 * estimate(kept).hours)
    stage = recipe_of(world).stages[0].model_dump(exclude_none=True)
    everything = prepared_of(world, stages=[{**stage, "trainable": "all"}])
    assert passes_of(everything.recipe, everything.recipe.stages[0]) == {"language": 3, "attention": 3, "head": 3, "vision": 3}
    assert estimate(everything, tflops=1.0).hours > estimate(kept, tflops=1.0).hours


def test_several_gpus_are_compared_with_one_gpu_each(world: Path, tmp_path: Path) -> None:
    prepared = prepared_of(world)
    train(prepared, tmp_path / "out")
    one, two = (measure_throughput(prepared, tmp_path / "out" / "metrics.jsonl", gpus=n) for n in (1, 2))
    assert one is not None
    assert two is not None
    assert (two.tokens_per_second, two.useful_tflops) == (one.tokens_per_second, one.useful_tflops / 2)
    assert "on 2 GPUs" in two.lines()[0]


def test_attention_without_a_mask_gets_one_type_from_weights_in_full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flash attention takes half precision only, but positions make queries and keys float32 if the base is."""
    seen: list[torch.dtype] = []
    plain = attention_module._one_row

    def keep(*given: Any) -> torch.Tensor:
        """What stands for flash attention on a CPU."""
        seen.extend(state.dtype for state in given[:3])
        return plain(*given)

    monkeypatch.setattr(attention_module, "_one_row", keep)
    model = tiny_model()
    model.set_attn_implementation({"text_config": attention_module.VARLEN})
    ids = torch.arange(3, 15)[None]
    with torch.autocast("cpu", torch.bfloat16):
        Loss(model)(ids, torch.arange(12)[None], ids, None)
    assert set(seen) == {torch.bfloat16}


@pytest.mark.skipif(DEVICE == "cpu", reason="flash attention needs a GPU")
def test_all_weights_are_trained_without_a_mask_on_a_gpu(world: Path, tmp_path: Path) -> None:
    """They are in full precision, and flash attention takes half precision only."""
    stage = {**recipe_of(world).stages[0].model_dump(exclude_none=True), "trainable": "all"}
    found = []
    for attention in ("sdpa", "varlen"):
        prepared = prepared_of(world, stages=[stage], attention=attention)
        assert {weight.dtype for weight in prepared.base.model.parameters()} == {torch.float32}
        train(prepared, tmp_path / attention)
        lines = (tmp_path / attention / "metrics.jsonl").read_text().splitlines()
        found.append([json.loads(line)["loss"] for line in lines if '"loss"' in line])
    assert found[1] == pytest.approx(found[0], rel=5e-3)


def test_compiled_layers_cannot_be_sharded(world: Path) -> None:
    with pytest.raises(ValueError, match="compile does not support sharded weights"):
        recipe_of(world, compile=True, shard=True)


def test_tiles_normalized_on_their_device_are_the_same() -> None:
    tiles = np.random.default_rng(0).integers(0, 255, size=(3, PATCH, PATCH, 3), dtype=np.uint8)
    torch.testing.assert_close(normalized(torch.from_numpy(tiles)), torch.from_numpy(normalise(tiles)), rtol=0, atol=0)


def test_items_made_ahead_keep_their_order_and_their_errors() -> None:
    def numbers() -> Any:
        yield from range(3)
        raise InputError("no more images")

    seen = []
    with one_ahead(numbers()) as items, pytest.raises(InputError, match="no more images"):
        for number in items:
            seen.append(number)  # noqa: PERF402 - until the error
    assert seen == [0, 1, 2]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"attention": "flash_attention_2"}, "pip install flash-attn"),
        ({"attention": "flex_attention"}, "only be trained on a GPU"),
    ],
)
@pytest.mark.skipif(DEVICE == "cuda", reason="without a GPU")
def test_an_attention_that_is_not_available_says_what_to_do(world: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        prepared_of(world, **change)


def test_a_gpu_without_bf16_is_refused_before_the_base_is_loaded(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *, including_emulation: including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    with pytest.raises(InputError, match=r"precision: bf16 needs a GPU of compute capability 8\.0.*Tesla T4.*set precision: fp32"):
        load_base(recipe_of(world, precision="bf16"))
