"""The keys of ``config.json`` in the authors' layout and in transformers', and the checks of their values.

Every key is either converted, checked to have the only value that both layouts support, or known not to affect the model. Any other key is
an error, because a lost setting would give a model that runs but computes something else.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from chiron.errors import InputError

# (authors' key, transformers' key, authors' default, transformers' default). An absent key has the default of its class.
VISION: tuple[tuple[str, str, Any, Any], ...] = (
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
TEXT: dict[str, Any] = {
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
CHAT_FIXED = {
    "model_type": ("internvl_chat", "internvl_chat"),
    "ps_version": ("v1", "v2"),
    "select_layer": (-1, -1),
    "pad2square": (False, False),
    "use_backbone_lora": (0, 0),
    "use_llm_lora": (0, 0),
}
CHAT_VISION_FIXED = {
    "model_type": ("intern_vit_6b", "intern_vit_6b"),
    "norm_type": ("rms_norm", "layer_norm"),
    "qk_normalization": (True, False),
    "use_moe": (False, False),
}
HF_FIXED = {
    "model_type": ("internvl", "internvl"),
    "vision_feature_layer": (-1, -1),
    "vision_feature_select_strategy": ("default", "default"),
    "projector_hidden_act": ("gelu", "gelu"),
}
HF_VISION_FIXED = {
    "model_type": ("internvl_vision", "internvl_vision"),
    "norm_type": ("layer_norm", "layer_norm"),
    "use_qk_norm": (False, False),
    "use_mask_token": (False, False),
    "use_absolute_position_embeddings": (True, True),
    "use_mean_pooling": (True, True),
    "hidden_dropout_prob": (0.0, 0.0),
}
TEXT_FIXED = {"use_sliding_window": (False, False)}
ARCHITECTURES = {"qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
"""Language models: of InternVL3, and of InternVL3.5."""
KEPT_DEFAULTS = {
    "template": "internvl2_5",
    "system_message": None,
    "dynamic_image_size": True,
    "use_thumbnail": True,
    "min_dynamic_patch": 1,
    "max_dynamic_patch": 12,
}
KEPT_VISION_DEFAULTS = {"drop_path_rate": 0.0, "use_flash_attn": True}
# Leftover mixture-of-experts keys in the authors' vision configuration; InternViT-300M does not use them.
MOE = frozenset(
    """capacity_factor eval_capacity_factor laux_allreduce moe_coeff_ratio moe_intermediate_size moe_output_scale noisy_gate_policy
    num_experts num_routed_experts num_shared_experts shared_expert_intermediate_size use_residual use_rts use_weighted_residual""".split()
)
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
ROPES = ("default", "linear", "dynamic", "yarn", "longrope", "llama3")
_HINTS = {
    "use_llm_lora": "merge the LoRA with the authors' tools/merge_lora.py first",
    "use_backbone_lora": "merge the LoRA with the authors' tools/merge_lora.py first",
    "ps_version": "v1 transposes the image, which transformers' InternVL does not support",
    "qk_normalization": "InternViT-6B is not supported, InternViT-300M is",
    "norm_type": "InternViT-6B is not supported, InternViT-300M is",
}


def refusal(key: str, value: Any, wanted: Any) -> InputError:
    hint = _HINTS.get(key.rpartition(".")[2])
    return InputError(f"config.json: {key} is {value!r}, but only {wanted!r} can be converted" + (f": {hint}" if hint else ""))


def check_keys(section: Mapping[str, Any], where: str, fixed: Mapping[str, tuple[Any, Any]], known: Iterable[str]) -> None:
    """Check the keys of a section of the configuration.

    Args:
        section: a part of ``config.json``.
        where: its name and a dot, for error messages.
        fixed: default, and the only value that can be converted, by key.
        known: further keys that the caller reads.

    Raises:
        InputError: a key has another value than ``fixed``, or is unknown.
    """
    for key, (default, wanted) in fixed.items():
        value = section.get(key, default)
        # Configurations use booleans and 0/1 for the same setting; in Python, True == 1 and False == 0.
        if value != wanted:
            raise refusal(f"{where}{key}", value, wanted)
    allowed = _SILENT | fixed.keys() | set(known)
    for key, value in section.items():
        if key not in allowed and value is not None:
            raise InputError(
                f"config.json: {where}{key} is {value!r}, an unknown setting that may change the model: remove it if it does not"
            )


def section_of(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return a section of the configuration, which must not be missing."""
    section = config.get(key)
    if not isinstance(section, dict):
        raise refusal(key, section, "an object of settings")
    return section


def side_of(value: Any, key: str) -> Any:
    """Return the side of a square that is given as one number or as two equal ones."""
    if isinstance(value, list):
        if len(value) != 2 or value[0] != value[1]:
            raise refusal(key, value, "a square")
        return value[0]
    return value


def count_of(value: Any, key: str, *, least: int = 1, most: int | None = None) -> int:
    """Return a value that must be an integer between ``least`` and ``most``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least or (most is not None and value > most):
        raise InputError(
            f"config.json: {key} is {value!r}; it must be an integer of at least {least}" + (f" and at most {most}" if most else "")
        )
    return value
