import errno
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    GenerationConfig,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    Qwen2Config,
    Qwen2Tokenizer,
)
from transformers.utils import logging as transformers_logging
from typer.testing import CliRunner

from chiron.cli import convert as cli
from chiron.errors import DiskError, InputError
from chiron.training import convert, weight_files
from chiron.training.convert import ConversionReport, detect, to_hf, to_internvl_chat
from chiron.training.convert_settings import read_chat, write_hf

Tensors = dict[str, torch.Tensor]
Config = dict[str, Any]

WIDTH, HEADS, MLP, SIDE, PATCH = 16, 2, 24, 28, 7
TEXT_WIDTH, VOCABULARY = 32, 40
LETTERS = "abcdefghijklmnop"
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|video_pad|>", "<img>", "</img>", "<IMG_CONTEXT>", "<quad>"]
IMAGE_TOKEN = len(LETTERS) + SPECIAL.index("<IMG_CONTEXT>")
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]

transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]

# What the authors' code calls the weights of a vision tower of two layers and a language model of one, written out by hand.
CHAT_SHAPES: dict[str, tuple[int, ...]] = {
    "vision_model.embeddings.class_embedding": (1, 1, 16),
    "vision_model.embeddings.position_embedding": (1, 17, 16),
    "vision_model.embeddings.patch_embedding.weight": (16, 3, 7, 7),
    "vision_model.embeddings.patch_embedding.bias": (16,),
    "vision_model.encoder.layers.0.attn.qkv.weight": (48, 16),
    "vision_model.encoder.layers.0.attn.qkv.bias": (48,),
    "vision_model.encoder.layers.0.attn.proj.weight": (16, 16),
    "vision_model.encoder.layers.0.attn.proj.bias": (16,),
    "vision_model.encoder.layers.0.mlp.fc1.weight": (24, 16),
    "vision_model.encoder.layers.0.mlp.fc1.bias": (24,),
    "vision_model.encoder.layers.0.mlp.fc2.weight": (16, 24),
    "vision_model.encoder.layers.0.mlp.fc2.bias": (16,),
    "vision_model.encoder.layers.0.norm1.weight": (16,),
    "vision_model.encoder.layers.0.norm1.bias": (16,),
    "vision_model.encoder.layers.0.norm2.weight": (16,),
    "vision_model.encoder.layers.0.norm2.bias": (16,),
    "vision_model.encoder.layers.0.ls1": (16,),
    "vision_model.encoder.layers.0.ls2": (16,),
    "vision_model.encoder.layers.1.attn.qkv.weight": (48, 16),
    "vision_model.encoder.layers.1.attn.qkv.bias": (48,),
    "vision_model.encoder.layers.1.attn.proj.weight": (16, 16),
    "vision_model.encoder.layers.1.attn.proj.bias": (16,),
    "vision_model.encoder.layers.1.mlp.fc1.weight": (24, 16),
    "vision_model.encoder.layers.1.mlp.fc1.bias": (24,),
    "vision_model.encoder.layers.1.mlp.fc2.weight": (16, 24),
    "vision_model.encoder.layers.1.mlp.fc2.bias": (16,),
    "vision_model.encoder.layers.1.norm1.weight": (16,),
    "vision_model.encoder.layers.1.norm1.bias": (16,),
    "vision_model.encoder.layers.1.norm2.weight": (16,),
    "vision_model.encoder.layers.1.norm2.bias": (16,),
    "vision_model.encoder.layers.1.ls1": (16,),
    "vision_model.encoder.layers.1.ls2": (16,),
    "mlp1.0.weight": (64,),
    "mlp1.0.bias": (64,),
    "mlp1.1.weight": (32, 64),
    "mlp1.1.bias": (32,),
    "mlp1.3.weight": (32, 32),
    "mlp1.3.bias": (32,),
    "language_model.model.embed_tokens.weight": (40, 32),
    "language_model.model.layers.0.self_attn.q_proj.weight": (32, 32),
    "language_model.model.layers.0.self_attn.q_proj.bias": (32,),
    "language_model.model.layers.0.self_attn.k_proj.weight": (16, 32),
    "language_model.model.layers.0.self_attn.k_proj.bias": (16,),
    "language_model.model.layers.0.self_attn.v_proj.weight": (16, 32),
    "language_model.model.layers.0.self_attn.v_proj.bias": (16,),
    "language_model.model.layers.0.self_attn.o_proj.weight": (32, 32),
    "language_model.model.layers.0.mlp.gate_proj.weight": (48, 32),
    "language_model.model.layers.0.mlp.up_proj.weight": (48, 32),
    "language_model.model.layers.0.mlp.down_proj.weight": (32, 48),
    "language_model.model.layers.0.input_layernorm.weight": (32,),
    "language_model.model.layers.0.post_attention_layernorm.weight": (32,),
    "language_model.model.norm.weight": (32,),
    "language_model.lm_head.weight": (40, 32),
}


def _model() -> InternVLForConditionalGeneration:
    torch.manual_seed(0)
    text = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=TEXT_WIDTH,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        # Short, so that a few tokens already reach where the dynamic scaling works.
        max_position_embeddings=8,
        rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 5000.0},
        bos_token_id=16,
        eos_token_id=16,
    )
    vision = InternVLVisionConfig(
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        intermediate_size=MLP,
        image_size=[SIDE, SIDE],
        patch_size=[PATCH, PATCH],
        attention_bias=True,
    )
    config = InternVLConfig(
        text_config=text, vision_config=vision, image_token_id=IMAGE_TOKEN, image_seq_length=4, tie_word_embeddings=False
    )
    model = InternVLForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():
            # Class token, positions and biases begin as zeros, and zeros would pass for one another.
            parameter.copy_(torch.randn_like(parameter) * 0.2)
    model.eval()  # type: ignore[no-untyped-call]
    return model


def _write_tokenizer(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {letter: i for i, letter in enumerate(LETTERS)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    added = {
        str(len(LETTERS) + i): {"content": t, "special": True, "lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
        for i, t in enumerate(SPECIAL)
    }
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "added_tokens_decoder": added,
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>", "<quad>"],
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "auto_map": {"AutoTokenizer": ["code.Tokenizer", None]},
        "chat_template": "{% for m in messages %}{{ m['content'] }}{% endfor %}",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def _settle(folder: Path, **changes: Any) -> None:
    """Change keys of a config.json; ``a__b`` reaches into ``a``, and ... takes a key away."""
    config = json.loads((folder / "config.json").read_text())
    for key, value in changes.items():
        *path, last = key.split("__")
        section = config
        for step in path:
            section = section[step]
        if value is ...:
            section.pop(last, None)
        else:
            section[last] = value
    (folder / "config.json").write_text(json.dumps(config))


def _change(folder: Path, change: Callable[[Tensors], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _tensors(folder: Path) -> Tensors:
    found: Tensors = {}
    for file in sorted(folder.glob("*.safetensors")):
        found.update(load_file(file))
    return found


def _same(one: Tensors, other: Tensors) -> bool:
    return one.keys() == other.keys() and all(
        one[k].dtype == other[k].dtype and one[k].shape == other[k].shape and torch.equal(one[k], other[k]) for k in one
    )


def _config(folder: Path) -> Config:
    value: Config = json.loads((folder / "config.json").read_text())
    return value


def _published_config() -> Config:
    """The keys and values of the published InternVL3's config.json, with small sizes."""
    return {
        "_commit_hash": None,
        "architectures": ["InternVLChatModel"],
        "auto_map": {"AutoConfig": "configuration_internvl_chat.InternVLChatConfig"},
        "downsample_ratio": 0.5,
        "dynamic_image_size": True,
        "force_image_size": SIDE,
        "hidden_size": TEXT_WIDTH,
        "image_fold": None,
        "llm_config": {
            "_attn_implementation_autoset": True,
            "_name_or_path": "./pretrained/Qwen2.5-32B-Instruct",
            "add_cross_attention": False,
            "architectures": ["Qwen2ForCausalLM"],
            "attention_dropout": 0.0,
            "bad_words_ids": None,
            "bos_token_id": 16,
            "eos_token_id": 16,
            "hidden_act": "silu",
            "hidden_size": TEXT_WIDTH,
            "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
            "initializer_range": 0.02,
            "intermediate_size": 48,
            "max_position_embeddings": 8,
            "max_window_layers": 70,
            "model_type": "qwen2",
            "moe_config": None,
            "num_attention_heads": 4,
            "num_hidden_layers": 1,
            "num_key_value_heads": 2,
            "pruned_heads": {},
            "rms_norm_eps": 1e-06,
            "rope_scaling": {"factor": 2.0, "rope_type": "dynamic", "type": "dynamic"},
            "rope_theta": 5000.0,
            "sliding_window": None,
            "temperature": 1.0,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "use_bfloat16": True,
            "use_cache": False,
            "use_sliding_window": False,
            "vocab_size": VOCABULARY,
        },
        "max_dynamic_patch": 12,
        "min_dynamic_patch": 1,
        "model_type": "internvl_chat",
        "output_attentions": False,
        "pad2square": False,
        "ps_version": "v2",
        "select_layer": -1,
        "system_message": None,
        "template": "internvl2_5",
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "transformers_version": None,
        "use_backbone_lora": 0,
        "use_llm_lora": 0,
        "use_thumbnail": True,
        "vision_config": {
            "_name_or_path": "OpenGVLab/InternViT-6B-448px-V1-5",
            "architectures": ["InternVisionModel"],
            "attention_dropout": 0.0,
            "auto_map": {"AutoModel": "modeling_intern_vit.InternVisionModel"},
            "capacity_factor": 1.2,
            "drop_path_rate": 0.1,
            "dropout": 0.0,
            "eval_capacity_factor": 1.4,
            "hidden_act": "gelu",
            "hidden_size": WIDTH,
            "image_size": SIDE,
            "initializer_factor": 0.1,
            "initializer_range": 1e-10,
            "intermediate_size": MLP,
            "laux_allreduce": "all_nodes",
            "layer_norm_eps": 1e-06,
            "model_type": "intern_vit_6b",
            "moe_coeff_ratio": 0.5,
            "moe_intermediate_size": 768,
            "moe_output_scale": 4.0,
            "noisy_gate_policy": "RSample_before",
            "norm_type": "layer_norm",
            "num_attention_heads": HEADS,
            "num_channels": 3,
            "num_experts": 8,
            "num_hidden_layers": 2,
            "num_routed_experts": 4,
            "num_shared_experts": 4,
            "patch_size": PATCH,
            "qk_normalization": False,
            "qkv_bias": True,
            "shared_expert_intermediate_size": 3072,
            "torch_dtype": "bfloat16",
            "use_bfloat16": True,
            "use_flash_attn": True,
            "use_moe": False,
            "use_residual": True,
            "use_rts": False,
            "use_weighted_residual": False,
        },
    }


@pytest.fixture(scope="session")
def hf_made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "hf"
    _model().save_pretrained(folder)
    _write_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def chat_made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as the authors publish theirs, written by hand."""
    folder = tmp_path_factory.mktemp("made") / "chat"
    _write_tokenizer(folder)
    (folder / "config.json").write_text(json.dumps(_published_config()))
    generator = torch.Generator().manual_seed(1)
    tensors = {name: (torch.randn(shape, generator=generator) * 0.2).bfloat16() for name, shape in CHAT_SHAPES.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "generation_config.json").write_text('{"_from_model_config": true, "eos_token_id": 16}')
    (folder / "preprocessor_config.json").write_text('{"feature_extractor_type": "CLIPFeatureExtractor", "size": 28}')
    (folder / "modeling_internvl_chat.py").write_text("raise SystemExit")
    (folder / "README.md").write_text("a card")
    return folder


@pytest.fixture
def hf(hf_made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(hf_made, tmp_path / "hf")


@pytest.fixture
def chat(chat_made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(chat_made, tmp_path / "chat")


def _authors_features(w: Tensors, pixels: torch.Tensor) -> torch.Tensor:
    """The authors' image features, computed from weights under their names: (tiles, tokens, width of the language model)."""
    count = pixels.shape[0]
    x = functional.conv2d(
        pixels, w["vision_model.embeddings.patch_embedding.weight"], w["vision_model.embeddings.patch_embedding.bias"], stride=PATCH
    )
    x = x.flatten(2).transpose(1, 2)
    x = torch.cat([w["vision_model.embeddings.class_embedding"].expand(count, 1, -1), x], dim=1)
    x = x + w["vision_model.embeddings.position_embedding"]
    for layer in range(2):
        p = f"vision_model.encoder.layers.{layer}."
        y = functional.layer_norm(x, (WIDTH,), w[p + "norm1.weight"], w[p + "norm1.bias"], 1e-6)
        qkv = functional.linear(y, w[p + "attn.qkv.weight"], w[p + "attn.qkv.bias"])
        # The fused rows: which of the three first, then the head, then the place in the head.
        q, k, v = qkv.reshape(count, -1, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        scores = (q * (WIDTH // HEADS) ** -0.5) @ k.transpose(-2, -1)
        y = (scores.softmax(-1) @ v).transpose(1, 2).reshape(count, -1, WIDTH)
        x = x + functional.linear(y, w[p + "attn.proj.weight"], w[p + "attn.proj.bias"]) * w[p + "ls1"]
        y = functional.layer_norm(x, (WIDTH,), w[p + "norm2.weight"], w[p + "norm2.bias"], 1e-6)
        y = functional.gelu(functional.linear(y, w[p + "mlp.fc1.weight"], w[p + "mlp.fc1.bias"]))
        x = x + functional.linear(y, w[p + "mlp.fc2.weight"], w[p + "mlp.fc2.bias"]) * w[p + "ls2"]
    side = SIDE // PATCH
    # Pixel shuffle, second version: neighbours along one axis into channels, axes turned, the other axis, axes turned back.
    x = x[:, 1:].reshape(count, side, side, WIDTH)
    x = x.reshape(count, side, side // 2, WIDTH * 2).permute(0, 2, 1, 3)
    x = x.reshape(count, side // 2, side // 2, WIDTH * 4).permute(0, 2, 1, 3)
    x = x.reshape(count, -1, WIDTH * 4)
    x = functional.layer_norm(x, (WIDTH * 4,), w["mlp1.0.weight"], w["mlp1.0.bias"])
    x = functional.gelu(functional.linear(x, w["mlp1.1.weight"], w["mlp1.1.bias"]))
    return functional.linear(x, w["mlp1.3.weight"], w["mlp1.3.bias"])


def _logits(model: InternVLForConditionalGeneration) -> torch.Tensor:
    pixels = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2)).to(model.dtype)
    ids = torch.tensor([[1, 2, *[IMAGE_TOKEN] * 4, 3, 4, 5, 6, 7, 8, 9, 10]])
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=ids, pixel_values=pixels, attention_mask=torch.ones_like(ids)).logits
    return logits


def _load(folder: Path) -> Any:
    from_pretrained: Any = InternVLForConditionalGeneration.from_pretrained
    model, info = from_pretrained(folder, output_loading_info=True, dtype="auto")
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return model.eval()


def test_names_and_shapes_are_the_authors(hf: Path, tmp_path: Path) -> None:
    report = to_internvl_chat(hf, tmp_path / "out")
    written = _tensors(tmp_path / "out")
    assert {k: tuple(v.shape) for k, v in written.items()} == CHAT_SHAPES
    assert report.tensors == len(CHAT_SHAPES)
    assert report.parameters == sum(v.numel() for v in written.values())
    assert report.size == 4 * report.parameters
    assert (report.layout, report.shards) == ("internvl_chat", ("model.safetensors",))
    with safe_open(tmp_path / "out" / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_the_authors_forward_pass_on_converted_weights_gives_the_same_features(hf: Path, tmp_path: Path) -> None:
    to_internvl_chat(hf, tmp_path / "out")
    pixels = torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = _model().get_image_features(pixel_values=pixels, vision_feature_layer=-1).pooler_output
        features = _authors_features(_tensors(tmp_path / "out"), pixels)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-5)


def test_round_trip_from_hf_is_exact_and_loads(hf: Path, tmp_path: Path) -> None:
    to_internvl_chat(hf, tmp_path / "chat")
    to_hf(tmp_path / "chat", tmp_path / "back")
    assert _same(_tensors(hf), _tensors(tmp_path / "back"))
    loaded = _load(tmp_path / "back")
    assert torch.equal(_logits(loaded), _logits(_model()))
    before, after = InternVLConfig.from_pretrained(hf).to_dict(), InternVLConfig.from_pretrained(tmp_path / "back").to_dict()
    # Added: what the authors' code needs. Said explicitly now, and not before: classes' names.
    after.pop("internvl_chat")
    for config in (before, after):
        for section in (config, config["text_config"], config["vision_config"]):
            for key in ("architectures", "_name_or_path", "dtype", "transformers_version"):
                section.pop(key, None)
        config["text_config"]["rope_parameters"].pop("type", None)
    assert after == before


def test_round_trip_from_the_authors_is_exact(chat: Path, tmp_path: Path) -> None:
    to_hf(chat, tmp_path / "hf")
    to_internvl_chat(tmp_path / "hf", tmp_path / "back")
    assert _same(_tensors(chat), _tensors(tmp_path / "back"))
    before, after = _config(chat), _config(tmp_path / "back")
    for section, keys in (
        (
            None,
            "downsample_ratio dynamic_image_size force_image_size hidden_size max_dynamic_patch min_dynamic_patch model_type pad2square",
        ),
        (None, "ps_version select_layer system_message template tie_word_embeddings torch_dtype use_backbone_lora use_llm_lora"),
        ("vision_config", "hidden_size image_size patch_size intermediate_size num_hidden_layers num_attention_heads qkv_bias norm_type"),
        ("vision_config", "drop_path_rate dropout qk_normalization layer_norm_eps initializer_factor initializer_range use_flash_attn"),
        ("llm_config", "architectures hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads vocab_size"),
        ("llm_config", "rope_scaling rope_theta max_position_embeddings rms_norm_eps bos_token_id eos_token_id tie_word_embeddings"),
    ):
        old, new = (before[section], after[section]) if section else (before, after)
        assert {k: new.get(k) for k in keys.split()} == {k: old[k] for k in keys.split()}
    assert "auto_map" not in json.dumps(after)


def test_the_authors_checkpoint_loads_with_its_type_and_scaling(chat: Path, tmp_path: Path) -> None:
    to_hf(chat, tmp_path / "hf")
    model = _load(tmp_path / "hf")
    assert model.dtype == torch.bfloat16
    assert model.config.image_token_id == IMAGE_TOKEN
    assert model.config.image_seq_length == 4
    assert model.config.tie_word_embeddings is False
    assert model.lm_head.weight.data_ptr() != model.model.language_model.embed_tokens.weight.data_ptr()
    assert torch.equal(model.lm_head.weight, _tensors(chat)["language_model.lm_head.weight"])
    rope = model.config.text_config.rope_parameters
    assert (rope["rope_type"], rope["factor"], rope["rope_theta"]) == ("dynamic", 2.0, 5000.0)
    assert model.config.text_config.use_cache is True
    pixels = torch.randn(2, 3, SIDE, SIDE)
    with torch.no_grad():
        features = model.float().get_image_features(pixel_values=pixels, vision_feature_layer=-1).pooler_output
        expected = _authors_features({k: v.float() for k, v in _tensors(chat).items()}, pixels)
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-5)


def test_what_only_the_authors_know_survives_training(chat: Path, tmp_path: Path) -> None:
    _settle(chat, template="internvl3", max_dynamic_patch=6, vision_config__drop_path_rate=0.3)
    to_hf(chat, tmp_path / "hf")
    tuned = tmp_path / "tuned"
    _load(tmp_path / "hf").save_pretrained(tuned)
    AutoTokenizer.from_pretrained(tmp_path / "hf").save_pretrained(tuned)
    to_internvl_chat(tuned, tmp_path / "back")
    config = _config(tmp_path / "back")
    assert (config["template"], config["max_dynamic_patch"], config["vision_config"]["drop_path_rate"]) == ("internvl3", 6, 0.3)
    assert _same(_tensors(chat), _tensors(tmp_path / "back"))


def test_tile_limits_come_from_the_image_settings_where_the_config_has_none(hf: Path, tmp_path: Path) -> None:
    settings = {"image_processor": {"min_patches": 2, "max_patches": 5, "image_mean": MEAN}}
    (hf / "processor_config.json").write_text(json.dumps(settings))
    to_internvl_chat(hf, tmp_path / "out")
    config = _config(tmp_path / "out")
    assert (config["min_dynamic_patch"], config["max_dynamic_patch"]) == (2, 5)


def test_shards_in_and_out(hf: Path, tmp_path: Path) -> None:
    report = to_internvl_chat(hf, tmp_path / "chat", shard_bytes=20_000)
    assert len(report.shards) > 2
    sizes = [(tmp_path / "chat" / name).stat().st_size for name in report.shards]
    assert all(size < 20_000 + 8_000 for size in sizes)
    index = json.loads((tmp_path / "chat" / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == CHAT_SHAPES.keys()
    assert index["metadata"]["total_size"] == report.size
    # The parts of a fused matrix meet again from different shards.
    back = to_hf(tmp_path / "chat", tmp_path / "back", shard_bytes=1_000)
    assert len(back.shards) > 20
    to_internvl_chat(tmp_path / "back", tmp_path / "again")
    assert _same(_tensors(tmp_path / "chat"), _tensors(tmp_path / "again"))
    assert torch.equal(_logits(_load(tmp_path / "back")), _logits(_model()))


def test_each_tensor_keeps_its_type(chat: Path, tmp_path: Path) -> None:
    def mix(tensors: Tensors) -> None:
        tensors["mlp1.0.weight"] = tensors["mlp1.0.weight"].float()
        tensors["mlp1.1.weight"] = tensors["mlp1.1.weight"].half()

    _change(chat, mix)
    to_hf(chat, tmp_path / "hf")
    assert _tensors(tmp_path / "hf")["multi_modal_projector.layer_norm.weight"].dtype == torch.float32
    to_internvl_chat(tmp_path / "hf", tmp_path / "back")
    assert _same(_tensors(chat), _tensors(tmp_path / "back"))


def test_names_as_they_are_in_memory_are_understood(hf: Path, tmp_path: Path) -> None:
    state = {k: v.clone() for k, v in _model().state_dict().items()}
    assert "model.language_model.embed_tokens.weight" in state
    save_file(state, hf / "model.safetensors", metadata={"format": "pt"})
    to_internvl_chat(hf, tmp_path / "out")
    assert {k: tuple(v.shape) for k, v in _tensors(tmp_path / "out").items()} == CHAT_SHAPES


def test_memory_stays_at_a_buffer(hf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    whole = weight_files._read

    def watched(file: Any, size: int) -> bytes:
        read.append(size)
        return whole(file, size)

    monkeypatch.setattr(weight_files, "_BUFFER", 1000)
    monkeypatch.setattr(weight_files, "_read", watched)
    report = to_internvl_chat(hf, tmp_path / "out")
    assert max(read) == 1000
    assert sum(read) == report.size
    to_hf(tmp_path / "out", tmp_path / "back")
    assert _same(_tensors(hf), _tensors(tmp_path / "back"))


class TestTiedEmbeddings:
    def test_a_tied_model_without_its_output_matrix(self, chat: Path, tmp_path: Path) -> None:
        _change(chat, lambda t: t.pop("language_model.lm_head.weight"))
        _settle(chat, llm_config__tie_word_embeddings=True)
        to_hf(chat, tmp_path / "hf")
        model = _load(tmp_path / "hf")
        assert model.lm_head.weight.data_ptr() == model.model.language_model.embed_tokens.weight.data_ptr()
        to_internvl_chat(tmp_path / "hf", tmp_path / "back")
        assert _config(tmp_path / "back")["llm_config"]["tie_word_embeddings"] is True
        assert _same(_tensors(chat), _tensors(tmp_path / "back"))

    def test_untied_by_what_is_there_where_the_config_is_silent(self, hf: Path, tmp_path: Path) -> None:
        # So the first published conversions are: the class's default says True, and two different matrices are there.
        _settle(hf, tie_word_embeddings=..., text_config__tie_word_embeddings=...)
        to_internvl_chat(hf, tmp_path / "out")
        assert _config(tmp_path / "out")["llm_config"]["tie_word_embeddings"] is False
        assert "language_model.lm_head.weight" in _tensors(tmp_path / "out")

    def test_a_tied_model_that_stores_both(self, chat: Path, tmp_path: Path) -> None:
        _settle(chat, llm_config__tie_word_embeddings=True)
        embedding = "language_model.model.embed_tokens.weight"
        _change(chat, lambda t: t.update({"language_model.lm_head.weight": t[embedding].clone()}))
        to_hf(chat, tmp_path / "hf")
        assert _config(tmp_path / "hf")["tie_word_embeddings"] is True
        assert "language_model.lm_head.weight" in _tensors(tmp_path / "hf")

    def test_a_contradiction_is_refused(self, chat: Path, tmp_path: Path) -> None:
        _settle(chat, llm_config__tie_word_embeddings=True)
        with pytest.raises(InputError, match=r"tie_word_embeddings is true, and .*lm_head.* differs"):
            to_hf(chat, tmp_path / "out")

    def test_an_untied_model_without_its_output_matrix_is_refused(self, chat: Path, tmp_path: Path) -> None:
        _change(chat, lambda t: t.pop("language_model.lm_head.weight"))
        with pytest.raises(InputError, match=r"lacks language_model\.lm_head\.weight"):
            to_hf(chat, tmp_path / "out")


class TestSmallFiles:
    def test_the_tokenizer_gains_names_and_keeps_ids(self, chat: Path, tmp_path: Path) -> None:
        report = to_hf(chat, tmp_path / "hf")
        before = Qwen2Tokenizer.from_pretrained(chat)
        after = AutoTokenizer.from_pretrained(tmp_path / "hf")
        assert after.get_vocab() == before.get_vocab()
        assert (after.start_image_token, after.end_image_token) == ("<img>", "</img>")
        assert after.context_image_token_id == IMAGE_TOKEN
        assert after.convert_tokens_to_ids(after.video_token) == len(LETTERS) + SPECIAL.index("<|video_pad|>")
        assert "<quad>" in after.all_special_tokens
        assert len(after) <= VOCABULARY
        assert "auto_map" not in json.loads((tmp_path / "hf" / "tokenizer_config.json").read_text())
        assert set(report.copied) == {"vocab.json", "merges.txt", "README.md"}

    def test_code_is_left_behind(self, chat: Path, tmp_path: Path) -> None:
        (chat / "training_args.bin").write_bytes(b"")
        report = to_hf(chat, tmp_path / "hf")
        assert report.left_out == ("modeling_internvl_chat.py", "training_args.bin")
        assert not list((tmp_path / "hf").glob("*.py"))

    def test_the_prompt_template_learns_images(self, chat: Path, tmp_path: Path) -> None:
        report = to_hf(chat, tmp_path / "hf")
        assert any("chat template knew no images" in note for note in report.notes)
        messages: Any = [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "ab"}]},
            {"role": "assistant", "content": "cd"},
        ]
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hf")
        prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        turns = "<|im_start|>user\n<IMG_CONTEXT>\nab<|im_end|>\n<|im_start|>assistant\ncd<|im_end|>\n<|im_start|>assistant\n"
        assert prompt == turns
        to_internvl_chat(tmp_path / "hf", tmp_path / "back")
        prompt = Qwen2Tokenizer.from_pretrained(tmp_path / "back").apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert prompt == turns.replace("<IMG_CONTEXT>", "<image>")

    def test_a_template_with_images_keeps_its_words(self, chat: Path, tmp_path: Path) -> None:
        path = chat / "tokenizer_config.json"
        values = json.loads(path.read_text())
        template = "S{% for m in messages %}{{ '<image>' if m.content is not string else m.content }}{% endfor %}"
        values["chat_template"] = [{"name": "default", "template": template}, {"name": "tools", "template": "x"}]
        path.write_text(json.dumps(values))
        report = to_hf(chat, tmp_path / "hf")
        assert (tmp_path / "hf" / "chat_template.jinja").read_text() == template.replace("<image>", "<IMG_CONTEXT>")
        assert report.notes == ("of several chat templates only the default one went over",)

    def test_answers_end_with_the_turn(self, chat: Path, tmp_path: Path) -> None:
        to_hf(chat, tmp_path / "hf")
        end = len(LETTERS) + SPECIAL.index("<|im_end|>")
        assert GenerationConfig.from_pretrained(tmp_path / "hf").eos_token_id == [16, end]
        (chat / "generation_config.json").unlink()
        to_hf(chat, tmp_path / "bare")
        assert GenerationConfig.from_pretrained(tmp_path / "bare").eos_token_id == [16, end]

    def test_images_are_prepared_as_the_authors_do(self, chat: Path, tmp_path: Path) -> None:
        to_hf(chat, tmp_path / "hf")
        processor = AutoImageProcessor.from_pretrained(tmp_path / "hf")  # type: ignore[no-untyped-call]
        assert (list(processor.image_mean), list(processor.image_std)) == (MEAN, STD)
        assert (processor.size["height"], processor.size["width"]) == (SIDE, SIDE)
        assert (processor.crop_to_patches, processor.min_patches, processor.max_patches) == (True, 1, 12)
        values = json.loads((tmp_path / "hf" / "processor_config.json").read_text())
        assert values == {"image_seq_length": 4, "processor_class": "InternVLProcessor"}

    def test_out_again_the_tokenizer_is_what_old_releases_read(self, chat: Path, tmp_path: Path) -> None:
        to_hf(chat, tmp_path / "hf")
        tuned = shutil.copytree(tmp_path / "hf", tmp_path / "tuned")
        for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
            (tuned / name).unlink()
        AutoTokenizer.from_pretrained(tmp_path / "hf").save_pretrained(tuned)
        assert (tuned / "tokenizer.json").is_file()
        to_internvl_chat(tuned, tmp_path / "back")
        values = json.loads((tmp_path / "back" / "tokenizer_config.json").read_text())
        assert values["tokenizer_class"] == "Qwen2Tokenizer"
        assert not {"start_image_token", "context_image_token", "video_token", "extra_special_tokens"} & values.keys()
        assert "<quad>" in values["additional_special_tokens"]
        assert values["added_tokens_decoder"][str(IMAGE_TOKEN)]["content"] == "<IMG_CONTEXT>"
        assert json.loads((tmp_path / "back" / "vocab.json").read_text()).items() >= {"a": 0, "p": 15}.items()
        assert (tmp_path / "back" / "merges.txt").read_text() == "#version: 0.2\n"
        assert not (tmp_path / "back" / "preprocessor_config.json").exists()

    def test_the_new_name_of_the_generic_tokenizer_is_undone(self, hf: Path, tmp_path: Path) -> None:
        path = hf / "tokenizer_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "tokenizer_class": "TokenizersBackend"}))
        to_internvl_chat(hf, tmp_path / "out")
        assert json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"

    def test_a_tokenizer_without_videos_says_so(self, chat: Path, tmp_path: Path) -> None:
        path = chat / "tokenizer_config.json"
        path.write_text(path.read_text().replace("<|video_pad|>", "<other>"))
        assert any("<video>" in note for note in to_hf(chat, tmp_path / "hf").notes)

    def test_other_image_statistics_are_refused(self, hf: Path, tmp_path: Path) -> None:
        (hf / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5, 0.5]}')
        with pytest.raises(InputError, match=r"image_mean is \[0\.5, 0\.5, 0\.5\]"):
            to_internvl_chat(hf, tmp_path / "out")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda f: (f / "tokenizer_config.json").unlink(), "no tokenizer_config.json"),
            (lambda f: (f / "tokenizer_config.json").write_text("{}"), "has no <img>"),
            (lambda f: (f / "tokenizer_config.json").write_text("{"), "is not JSON"),
            (lambda f: (f / "added_tokens.json").write_text('{"<img>": 3}'), "gives '<img>' the id"),
            (lambda f: (f / "added_tokens.json").write_text('{"x": "y"}'), "gives 'x' the id 'y'"),
        ],
    )
    def test_a_broken_tokenizer_is_refused(self, chat: Path, tmp_path: Path, change: Callable[[Path], object], message: str) -> None:
        change(chat)
        with pytest.raises(InputError, match=re.escape(message)):
            to_hf(chat, tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ps_version": "v1"}, "ps_version is 'v1'"),
        ({"ps_version": ...}, "ps_version is 'v1'"),
        ({"select_layer": -4}, "select_layer is -4"),
        ({"pad2square": True}, "pad2square is True"),
        ({"use_llm_lora": 16}, "use_llm_lora is 16, and only 0 converts: merge the LoRA"),
        ({"use_backbone_lora": 8}, "use_backbone_lora is 8"),
        ({"downsample_ratio": 0.3}, "downsample_ratio is 0.3"),
        ({"downsample_ratio": "half"}, "downsample_ratio is 'half'"),
        ({"force_image_size": 448}, "force_image_size is 448"),
        ({"hidden_size": [1]}, "hidden_size is [1]"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is {'bits': 4}"),
        ({"new_trick": 1}, "new_trick is 1, a setting that this conversion does not know"),
        ({"vision_config": None}, "vision_config is None"),
        ({"llm_config": ...}, "llm_config is None"),
        ({"llm_config__architectures": ["InternLM2ForCausalLM"]}, "llm_config.architectures is ['InternLM2ForCausalLM']"),
        ({"llm_config__architectures": ["Qwen3ForCausalLM"]}, "llm_config.architectures is ['Qwen3ForCausalLM']"),
        ({"llm_config__model_type": "llama"}, "llm_config.model_type is 'llama'"),
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
        ({"vision_config__qk_normalization": True}, "vision_config.qk_normalization is True, and only False converts: InternViT-6B"),
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
    _settle(chat, **change)
    with pytest.raises(InputError, match=re.escape(message)):
        to_hf(chat, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vision_feature_layer": -2}, "vision_feature_layer is -2"),
        ({"vision_feature_select_strategy": "full"}, "vision_feature_select_strategy is 'full'"),
        ({"projector_hidden_act": "relu"}, "projector_hidden_act is 'relu'"),
        ({"image_token_id": 3}, "image_token_id is 3, and the tokenizer's <IMG_CONTEXT> is 22"),
        ({"image_token_id": "x"}, "image_token_id is 'x'"),
        ({"internvl_chat": {"auto_map": {}, "code": "x"}}, "internvl_chat.code is 'x'"),
        ({"internvl_chat": [1]}, "internvl_chat is [1]"),
        ({"new_trick": 1}, "new_trick is 1"),
        ({"text_config__model_type": "qwen3"}, "text_config.model_type is 'qwen3'"),
        ({"vision_config__use_qk_norm": True}, "vision_config.use_qk_norm is True"),
        ({"vision_config__norm_type": "rms_norm"}, "vision_config.norm_type is 'rms_norm'"),
        ({"vision_config__use_mean_pooling": False}, "vision_config.use_mean_pooling is False"),
        ({"vision_config__use_absolute_position_embeddings": False}, "vision_config.use_absolute_position_embeddings is False"),
        ({"vision_config__image_size": [28, 14]}, "vision_config.image_size is [28, 14]"),
        ({"vision_config__hidden_dropout_prob": 0.1}, "vision_config.hidden_dropout_prob is 0.1"),
    ],
)
def test_settings_of_transformers_that_do_not_convert(hf: Path, tmp_path: Path, change: Config, message: str) -> None:
    _settle(hf, **change)
    with pytest.raises(InputError, match=re.escape(message)):
        to_internvl_chat(hf, tmp_path / "out")


def test_an_image_token_behind_the_embedding_is_refused(chat: Path, tmp_path: Path) -> None:
    _settle(chat, llm_config__vocab_size=20)
    with pytest.raises(InputError, match="behind the 20 rows of the embedding"):
        to_hf(chat, tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("mlp1.3.bias"), "lacks mlp1.3.bias, which a model of this configuration has"),
        (lambda t: [t.pop(k) for k in list(t) if ".layers.1.norm" in k], "and 1 more tensors"),
        (lambda t: t.update({"mlp1.4.weight": torch.ones(1)}), "holds mlp1.4.weight, which this conversion knows no place for"),
        (lambda t: t.update({"vision_model.encoder.layers.0.attn.q_norm.weight": torch.ones(16)}), "attn.q_norm.weight"),
        (lambda t: t.update({"mlp1.3.bias": torch.ones(31)}), "mlp1.3.bias is of shape [31], and by config.json it is [32]"),
        (lambda t: t.update({"mlp1.3.bias": torch.ones(32, dtype=torch.int8)}), "mlp1.3.bias is of type I8"),
    ],
)
def test_every_tensor_is_accounted_for(chat: Path, tmp_path: Path, change: Callable[[Tensors], object], message: str) -> None:
    _change(chat, change)
    with pytest.raises(InputError, match=re.escape(message)):
        to_hf(chat, tmp_path / "out")


def test_parts_of_a_fused_tensor_agree_in_shape_type_and_number(hf: Path, tmp_path: Path) -> None:
    name = "vision_tower.encoder.layer.1.attention.k_proj.weight"
    original = _tensors(hf)[name]
    for value, message in ((original.half(), f"{name} is F16"), (original[:8].contiguous(), f"{name} is of shape [8, 16]")):
        _change(hf, lambda t, v=value: t.update({name: v}))  # type: ignore[misc]
        with pytest.raises(InputError, match=re.escape(message)):
            to_internvl_chat(hf, tmp_path / "out")
    _change(hf, lambda t: t.update({name: original, "model." + name: original.clone()}))
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
        (lambda f: _rewrite_index(f, lambda m: m.pop("mlp1.0.bias")), "the index does not know it"),
        (
            lambda f: _rewrite_index(f, lambda m: m.update({"mlp1.0.bias": "model-00001-of-00007.safetensors"})),
            "the index places it in model-00001-of-00007.safetensors",
        ),
        (lambda f: _rewrite_index(f, lambda m: m.update({"x": m["mlp1.0.bias"]})), "places x in model-"),
        (lambda f: _rewrite_index(f, lambda m: m.update({"x": "../../secret.safetensors"})), "'../../secret.safetensors'"),
        (lambda f: _rewrite_index(f, lambda m: m.update({"x": "pytorch_model.bin"})), "'pytorch_model.bin'"),
        (lambda f: _index(f).write_text("{}"), "has no weight_map"),
        (lambda f: _index(f).write_text("[]"), "holds no JSON object"),
        (lambda f: next(f.glob("*2-of*")).write_bytes(next(f.glob("*2-of*")).read_bytes()[:-1]), "is no whole safetensors file"),
        (lambda f: next(f.glob("*2-of*")).write_bytes(b""), "is no whole safetensors file"),
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
        (["pytorch_model.bin"], "pickled weights only (pytorch_model.bin)"),
        (["pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json"], "pickled weights only"),
        (["adapter_config.json", "adapter_model.safetensors"], "holds an adapter (adapter_config.json)"),
        (["model-00001-of-00002.safetensors"], "neither model.safetensors nor"),
        ([], "holds no model.safetensors"),
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
    with pytest.raises(InputError, match="is no folder"):
        detect(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"has no config\.json"):
        detect(tmp_path)
    for kind in ("llava", None, ["internvl"]):
        _settle(hf, model_type=kind)
        with pytest.raises(InputError, match="model_type is"):
            detect(hf)


def test_the_wrong_direction_is_refused(hf: Path, chat: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is in the layout hf already"):
        to_hf(hf, tmp_path / "out")
    with pytest.raises(InputError, match="is in the layout internvl_chat already"):
        to_internvl_chat(chat, tmp_path / "out")


class TestWriting:
    def test_an_empty_folder_is_taken_and_a_full_one_refused(self, chat: Path, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        to_hf(chat, tmp_path / "empty")
        assert detect(tmp_path / "empty") == "hf"
        before = {p.name: p.read_bytes() for p in chat.iterdir()}
        for out in (tmp_path / "empty", chat, chat / "config.json"):
            with pytest.raises(InputError, match="is there already"):
                to_hf(chat, out)
        assert {p.name: p.read_bytes() for p in chat.iterdir()} == before

    def test_folders_on_the_way_are_made(self, chat: Path, tmp_path: Path) -> None:
        to_hf(chat, tmp_path / "a" / "b")
        assert detect(tmp_path / "a" / "b") == "hf"

    def test_a_full_disk_leaves_nothing(self, chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(weight_files, "_copy", full)
        with pytest.raises(DiskError, match="no space left on its disk"):
            to_hf(chat, tmp_path / "place" / "out")
        assert list((tmp_path / "place").iterdir()) == []

    def test_too_small_a_disk_is_said_before(self, chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
        with pytest.raises(DiskError, match=r"0\.00 GB free"):
            to_hf(chat, tmp_path / "out")

    def test_an_interrupt_leaves_nothing(self, chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(weight_files, "_copy", interrupted)
        with pytest.raises(KeyboardInterrupt):
            to_hf(chat, tmp_path / "place" / "out")
        assert list((tmp_path / "place").iterdir()) == []

    def test_an_unwritable_place_is_the_users_to_mend(self, chat: Path, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(InputError, match="was not written"):
            to_hf(chat, tmp_path / "file" / "out")

    def test_a_source_that_shrinks_is_noticed(self, chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = weight_files.find_weights

        def shrinking(folder: Path) -> Any:
            found = whole(folder)
            path = folder / "model.safetensors"
            path.write_bytes(path.read_bytes()[:-100])
            return found

        monkeypatch.setattr(convert, "find_weights", shrinking)
        with pytest.raises(InputError, match="ended early"):
            to_hf(chat, tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_the_published_sizes_give_the_published_numbers_of_parameters() -> None:
    from chiron.training.weight_names import weights

    counts = []
    for hidden, mlp, heads, groups in ((1536, 8960, 12, 2), (3584, 18944, 28, 4)):
        config = _published_config()
        config.update(force_image_size=448, hidden_size=hidden)
        config["vision_config"].update(
            hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096, image_size=448, patch_size=14
        )
        config["llm_config"].update(
            hidden_size=hidden,
            intermediate_size=mlp,
            num_attention_heads=heads,
            num_key_value_heads=groups,
            num_hidden_layers=28,
            vocab_size=151674,
        )
        settings = read_chat(config)
        assert write_hf(settings, image_token_id=151667, tied=False)["image_seq_length"] == 256
        shapes = (weight.shape for weight in weights(settings.dimensions(head=True)))
        counts.append(round(sum(torch.Size(shape).numel() for shape in shapes) / 1e6, 1))
    assert counts == [2089.0, 7944.4]


class TestCommand:
    def _run(self, *arguments: object) -> Any:
        import typer

        app = typer.Typer()
        app.command()(cli.command)
        return CliRunner().invoke(app, [str(a) for a in arguments])

    def test_the_direction_is_found(self, chat: Path, tmp_path: Path) -> None:
        result = self._run(chat, tmp_path / "hf")
        assert result.exit_code == 0
        assert result.stdout.count("\n") == 1
        assert "in the layout hf: 61 tensors" in result.stdout
        assert "left out: modeling_internvl_chat.py" in result.stdout
        result = self._run(tmp_path / "hf", tmp_path / "back", "--to", "internvl_chat")
        assert "in the layout internvl_chat: 53 tensors" in result.stdout
        assert _same(_tensors(chat), _tensors(tmp_path / "back"))

    def test_the_layout_it_has_is_refused(self, chat: Path, tmp_path: Path) -> None:
        result = self._run(chat, tmp_path / "out", "--to", "internvl_chat")
        assert isinstance(result.exception, InputError)
        assert "already" in str(result.exception)


def test_a_report_is_frozen(chat: Path, tmp_path: Path) -> None:
    report = to_hf(chat, tmp_path / "out")
    assert isinstance(report, ConversionReport)
    with pytest.raises(AttributeError):
        report.tensors = 0  # type: ignore[misc]
