"""Choices of LoRA: which parts it adapts, how it is scaled, and how fast each part learns; checked against peft."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftConfig, PeftModel
from safetensors.torch import load_file
from transformers import InternVLForConditionalGeneration

from chiron.training.estimate import estimate
from chiron.training.loop import make_optimizer
from chiron.training.metrics import read_metrics
from chiron.training.model import add_adapter, train_everything
from chiron.training.recipe import Adapter, Recipe
from chiron.training.session import prepare, train
from chiron.training.stage import TrainingStopped
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
        train_everything(model)
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
