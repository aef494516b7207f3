"""Choices of LoRA: which parts it adapts, how it is scaled, and how fast each part learns; checked against peft."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftConfig, PeftModel
from safetensors.torch import load_file
from transformers import InternVLForConditionalGeneration
from typer.testing import CliRunner

from chiron.cli.app import app
from chiron.errors import InputError
from chiron.training.estimate import estimate
from chiron.training.export import merge
from chiron.training.loop import make_optimizer
from chiron.training.metrics import read_metrics
from chiron.training.model import add_adapter, part_of, train_parts
from chiron.training.recipe import Adapter, Recipe, builtin_recipe, load_recipe
from chiron.training.session import prepare, train
from chiron.training.stage import TrainingStopped
from tests.providers.local.checkpoints import write_family
from tests.training.tiny import TILE, tiny_model, tiny_tokenizer, write_rows

STAGE = {"name": "cot", "data": "cot.jsonl", "steps": 3, "batch": {"rows": 4}, "learning_rate": 1e-2}
EVERY_PART = ["language", "projector", "vision"]
IN_NAMES = {"language": "language_model", "projector": "multi_modal_projector", "vision": "vision_tower"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_rows(folder / "data", 8, ("text", "one"), name="cot.jsonl")
    tiny_model().save_pretrained(folder / "base")
    tiny_tokenizer().save_pretrained(folder / "base")
    return folder


def recipe_of(world: Path, adapter: dict[str, Any], **stage: Any) -> Recipe:
    values: dict[str, Any] = {
        "name": "tiny", "base": str(world / "base"), "adapter": {"rank": 4, "alpha": 8, "dropout": 0.0, **adapter}, "images": {"tile": 32},
        "max_seq_length": 512, "precision": "fp32", "stages": [{**STAGE, **stage}],
    }  # fmt: skip
    return Recipe.model_validate(values)


@pytest.mark.parametrize("targets", [["language"], ["projector"], ["vision"], EVERY_PART])
def test_the_adapter_is_in_every_linear_layer_of_the_chosen_parts_and_in_no_other(targets: list[str]) -> None:
    model = tiny_model()
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and name != "lm_head"}
    adapted = add_adapter(model, Adapter.model_validate({"targets": targets}))
    found = {name.removeprefix("base_model.model.") for name, module in adapted.named_modules() if hasattr(module, "lora_A")}
    assert found == {name for name in linear if any(IN_NAMES[part] in name for part in targets)}
    assert all("lora_" in name for name, weight in adapted.named_parameters() if weight.requires_grad)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"rslora": True}, {"dora": True}, {"rslora": True, "dora": True, "targets": EVERY_PART}])
def test_peft_reads_the_options_and_gives_the_merged_model(world: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    prepared = prepare(recipe_of(world, options), world / "data")
    counted = estimate(prepared).trained
    train(prepared, tmp_path)
    config = PeftConfig.from_pretrained(str(tmp_path / "adapter"))
    assert (config.use_rslora, config.use_dora) == (options.get("rslora", False), options.get("dora", False))
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert any("magnitude" in name for name in saved) == options.get("dora", False)
    base: Any = InternVLForConditionalGeneration.from_pretrained(world / "base")
    adapted: Any = PeftModel.from_pretrained(base, str(tmp_path / "adapter"))
    scale = 8 / 2 if options.get("rslora") else 8 / 4
    assert {module.scaling["default"] for module in adapted.modules() if hasattr(module, "lora_A")} == {scale}
    merged: Any = InternVLForConditionalGeneration.from_pretrained(tmp_path / "model")
    token = base.config.image_token_id
    inputs = {"input_ids": torch.tensor([[5, *[token] * 4, 9, 7]]), "pixel_values": torch.ones(1, 3, TILE, TILE)}
    with torch.no_grad():
        assert torch.allclose(adapted(**inputs).logits, merged(**inputs).logits, atol=1e-4)
    assert sum(weight.numel() for weight in saved.values()) == counted


def rates(optimizer: torch.optim.Optimizer, model: torch.nn.Module) -> dict[str, tuple[float, float]]:
    """Learning rate and weight decay of each weight, by name."""
    groups = {id(weight): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for weight in group["params"]}
    return {name: groups[id(weight)] for name, weight in model.named_parameters() if weight.requires_grad}


@pytest.mark.parametrize("trainable", ["adapter", "all"])
def test_each_part_has_its_learning_rate_in_the_optimizers_groups(trainable: str) -> None:
    stage = {"trainable": trainable, "learning_rates": {"vision": 1e-4, "projector": 5e-3}}
    recipe = recipe_of(Path(), {"targets": EVERY_PART, "dora": True}, **stage)
    model = tiny_model()
    if trainable == "all":
        train_parts(model, recipe.stages[0].trained_parts)
    else:
        model = add_adapter(model, recipe.adapter or Adapter())
    found = rates(make_optimizer(model, recipe, recipe.stages[0]), model)
    wanted = {"vision_tower": 1e-4, "multi_modal_projector": 5e-3}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            rate = next((rate for part, rate in wanted.items() if part in name), 1e-2)
            assert found[name] == (rate, recipe.weight_decay if weight.ndim >= 2 else 0.0), name
    plain = make_optimizer(model, recipe, recipe.stages[0].model_copy(update={"learning_rates": {}}))
    assert [group["weight_decay"] for group in plain.param_groups] == [recipe.weight_decay, 0.0]


@pytest.mark.slow
def test_a_run_with_all_options_resumes_to_the_same_bits_and_its_rates_rise_together(world: Path, tmp_path: Path) -> None:
    recipe = recipe_of(world, {"targets": EVERY_PART, "dora": True}, learning_rates={"vision": 1e-4}, warmup=0.9)
    train(prepare(recipe, world / "data"), tmp_path / "whole")
    steps = 0

    def second() -> bool:
        nonlocal steps
        steps += 1
        return steps == 2

    with pytest.raises(TrainingStopped):
        train(prepare(recipe, world / "data"), tmp_path / "cut", stop=second)
    groups = torch.load(tmp_path / "cut" / "checkpoints" / "step-00000002" / "optimizer.pt", weights_only=True)["param_groups"]
    logged = [line["learning_rate"] for line in read_metrics(tmp_path / "cut" / "metrics.jsonl")]
    assert sorted({group["lr"] for group in groups}) == pytest.approx([logged[1] / 100, logged[1]])
    train(prepare(recipe, world / "data"), tmp_path / "cut")
    one, two = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    base = load_file(world / "base" / "model.safetensors")
    changed = {name for name in one if not torch.equal(one[name], base[name])}
    assert all(any(part in name for name in changed) for part in IN_NAMES.values())


def test_a_learning_rate_for_a_frozen_part_is_refused() -> None:
    with pytest.raises(ValueError, match=r"learning_rates names 'vision', which is frozen: add it to adapter\.targets"):
        recipe_of(Path(), {}, learning_rates={"vision": 1e-4})
    assert json.loads(recipe_of(Path(), {"targets": ["vision"]}, learning_rates={"vision": 1e-4}).model_dump_json())


# --- every weight of some parts -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("parts", [["projector"], ["projector", "vision"], ["language"]])
def test_all_weights_of_the_named_parts_are_trained_and_no_others_and_a_resumed_run_ends_bit_equal(
    world: Path, tmp_path: Path, parts: list[str]
) -> None:
    recipe = recipe_of(world, {}, trainable=parts)
    prepared = prepare(recipe, world / "data")
    counted = estimate(prepared).trained
    train(prepared, tmp_path / "whole")
    base, trained = (load_file(folder / "model.safetensors") for folder in (world / "base", tmp_path / "whole" / "model"))
    assert {part_of(name) for name in base if not torch.equal(base[name], trained[name])} == set(parts)
    assert counted == sum(weight.numel() for name, weight in base.items() if part_of(name) in parts)
    asked = iter([False, True])
    with pytest.raises(TrainingStopped):
        train(prepare(recipe, world / "data"), tmp_path / "cut", stop=lambda: next(asked))
    train(prepare(recipe, world / "data"), tmp_path / "cut")
    again = load_file(tmp_path / "cut" / "model" / "model.safetensors")
    assert all(torch.equal(again[name], trained[name]) for name in trained)
    assert f"| {', '.join(parts)} |" in (tmp_path / "whole" / "model" / "README.md").read_text()


@pytest.mark.slow
def test_an_adapter_is_trained_over_a_projector_that_was_trained_before(world: Path, tmp_path: Path) -> None:
    recipe = recipe_of(world, {})
    stages = [recipe.stages[0].model_copy(update={"name": "align", "trainable": ("projector",)}), recipe.stages[0]]
    recipe = recipe.model_copy(update={"stages": stages})
    train(prepare(recipe, world / "data"), tmp_path)
    base: Any = InternVLForConditionalGeneration.from_pretrained(world / "base")
    base.load_state_dict(load_file(tmp_path / "base.safetensors"))
    adapted = PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval()
    merged: Any = InternVLForConditionalGeneration.from_pretrained(tmp_path / "model")
    inputs = {"input_ids": torch.tensor([[5, *[base.config.image_token_id] * 4, 9]]), "pixel_values": torch.ones(1, 3, TILE, TILE)}
    with torch.no_grad():
        assert torch.allclose(adapted(**inputs).logits, merged(**inputs).logits, atol=1e-4)


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ({"trainable": ["vision"]}, "trains other parts than stage cot: use the same trainable in both"),
        ({"trainable": ["projector"], "learning_rates": {"vision": 1e-4}}, "names 'vision', which is frozen: add it to trainable"),
    ],
)
def test_stages_that_train_parts_which_do_not_fit_are_refused(second: dict[str, Any], words: str) -> None:
    stages = [{**STAGE, "trainable": ["projector"]}, {**STAGE, "name": "two", **second}]
    with pytest.raises(ValueError, match=words):
        Recipe.model_validate({"name": "tiny", "base": "base", "stages": stages})


# --- QLoRA --------------------------------------------------------------------------------------------------------------------------


def test_a_missing_bitsandbytes_is_named_and_nothing_else_is_used(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    recipe = recipe_of(world, {}).model_copy(update={"quantization": "nf4"})
    with pytest.raises(InputError, match="quantization: nf4 needs the package bitsandbytes: pip install bitsandbytes"):
        prepare(recipe, world / "data")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shard": True}, "nf4 does not support shard"),
        ({"stages": [{**STAGE, "trainable": "all"}]}, "nf4 keeps weights frozen"),
        ({"base": None, "scratch": {"tokenizer": "t", "config": {}}}, "nf4 needs a base"),
    ],
)
def test_settings_that_need_full_precision_are_refused_with_quantization(changes: dict[str, Any], words: str) -> None:
    values = {"name": "tiny", "base": "base", "quantization": "nf4", "stages": [STAGE]}
    with pytest.raises(ValueError, match=words):
        Recipe.model_validate({**values, **changes})


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["internvl", "qwen3_vl", "gemma3", "idefics3"])
def test_a_base_in_4_bits_is_trained_resumed_and_merged_in_full_precision(tmp_path: Path, kind: str) -> None:
    import transformers

    write_family(tmp_path / "base", kind)
    write_rows(tmp_path / "data", 6, ("text", "one"), name="cot.jsonl")
    images = {"tile": 32} if kind == "internvl" else {}
    recipe = recipe_of(tmp_path, {}, steps=8, learning_rate=2e-2)
    recipe = Recipe.model_validate({**recipe.model_dump(), "quantization": "nf4", "images": images, "max_seq_length": 1500})
    prepared = prepare(recipe, tmp_path / "data")
    quantized = [name for name, module in prepared.base.model.named_modules() if type(module).__name__ == "Linear4bit"]
    assert len(quantized) >= 14
    assert {part_of(name) for name in quantized} == {"language"}
    train(prepared, tmp_path / "out")
    losses = [line["loss"] for line in read_metrics(tmp_path / "out" / "metrics.jsonl") if "loss" in line]
    assert losses[-1] < losses[0] - 1
    architecture = getattr(transformers, prepared.base.family.architecture)
    base, merged = (architecture.from_pretrained(folder).eval() for folder in (tmp_path / "base", tmp_path / "out" / "model"))
    ids = torch.arange(5, 40)[None]
    with torch.no_grad():
        untrained = base(input_ids=ids).logits
        adapted = PeftModel.from_pretrained(base, str(tmp_path / "out" / "adapter")).eval()(input_ids=ids).logits
        torch.testing.assert_close(merged(input_ids=ids).logits, adapted, rtol=0, atol=1e-4)
    assert (adapted - untrained).abs().max() > 0.1
    asked = iter([False, True])
    with pytest.raises(TrainingStopped):
        train(prepare(recipe, tmp_path / "data"), tmp_path / "cut", stop=lambda: next(asked))
    train(prepare(recipe, tmp_path / "data"), tmp_path / "cut")
    one, two = (load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("out", "cut"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_merge_that_computes_something_else_is_refused() -> None:
    adapted: Any = add_adapter(tiny_model(), Adapter(rank=4)).eval()
    whole = adapted.merge_and_unload

    def spoil() -> Any:
        merged = whole()
        merged.model.language_model.layers[0].mlp.up_proj.weight.data[0, 0] = float("nan")
        return merged

    adapted.merge_and_unload = spoil
    with pytest.raises(InputError, match="the merged model differs from base and adapter"):
        merge(adapted)


# --- recipes of the package ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("chiron-o1-2b", {"base": "OpenGVLab/InternVL3-2B-hf", "quantization": None}),
        ("chiron-o1-8b", {"base": "OpenGVLab/InternVL3-8B-hf", "quantization": None}),
        ("internvl3-8b-24gb", {"base": "OpenGVLab/InternVL3-8B-hf", "quantization": "nf4"}),
        ("qwen3-vl-8b", {"base": "Qwen/Qwen3-VL-8B-Instruct", "quantization": None}),
        ("smolvlm-256m-cpu", {"base": "HuggingFaceTB/SmolVLM-256M-Instruct", "precision": "fp32"}),
    ],
)
def test_a_recipe_of_the_package_is_valid_and_has_its_name(name: str, wanted: dict[str, Any]) -> None:
    recipe = load_recipe(builtin_recipe(name))
    assert recipe.name == name
    assert {key: getattr(recipe, key) for key in wanted} == wanted


def test_an_unknown_recipe_lists_those_of_the_package() -> None:
    done = CliRunner().invoke(app, ["train", "--recipe", "big", "--data", "d", "--out", "o"])
    assert isinstance(done.exception, InputError)
    assert "unknown recipe 'big'; choose one of chiron-o1-2b, chiron-o1-8b, internvl3-8b-24gb" in str(done.exception)
    both = CliRunner().invoke(app, ["train", "mine.yaml", "--recipe", "chiron-o1-2b", "--data", "d", "--out", "o"])
    assert "were both given: remove one of them" in str(both.exception)


@pytest.mark.slow
def test_the_recipe_for_a_cpu_trains_the_small_family(tmp_path: Path) -> None:
    write_family(tmp_path / "base", "idefics3")
    write_rows(tmp_path / "data", 6, ("one", "text"), name="cot.jsonl")
    recipe = load_recipe(builtin_recipe("smolvlm-256m-cpu"))
    stage = recipe.stages[0].model_copy(update={"steps": 2, "learning_rate": 1e-2})
    changes = {"base": str(tmp_path / "base"), "images": recipe.images.model_copy(update={"longest_edge": 32}), "stages": [stage]}
    prepared = prepare(recipe.model_copy(update=changes), tmp_path / "data")
    assert {row.tiles() for row in prepared.data["cot"]} == {0, 1}
    train(prepared, tmp_path / "out")
    losses = [line["loss"] for line in read_metrics(tmp_path / "out" / "metrics.jsonl") if "loss" in line]
    assert losses[1] < losses[0]


def test_the_language_models_layers_are_named_as_other_programs_read_them() -> None:
    adapted: Any = add_adapter(tiny_model(), Adapter())
    # Earlier releases of vLLM take the last group of the expression, from its first parenthesis, as the list of layers.
    groups = adapted.peft_config["default"].target_modules.split("(")
    assert len(groups) == 2
    assert groups[1].removesuffix(")").split("|") == ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
