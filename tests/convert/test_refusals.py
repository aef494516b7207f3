"""What does not convert is refused by name, before anything is written."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from chiron.convert.convert import detect, to_hf, to_internvl_chat
from chiron.errors import InputError
from tests.convert.conversions import Config, Tensors, change_weights, settle, tensors_of


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ps_version": "v1"}, "ps_version is 'v1'"),
        ({"ps_version": ...}, "ps_version is 'v1'"),
        ({"select_layer": -4}, "select_layer is -4"),
        ({"pad2square": True}, "pad2square is True"),
        ({"use_llm_lora": 16}, "use_llm_lora is 16, but only 0 can be converted: merge the LoRA"),
        ({"use_backbone_lora": 8}, "use_backbone_lora is 8"),
        ({"downsample_ratio": 0.3}, "downsample_ratio is 0.3"),
        ({"downsample_ratio": "half"}, "downsample_ratio is 'half'"),
        ({"force_image_size": 448}, "force_image_size is 448"),
        ({"hidden_size": [1]}, "hidden_size is [1]"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is {'bits': 4}"),
        ({"new_trick": 1}, "new_trick is 1, an unknown setting"),
        ({"vision_config": None}, "vision_config is None"),
        ({"llm_config": ...}, "llm_config is None"),
        ({"llm_config__architectures": ["InternLM2ForCausalLM"]}, "llm_config.architectures is ['InternLM2ForCausalLM']"),
        ({"llm_config__architectures": ["Qwen3ForCausalLM"]}, "llm_config.architectures is ['Qwen3ForCausalLM']"),
        ({"llm_config__model_type": "llama"}, "llm_config.model_type is 'llama'"),
        ({"llm_config__model_type": ["qwen2"]}, "llm_config.model_type is ['qwen2']"),
        ({"llm_config__layer_types": 2}, "llm_config.layer_types is 2"),
        ({"max_dynamic_patch": 0}, "max_dynamic_patch is 0; it must be an integer of at least 1"),
        ({"llm_config__use_sliding_window": True}, "llm_config.use_sliding_window is True"),
        ({"llm_config__layer_types": ["sliding_attention"]}, "llm_config.layer_types is ['sliding_attention']"),
        ({"llm_config__head_dim": 64}, "llm_config.head_dim is 64"),
        ({"llm_config__rope_scaling": {"type": "su"}}, "llm_config.rope_scaling is {'type': 'su'}"),
        ({"llm_config__rope_scaling": {"type": "default", "mrope_section": [1]}}, "llm_config.rope_scaling is"),
        ({"llm_config__rope_scaling": [2]}, "llm_config.rope_scaling is [2]"),
        ({"llm_config__moe_config": {"n": 2}}, "llm_config.moe_config is {'n': 2}"),
        ({"llm_config__num_attention_heads": 5}, "llm_config.hidden_size is 32"),
        ({"llm_config__num_hidden_layers": 10**9}, "llm_config.num_hidden_layers is 1000000000"),
        ({"llm_config__vocab_size": 0}, "llm_config.vocab_size is 0"),
        (
            {"vision_config__qk_normalization": True},
            "vision_config.qk_normalization is True, but only False can be converted: InternViT-6B",
        ),
        ({"vision_config__qk_normalization": ...}, "vision_config.qk_normalization is True"),
        ({"vision_config__norm_type": "rms_norm"}, "vision_config.norm_type is 'rms_norm'"),
        ({"vision_config__use_moe": True}, "vision_config.use_moe is True"),
        ({"vision_config__model_type": "clip"}, "vision_config.model_type is 'clip'"),
        ({"vision_config__hidden_size": "wide"}, "vision_config.hidden_size is 'wide'"),
        ({"vision_config__image_size": 30, "force_image_size": None}, "vision_config.image_size is 30"),
        ({"vision_config__new_trick": 1}, "vision_config.new_trick is 1"),
    ],
)
def test_settings_of_the_authors_that_do_not_convert(chat: Path, tmp_path: Path, change: Config, message: str) -> None:
    settle(chat, **change)
    with pytest.raises(InputError, match=re.escape(message)):
        to_hf(chat, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vision_feature_layer": -2}, "vision_feature_layer is -2"),
        ({"vision_feature_select_strategy": "full"}, "vision_feature_select_strategy is 'full'"),
        ({"projector_hidden_act": "relu"}, "projector_hidden_act is 'relu'"),
        ({"image_token_id": 3}, "image_token_id is 3, but the tokenizer's <IMG_CONTEXT> is 22"),
        ({"image_token_id": "x"}, "image_token_id is 'x'"),
        ({"internvl_chat": {"auto_map": {}, "code": "x"}}, "internvl_chat.code is 'x'"),
        ({"internvl_chat": [1]}, "internvl_chat is [1]"),
        ({"internvl_chat": {"max_dynamic_patch": "12"}}, "internvl_chat.max_dynamic_patch is '12'"),
        ({"new_trick": 1}, "new_trick is 1"),
        ({"text_config__model_type": "qwen3", "text_config__attention_bias": True}, "text_config.attention_bias is True"),
        ({"text_config__model_type": "llama"}, "text_config.model_type is 'llama'"),
        ({"vision_config__use_qk_norm": True}, "vision_config.use_qk_norm is True"),
        ({"vision_config__norm_type": "rms_norm"}, "vision_config.norm_type is 'rms_norm'"),
        ({"vision_config__use_mean_pooling": False}, "vision_config.use_mean_pooling is False"),
        ({"vision_config__use_absolute_position_embeddings": False}, "vision_config.use_absolute_position_embeddings is False"),
        ({"vision_config__image_size": [28, 14]}, "vision_config.image_size is [28, 14]"),
        ({"vision_config__hidden_dropout_prob": 0.1}, "vision_config.hidden_dropout_prob is 0.1"),
    ],
)
def test_settings_of_transformers_that_do_not_convert(hf: Path, tmp_path: Path, change: Config, message: str) -> None:
    settle(hf, **change)
    with pytest.raises(InputError, match=re.escape(message)):
        to_internvl_chat(hf, tmp_path / "out")


def test_an_image_token_behind_the_embedding_is_refused(chat: Path, tmp_path: Path) -> None:
    settle(chat, llm_config__vocab_size=20)
    with pytest.raises(InputError, match="the embedding has 20 rows"):
        to_hf(chat, tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("mlp1.3.bias"), "lacks mlp1.3.bias, which config.json requires"),
        (lambda t: [t.pop(k) for k in list(t) if ".layers.1.norm" in k], "and 1 more tensors"),
        (lambda t: t.update({"mlp1.4.weight": torch.ones(1)}), "contains mlp1.4.weight, which config.json does not include"),
        (lambda t: t.update({"vision_model.encoder.layers.0.attn.q_norm.weight": torch.ones(16)}), "attn.q_norm.weight"),
        (lambda t: t.update({"mlp1.3.bias": torch.ones(31)}), "mlp1.3.bias has shape [31], but config.json requires [32]"),
        (lambda t: t.update({"mlp1.3.bias": torch.ones(32, dtype=torch.int8)}), "mlp1.3.bias is of type I8"),
    ],
)
def test_every_tensor_is_accounted_for(chat: Path, tmp_path: Path, change: Callable[[Tensors], object], message: str) -> None:
    change_weights(chat, change)
    with pytest.raises(InputError, match=re.escape(message)):
        to_hf(chat, tmp_path / "out")


def test_parts_of_a_fused_tensor_agree_in_shape_type_and_number(hf: Path, tmp_path: Path) -> None:
    name = "vision_tower.encoder.layer.1.attention.k_proj.weight"
    original = tensors_of(hf)[name]
    for value, message in ((original.half(), f"{name} is F16"), (original[:8].contiguous(), f"{name} has shape [8, 16]")):
        change_weights(hf, lambda t, v=value: t.update({name: v}))  # type: ignore[misc]
        with pytest.raises(InputError, match=re.escape(message)):
            to_internvl_chat(hf, tmp_path / "out")
    change_weights(hf, lambda t: t.update({name: original, "model." + name: original.clone()}))
    with pytest.raises(InputError, match="twice"):
        to_internvl_chat(hf, tmp_path / "out")


def _index(folder: Path) -> Path:
    return folder / "model.safetensors.index.json"


def _rewrite_index(folder: Path, change: Callable[[dict[str, str]], object]) -> None:
    index = json.loads(_index(folder).read_text())
    change(index["weight_map"])
    _index(folder).write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: next(f.glob("*2-of*")).unlink(), "lacks 1 of the 7 shards"),
        (lambda f: _rewrite_index(f, lambda m: m.pop("mlp1.0.bias")), "the index does not contain it"),
        (
            lambda f: _rewrite_index(f, lambda m: m.update({"mlp1.0.bias": "model-00001-of-00007.safetensors"})),
            "the index places it in model-00001-of-00007.safetensors",
        ),
        (lambda f: _rewrite_index(f, lambda m: m.update({"x": m["mlp1.0.bias"]})), "places x in model-"),
        (lambda f: _rewrite_index(f, lambda m: m.update({"x": "../../secret.safetensors"})), "'../../secret.safetensors'"),
        (lambda f: _rewrite_index(f, lambda m: m.update({"x": "pytorch_model.bin"})), "'pytorch_model.bin'"),
        (lambda f: _index(f).write_text("{}"), "has no weight_map"),
        (lambda f: _index(f).write_text("[]"), "does not contain a JSON object"),
        (lambda f: next(f.glob("*2-of*")).write_bytes(next(f.glob("*2-of*")).read_bytes()[:-1]), "is not a complete safetensors file"),
        (lambda f: next(f.glob("*2-of*")).write_bytes(b""), "is not a complete safetensors file"),
    ],
)
def test_shards_and_index_agree(hf: Path, tmp_path: Path, change: Callable[[Path], object], message: str) -> None:
    report = to_internvl_chat(hf, tmp_path / "sharded", shard_bytes=14_000)
    assert len(report.shards) == 7
    change(tmp_path / "sharded")
    with pytest.raises(InputError, match=re.escape(message)):
        to_hf(tmp_path / "sharded", tmp_path / "out")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["pytorch_model.bin"], "only pickled weights (pytorch_model.bin)"),
        (["pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json"], "only pickled weights"),
        (["adapter_config.json", "adapter_model.safetensors"], "contains an adapter (adapter_config.json)"),
        (["model-00001-of-00002.safetensors"], "neither model.safetensors nor"),
        ([], "contains neither model.safetensors nor"),
    ],
)
def test_only_whole_safetensors_checkpoints_are_read(chat: Path, tmp_path: Path, files: list[str], message: str) -> None:
    (chat / "model.safetensors").unlink()
    for name in files:
        (chat / name).write_bytes(b"")
    with pytest.raises(InputError, match=re.escape(message)):
        to_hf(chat, tmp_path / "out")


def test_detect(hf: Path, chat: Path, tmp_path: Path) -> None:
    assert (detect(hf), detect(chat)) == ("hf", "internvl_chat")
    with pytest.raises(InputError, match="is not a folder"):
        detect(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"has no config\.json"):
        detect(tmp_path)
    for kind in ("llava", None, ["internvl"]):
        settle(hf, model_type=kind)
        with pytest.raises(InputError, match="model_type is"):
            detect(hf)


def test_the_wrong_direction_is_refused(hf: Path, chat: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is in the layout hf already"):
        to_hf(hf, tmp_path / "out")
    with pytest.raises(InputError, match="is in the layout internvl_chat already"):
        to_internvl_chat(chat, tmp_path / "out")


def test_an_adapter_is_refused_with_the_way_to_merge_it(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (tmp_path / "adapter" / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match="LoRA adapter, not a checkpoint: merge it into its base first"):
        detect(tmp_path / "adapter")
