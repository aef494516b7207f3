"""Read and write ``config.json`` in the authors' layout and in transformers'.

Every key is either converted, checked to have the only value that both layouts support, or known not to affect the model. Any other key is
an error, because a lost setting would give a model that runs but computes something else.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from chiron.errors import InputError

Layout = Literal["internvl_chat", "hf"]
KEPT = "internvl_chat"
"""Key in transformers' ``config.json`` that stores the settings only the authors' code uses, so that they survive a round trip."""

# (authors' key, transformers' key, authors' default, transformers' default). An absent key has the default of its class.
_VISION: tuple[tuple[str, str, Any, Any], ...] = (
    ("hidden_size", "hidden_size", 3200, 1024),
    ("num_hidden_layers", "num_hidden_layers", 48, 24),
    ("num_attention_heads", "num_attention_heads", 25, 16),
    ("intermediate_size", "intermediate_size", 12800, 4096),
    ("image_size", "image_size", 224, 448),
    ("patch_size", "patch_size", 14, 14),
    ("num_channels", "num_channels", 3, 3),
    ("hidden_act", "hidden_act", "gelu", "gelu"),
    ("layer_norm_eps", "layer_norm_eps", 1e-6, 1e-6),
    ("qkv_bias", "attention_bias", False, False),
    ("attention_dropout", "attention_dropout", 0.0, 0.0),
    ("dropout", "projection_dropout", 0.0, 0.0),
    ("initializer_range", "initializer_range", 0.02, 0.02),
    ("initializer_factor", "layer_scale_init_value", 0.1, 0.1),
)
_TEXT: dict[str, Any] = {
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "hidden_act": "silu",
    "max_position_embeddings": 32768,
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-6,
    "attention_dropout": 0.0,
    "sliding_window": 4096,
    "max_window_layers": 28,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
# (default if the key is absent, the only value that can be converted).
_CHAT_FIXED = {
    "model_type": ("internvl_chat", "internvl_chat"),
    "ps_version": ("v1", "v2"),
    "select_layer": (-1, -1),
    "pad2square": (False, False),
    "use_backbone_lora": (0, 0),
    "use_llm_lora": (0, 0),
}
_CHAT_VISION_FIXED = {
    "model_type": ("intern_vit_6b", "intern_vit_6b"),
    "norm_type": ("rms_norm", "layer_norm"),
    "qk_normalization": (True, False),
    "use_moe": (False, False),
}
_HF_FIXED = {
    "model_type": ("internvl", "internvl"),
    "vision_feature_layer": (-1, -1),
    "vision_feature_select_strategy": ("default", "default"),
    "projector_hidden_act": ("gelu", "gelu"),
}
_HF_VISION_FIXED = {
    "model_type": ("internvl_vision", "internvl_vision"),
    "norm_type": ("layer_norm", "layer_norm"),
    "use_qk_norm": (False, False),
    "use_mask_token": (False, False),
    "use_absolute_position_embeddings": (True, True),
    "use_mean_pooling": (True, True),
    "hidden_dropout_prob": (0.0, 0.0),
}
_TEXT_FIXED = {"use_sliding_window": (False, False)}
_ARCHITECTURES = {"qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
"""Language models: of InternVL3, and of InternVL3.5."""
_KEPT_DEFAULTS = {
    "template": "internvl2_5",
    "system_message": None,
    "dynamic_image_size": True,
    "use_thumbnail": True,
    "min_dynamic_patch": 1,
    "max_dynamic_patch": 12,
}
_KEPT_VISION_DEFAULTS = {"drop_path_rate": 0.0, "use_flash_attn": True}
# Leftover mixture-of-experts keys in the authors' vision configuration; InternViT-300M does not use them.
_MOE = """capacity_factor eval_capacity_factor laux_allreduce moe_coeff_ratio moe_intermediate_size moe_output_scale noisy_gate_policy
    num_experts num_routed_experts num_shared_experts shared_expert_intermediate_size use_residual use_rts use_weighted_residual"""
# Keys that transformers' configuration classes have written but no layer reads: bookkeeping and defaults for generate().
_SILENT = frozenset(
    """_name_or_path _commit_hash _attn_implementation_autoset _attn_implementation attn_implementation _experts_implementation
    transformers_version architectures auto_map torch_dtype dtype use_bfloat16 torchscript return_dict output_attentions
    output_hidden_states use_cache chunk_size_feed_forward is_encoder_decoder is_decoder is_composition add_cross_attention
    cross_attention_hidden_size tie_encoder_decoder finetuning_task id2label label2id num_labels tokenizer_class prefix bos_token_id
    pad_token_id eos_token_id sep_token_id decoder_start_token_id task_specific_params problem_type tf_legacy_loss pruned_heads max_length
    min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty temperature top_k top_p typical_p repetition_penalty
    length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids num_return_sequences output_scores
    return_dict_in_generate forced_bos_token_id forced_eos_token_id remove_invalid_values exponential_decay_length_penalty suppress_tokens
    begin_suppress_tokens""".split()
)
_ROPES = ("default", "linear", "dynamic", "yarn", "longrope", "llama3")
_HINTS = {
    "use_llm_lora": "merge the LoRA with the authors' tools/merge_lora.py first",
    "use_backbone_lora": "merge the LoRA with the authors' tools/merge_lora.py first",
    "ps_version": "v1 transposes the image, which transformers' InternVL does not support",
    "qk_normalization": "InternViT-6B is not supported, InternViT-300M is",
    "norm_type": "InternViT-6B is not supported, InternViT-300M is",
}
_MOST_LAYERS = 1000


@dataclass(frozen=True)
class Settings:
    """Model configuration, independent of the layout."""

    vision: Mapping[str, Any]
    """Settings of the vision tower, under the authors' keys; sizes are single numbers."""
    text: Mapping[str, Any]
    """Settings of the language model, under the keys that both layouts share."""
    rope_theta: float
    rope_scaling: Mapping[str, Any] | None
    downsample_ratio: float
    """Side of the feature map after the pixel shuffle, divided by the side before; 1/n for an integer n."""
    tied: bool
    """Whether the output matrix is tied to the embedding."""
    sure_tied: bool
    """Whether ``tied`` is set explicitly in the source, not by a default that some readers override."""
    dtype: str | None
    image_token_id: int | None
    """None if the layout leaves it to the tokenizer."""
    kept: Mapping[str, Any]
    """Settings that only the authors' code uses: prompt template, tiling, drop path."""

    @property
    def grid(self) -> int:
        """Number of patches along a tile's side."""
        return int(self.vision["image_size"]) // int(self.vision["patch_size"])

    @property
    def tokens_a_tile(self) -> int:
        """Number of image tokens per tile."""
        return (self.grid // self.shuffle) ** 2

    @property
    def shuffle(self) -> int:
        """Number of patches, along a side, that become one image token."""
        return round(1 / self.downsample_ratio)

    @property
    def sizes(self) -> dict[str, int]:
        """Sizes that determine the shapes of the weights, under the names of :mod:`chiron.convert.weights`."""
        vision, text = self.vision, self.text
        width, head_width = vision["hidden_size"], text.get("head_dim", text["hidden_size"] // text["num_attention_heads"])
        return {
            "vision": width,
            "vision_layers": vision["num_hidden_layers"],
            "vision_mlp": vision["intermediate_size"],
            "channels": vision["num_channels"],
            "patch": vision["patch_size"],
            "positions": self.grid**2 + 1,
            "qkv": 3 * width,
            "shuffled": width * self.shuffle**2,
            "text": text["hidden_size"],
            "text_layers": text["num_hidden_layers"],
            "text_mlp": text["intermediate_size"],
            "query": text["num_attention_heads"] * head_width,
            "key": text["num_key_value_heads"] * head_width,
            "head": head_width,
            "vocabulary": text["vocab_size"],
        }


def read_chat(config: Mapping[str, Any]) -> Settings:
    """Read the authors' ``config.json``.

    Raises:
        InputError: A key is unknown, missing or has a value that cannot be converted. The message names key and value.
    """
    known = {"vision_config", "llm_config", "downsample_ratio", "force_image_size", "tie_word_embeddings", "hidden_size"}
    _check(config, "", _CHAT_FIXED, known | _KEPT_DEFAULTS.keys())
    vision_config, llm_config = _section(config, "vision_config"), _section(config, "llm_config")
    _check(
        vision_config,
        "vision_config.",
        _CHAT_VISION_FIXED,
        {chat for chat, *_ in _VISION} | _KEPT_VISION_DEFAULTS.keys() | set(_MOE.split()) | {"tie_word_embeddings"},
    )
    vision = {chat: vision_config.get(chat, default) for chat, _, default, _ in _VISION}
    text, theta, scaling = _read_text(llm_config, "llm_config.")
    architectures, wanted = llm_config.get("architectures"), [_ARCHITECTURES[text["model_type"]]]
    if architectures != wanted:
        raise _refusal("llm_config.architectures", architectures, wanted)
    if config.get("force_image_size") not in (None, 0, vision["image_size"]):
        raise _refusal("force_image_size", config["force_image_size"], vision["image_size"])
    if config.get("hidden_size") not in (None, text["hidden_size"]):
        raise _refusal("hidden_size", config["hidden_size"], text["hidden_size"])
    tied = bool(llm_config.get("tie_word_embeddings", False))
    kept: dict[str, Any] = {k: config[k] for k in _KEPT_DEFAULTS if k in config}
    kept["vision_config"] = {k: vision_config[k] for k in _KEPT_VISION_DEFAULTS if k in vision_config}
    return _checked(
        Settings(
            vision=vision,
            text=text,
            rope_theta=theta,
            rope_scaling=scaling,
            downsample_ratio=config.get("downsample_ratio", 0.5),
            tied=tied,
            sure_tied=tied,
            dtype=_dtype(config, llm_config),
            image_token_id=None,
            kept=kept,
        ),
        ("vision_config.", "llm_config."),
    )


def read_hf(config: Mapping[str, Any]) -> Settings:
    """Read the ``config.json`` of transformers' ``InternVLForConditionalGeneration``.

    Raises:
        InputError: A key is unknown, missing or has a value that cannot be converted. The message names key and value.
    """
    known = {"vision_config", "text_config", "downsample_ratio", "image_token_id", "image_seq_length", "tie_word_embeddings", KEPT}
    _check(config, "", _HF_FIXED, known)
    vision_config, text_config = _section(config, "vision_config"), _section(config, "text_config")
    _check(vision_config, "vision_config.", _HF_VISION_FIXED, {hf for _, hf, *_ in _VISION} | {"tie_word_embeddings"})
    vision = {chat: vision_config.get(hf, default) for chat, hf, _, default in _VISION}
    for key in ("image_size", "patch_size"):
        vision[key] = _side(vision[key], f"vision_config.{key}")
    text, theta, scaling = _read_text(text_config, "text_config.")
    kept = config.get(KEPT) or {}
    if not isinstance(kept, dict) or not isinstance(kept.get("vision_config", {}), dict):
        raise _refusal(KEPT, kept, "an object")
    _check(kept, f"{KEPT}.", {}, _KEPT_DEFAULTS.keys() | {"vision_config"})
    _check(kept.get("vision_config", {}), f"{KEPT}.vision_config.", {}, _KEPT_VISION_DEFAULTS.keys())
    # Readers differ on which of the two keys counts and on the defaults. They untie the weights if both are stored and differ.
    outer, inner = config.get("tie_word_embeddings"), text_config.get("tie_word_embeddings")
    return _checked(
        Settings(
            vision=vision,
            text=text,
            rope_theta=theta,
            rope_scaling=scaling,
            downsample_ratio=config.get("downsample_ratio", 0.5),
            tied=outer is not False,
            sure_tied=outer is True and inner is True,
            dtype=_dtype(config, text_config),
            image_token_id=_count(config.get("image_token_id", 151667), "image_token_id", least=0),
            kept=kept,
        ),
        ("vision_config.", "text_config."),
    )


def write_hf(settings: Settings, *, image_token_id: int, tied: bool) -> dict[str, Any]:
    """Create transformers' configuration, with keys that releases 4.52 to 5.x all read."""
    vision: dict[str, Any] = {hf: settings.vision[chat] for chat, hf, _, _ in _VISION}
    for key in ("image_size", "patch_size"):
        vision[key] = [vision[key], vision[key]]
    return {
        "architectures": ["InternVLForConditionalGeneration"],
        **_fixed(_HF_FIXED),
        "downsample_ratio": settings.downsample_ratio,
        "image_seq_length": settings.tokens_a_tile,
        "image_token_id": image_token_id,
        # Set at both levels: the default of the class is True, which would replace the output matrix by the embedding.
        "tie_word_embeddings": tied,
        **_maybe_dtype(settings),
        # Training turns the cache off itself. If it were off here, generate() would recompute every prefix.
        "text_config": {**_write_text(settings), "tie_word_embeddings": tied, "use_cache": True},
        "vision_config": {"architectures": ["InternVLVisionModel"], **_fixed(_HF_VISION_FIXED), **vision},
        KEPT: {**settings.kept},
    }


def write_chat(settings: Settings, *, tied: bool) -> dict[str, Any]:
    """Create the authors' configuration. It does not refer to remote code (no ``auto_map``)."""
    kept_vision = {**_KEPT_VISION_DEFAULTS, **settings.kept.get("vision_config", {})}
    return {
        "architectures": ["InternVLChatModel"],
        **_fixed(_CHAT_FIXED),
        **_KEPT_DEFAULTS,
        **{k: v for k, v in settings.kept.items() if k != "vision_config"},
        "downsample_ratio": settings.downsample_ratio,
        "force_image_size": settings.vision["image_size"],
        "hidden_size": settings.text["hidden_size"],
        "tie_word_embeddings": tied,
        **_maybe_dtype(settings),
        "llm_config": {**_write_text(settings), "tie_word_embeddings": tied},
        "vision_config": {"architectures": ["InternVisionModel"], **_fixed(_CHAT_VISION_FIXED), **settings.vision, **kept_vision},
    }


def _refusal(key: str, value: Any, wanted: Any) -> InputError:
    hint = _HINTS.get(key.rpartition(".")[2])
    return InputError(f"config.json: {key} is {value!r}, but only {wanted!r} can be converted" + (f": {hint}" if hint else ""))


def _check(section: Mapping[str, Any], where: str, fixed: Mapping[str, tuple[Any, Any]], known: Iterable[str]) -> None:
    for key, (default, wanted) in fixed.items():
        value = section.get(key, default)
        # Configurations use booleans and 0/1 for the same setting; in Python, True == 1 and False == 0.
        if value != wanted:
            raise _refusal(f"{where}{key}", value, wanted)
    allowed = _SILENT | fixed.keys() | set(known)
    for key, value in section.items():
        if key not in allowed and value is not None:
            raise InputError(
                f"config.json: {where}{key} is {value!r}, an unknown setting that may change the model: remove it if it does not"
            )


def _section(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    section = config.get(key)
    if not isinstance(section, dict):
        raise _refusal(key, section, "an object of settings")
    return section


def _read_text(section: Mapping[str, Any], where: str) -> tuple[dict[str, Any], float, dict[str, Any] | None]:
    ropes = {"rope_theta", "rope_scaling", "rope_parameters"}
    if (model_type := section.get("model_type", "qwen2")) not in _ARCHITECTURES:
        raise _refusal(f"{where}model_type", model_type, list(_ARCHITECTURES))
    fixed = _TEXT_FIXED | ({"attention_bias": (False, False)} if model_type == "qwen3" else {})
    _check(section, where, fixed, _TEXT.keys() | ropes | {"model_type", "layer_types", "tie_word_embeddings", "head_dim"})
    text = {"model_type": model_type, **{key: section.get(key, default) for key, default in _TEXT.items()}}
    if text["num_key_value_heads"] is None:
        text["num_key_value_heads"] = text["num_attention_heads"]
    if any(kind != "full_attention" for kind in section.get("layer_types") or []):
        raise _refusal(f"{where}layer_types", section["layer_types"], "full_attention in every layer")
    for key in ("num_attention_heads", "hidden_size"):
        _count(text[key], where + key)
    width = text["hidden_size"] // text["num_attention_heads"]
    if model_type == "qwen3":
        text["head_dim"] = _count(section.get("head_dim", 128), f"{where}head_dim")
    elif section.get("head_dim") not in (None, width):
        raise _refusal(f"{where}head_dim", section["head_dim"], width)
    rope = section.get("rope_parameters") or section.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise _refusal(f"{where}rope_scaling", rope, "an object or null")
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind not in _ROPES or "mrope_section" in rope or rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise _refusal(f"{where}rope_scaling", rope, f"one of {', '.join(_ROPES)} over whole heads")
    theta = rope.get("rope_theta", section.get("rope_theta", 10000.0))
    rest = {k: v for k, v in rope.items() if k not in {"rope_theta", "type", "rope_type", "partial_rotary_factor"}}
    # Old releases read the type from "type", newer ones from "rope_type".
    scaling = None if kind == "default" else {**rest, "rope_type": kind, "type": kind}
    return text, theta, scaling


def _write_text(settings: Settings) -> dict[str, Any]:
    model_type = settings.text["model_type"]
    return {
        "architectures": [_ARCHITECTURES[model_type]],
        "model_type": model_type,
        **({"attention_bias": False} if model_type == "qwen3" else {}),
        **_fixed(_TEXT_FIXED),
        **settings.text,
        "rope_theta": settings.rope_theta,
        "rope_scaling": dict(settings.rope_scaling) if settings.rope_scaling else None,
        **_maybe_dtype(settings),
    }


def _fixed(fixed: Mapping[str, tuple[Any, Any]]) -> dict[str, Any]:
    return {key: wanted for key, (_, wanted) in fixed.items()}


def _dtype(*sections: Mapping[str, Any]) -> str | None:
    for section in sections:
        for key in ("dtype", "torch_dtype"):
            if isinstance(value := section.get(key), str):
                return value
    return None


def _maybe_dtype(settings: Settings) -> dict[str, str]:
    return {} if settings.dtype is None else {"torch_dtype": settings.dtype}


def _side(value: Any, key: str) -> Any:
    if isinstance(value, list):
        if len(value) != 2 or value[0] != value[1]:
            raise _refusal(key, value, "a square")
        return value[0]
    return value


def _count(value: Any, key: str, *, least: int = 1, most: int | None = None) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least or (most is not None and value > most):
        raise InputError(
            f"config.json: {key} is {value!r}; it must be an integer of at least {least}" + (f" and at most {most}" if most else "")
        )
    return value


def _checked(settings: Settings, sections: tuple[str, str]) -> Settings:
    in_vision, in_text = sections
    for key in ("hidden_size", "num_attention_heads", "intermediate_size", "image_size", "patch_size", "num_channels"):
        _count(settings.vision[key], in_vision + key)
    for key in ("vocab_size", "intermediate_size", "num_key_value_heads"):
        _count(settings.text[key], in_text + key)
    for where, section in ((in_vision, settings.vision), (in_text, settings.text)):
        _count(section["num_hidden_layers"], f"{where}num_hidden_layers", most=_MOST_LAYERS)
        if section["hidden_size"] % section["num_attention_heads"]:
            raise _refusal(f"{where}hidden_size", section["hidden_size"], f"a multiple of {section['num_attention_heads']} heads")
    ratio: Any = settings.downsample_ratio
    if not isinstance(ratio, int | float) or not 0 < ratio <= 1 or 1 / settings.shuffle != ratio:
        raise _refusal("downsample_ratio", ratio, "1 over a whole number")
    if settings.vision["image_size"] % settings.vision["patch_size"] or settings.grid % settings.shuffle:
        raise _refusal(f"{in_vision}image_size", settings.vision["image_size"], "a multiple of the patches that the pixel shuffle combines")
    return settings
