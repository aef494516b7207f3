"""Checkpoints of both layouts, made small, and what the authors' code computes of their weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    Qwen2Config,
    Qwen3Config,
)
from transformers.utils import logging as transformers_logging

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


def tiny_internvl(language: type[Qwen2Config | Qwen3Config] = Qwen2Config) -> InternVLForConditionalGeneration:
    torch.manual_seed(0)
    # Wider heads than their share of the hidden size, as published.
    of_its_own: dict[str, Any] = {"head_dim": 12} if language is Qwen3Config else {}
    text = language(
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
        **of_its_own,
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


def write_tokenizer(folder: Path) -> None:
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


def settle(folder: Path, **changes: Any) -> None:
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


def change_weights(folder: Path, change: Callable[[Tensors], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def tensors_of(folder: Path) -> Tensors:
    found: Tensors = {}
    for file in sorted(folder.glob("*.safetensors")):
        found.update(load_file(file))
    return found


def same(one: Tensors, other: Tensors) -> bool:
    return one.keys() == other.keys() and all(
        one[k].dtype == other[k].dtype and one[k].shape == other[k].shape and torch.equal(one[k], other[k]) for k in one
    )


def config_of(folder: Path) -> Config:
    value: Config = json.loads((folder / "config.json").read_text())
    return value


def published_config() -> Config:
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


def authors_features(w: Tensors, pixels: torch.Tensor) -> torch.Tensor:
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


def logits_of(model: InternVLForConditionalGeneration) -> torch.Tensor:
    pixels = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2)).to(model.dtype)
    ids = torch.tensor([[1, 2, *[IMAGE_TOKEN] * 4, 3, 4, 5, 6, 7, 8, 9, 10]])
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=ids, pixel_values=pixels, attention_mask=torch.ones_like(ids)).logits
    return logits


def load_model(folder: Path) -> Any:
    from_pretrained: Any = InternVLForConditionalGeneration.from_pretrained
    model, info = from_pretrained(folder, output_loading_info=True, dtype="auto")
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return model.eval()
