"""Read and write ``config.json`` in the authors' layout and in transformers'."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from chiron.convert.config_keys import (
    ARCHITECTURES,
    CHAT_FIXED,
    CHAT_VISION_FIXED,
    HF_FIXED,
    HF_VISION_FIXED,
    KEPT_DEFAULTS,
    KEPT_VISION_DEFAULTS,
    MOE,
    ROPES,
    TEXT,
    TEXT_FIXED,
    VISION,
    check_keys,
    count_of,
    refusal,
    section_of,
    side_of,
)

Layout = Literal["internvl_chat", "hf"]
KEPT = "internvl_chat"
"""Key in transformers' ``config.json`` that stores the settings only the authors' code uses, so that they survive a round trip."""
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
    check_keys(config, "", CHAT_FIXED, known | KEPT_DEFAULTS.keys())
    vision_config, llm_config = section_of(config, "vision_config"), section_of(config, "llm_config")
    check_keys(
        vision_config,
        "vision_config.",
        CHAT_VISION_FIXED,
        {chat for chat, *_ in VISION} | KEPT_VISION_DEFAULTS.keys() | MOE | {"tie_word_embeddings"},
    )
    vision = {chat: vision_config.get(chat, default) for chat, _, default, _ in VISION}
    text = _read_text(llm_config, "llm_config.")
    theta, scaling = _read_rope(llm_config, "llm_config.")
    architectures, wanted = llm_config.get("architectures"), [ARCHITECTURES[text["model_type"]]]
    if architectures != wanted:
        raise refusal("llm_config.architectures", architectures, wanted)
    if config.get("force_image_size") not in (None, 0, vision["image_size"]):
        raise refusal("force_image_size", config["force_image_size"], vision["image_size"])
    if config.get("hidden_size") not in (None, text["hidden_size"]):
        raise refusal("hidden_size", config["hidden_size"], text["hidden_size"])
    tied = bool(llm_config.get("tie_word_embeddings", False))
    kept: dict[str, Any] = {k: config[k] for k in KEPT_DEFAULTS if k in config}
    kept["vision_config"] = {k: vision_config[k] for k in KEPT_VISION_DEFAULTS if k in vision_config}
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
        ("vision_config.", "llm_config.", ""),
    )


def read_hf(config: Mapping[str, Any]) -> Settings:
    """Read the ``config.json`` of transformers' ``InternVLForConditionalGeneration``.

    Raises:
        InputError: A key is unknown, missing or has a value that cannot be converted. The message names key and value.
    """
    known = {"vision_config", "text_config", "downsample_ratio", "image_token_id", "image_seq_length", "tie_word_embeddings", KEPT}
    check_keys(config, "", HF_FIXED, known)
    vision_config, text_config = section_of(config, "vision_config"), section_of(config, "text_config")
    check_keys(vision_config, "vision_config.", HF_VISION_FIXED, {hf for _, hf, *_ in VISION} | {"tie_word_embeddings"})
    vision = {chat: vision_config.get(hf, default) for chat, hf, _, default in VISION}
    for key in ("image_size", "patch_size"):
        vision[key] = side_of(vision[key], f"vision_config.{key}")
    text = _read_text(text_config, "text_config.")
    theta, scaling = _read_rope(text_config, "text_config.")
    kept = config.get(KEPT) or {}
    if not isinstance(kept, dict) or not isinstance(kept.get("vision_config", {}), dict):
        raise refusal(KEPT, kept, "an object")
    check_keys(kept, f"{KEPT}.", {}, KEPT_DEFAULTS.keys() | {"vision_config"})
    check_keys(kept.get("vision_config", {}), f"{KEPT}.vision_config.", {}, KEPT_VISION_DEFAULTS.keys())
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
            image_token_id=count_of(config.get("image_token_id", 151667), "image_token_id", least=0),
            kept=kept,
        ),
        ("vision_config.", "text_config.", f"{KEPT}."),
    )


def write_hf(settings: Settings, *, image_token_id: int, tied: bool) -> dict[str, Any]:
    """Create transformers' configuration, with keys that releases 4.52 to 5.x all read."""
    vision: dict[str, Any] = {hf: settings.vision[chat] for chat, hf, _, _ in VISION}
    for key in ("image_size", "patch_size"):
        vision[key] = [vision[key], vision[key]]
    return {
        "architectures": ["InternVLForConditionalGeneration"],
        **_fixed(HF_FIXED),
        "downsample_ratio": settings.downsample_ratio,
        "image_seq_length": settings.tokens_a_tile,
        "image_token_id": image_token_id,
        # Set at both levels: the default of the class is True, which would replace the output matrix by the embedding.
        "tie_word_embeddings": tied,
        **_maybe_dtype(settings),
        # Training turns the cache off itself. If it were off here, generate() would recompute every prefix.
        "text_config": {**_write_text(settings), "tie_word_embeddings": tied, "use_cache": True},
        "vision_config": {"architectures": ["InternVLVisionModel"], **_fixed(HF_VISION_FIXED), **vision},
        KEPT: {**settings.kept},
    }


def write_chat(settings: Settings, *, tied: bool) -> dict[str, Any]:
    """Create the authors' configuration. It does not refer to remote code (no ``auto_map``)."""
    kept_vision = {**KEPT_VISION_DEFAULTS, **settings.kept.get("vision_config", {})}
    return {
        "architectures": ["InternVLChatModel"],
        **_fixed(CHAT_FIXED),
        **KEPT_DEFAULTS,
        **{k: v for k, v in settings.kept.items() if k != "vision_config"},
        "downsample_ratio": settings.downsample_ratio,
        "force_image_size": settings.vision["image_size"],
        "hidden_size": settings.text["hidden_size"],
        "tie_word_embeddings": tied,
        **_maybe_dtype(settings),
        "llm_config": {**_write_text(settings), "tie_word_embeddings": tied},
        "vision_config": {"architectures": ["InternVisionModel"], **_fixed(CHAT_VISION_FIXED), **settings.vision, **kept_vision},
    }


def _read_text(section: Mapping[str, Any], where: str) -> dict[str, Any]:
    ropes = {"rope_theta", "rope_scaling", "rope_parameters"}
    if (model_type := section.get("model_type", "qwen2")) not in (supported := list(ARCHITECTURES)):
        raise refusal(f"{where}model_type", model_type, supported)
    fixed = TEXT_FIXED | ({"attention_bias": (False, False)} if model_type == "qwen3" else {})
    check_keys(section, where, fixed, TEXT.keys() | ropes | {"model_type", "layer_types", "tie_word_embeddings", "head_dim"})
    text = {"model_type": model_type, **{key: section.get(key, default) for key, default in TEXT.items()}}
    if text["num_key_value_heads"] is None:
        text["num_key_value_heads"] = text["num_attention_heads"]
    layers = section.get("layer_types") or []
    if not isinstance(layers, list) or any(kind != "full_attention" for kind in layers):
        raise refusal(f"{where}layer_types", layers, "full_attention in every layer")
    for key in ("num_attention_heads", "hidden_size"):
        count_of(text[key], where + key)
    width = text["hidden_size"] // text["num_attention_heads"]
    if model_type == "qwen3":
        text["head_dim"] = count_of(section.get("head_dim", 128), f"{where}head_dim")
    elif section.get("head_dim") not in (None, width):
        raise refusal(f"{where}head_dim", section["head_dim"], width)
    return text


def _read_rope(section: Mapping[str, Any], where: str) -> tuple[float, dict[str, Any] | None]:
    """Return base and scaling of the rotary positions."""
    rope = section.get("rope_parameters") or section.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise refusal(f"{where}rope_scaling", rope, "an object or null")
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind not in ROPES or "mrope_section" in rope or rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise refusal(f"{where}rope_scaling", rope, f"one of {', '.join(ROPES)} over whole heads")
    theta = rope.get("rope_theta", section.get("rope_theta", 10000.0))
    rest = {k: v for k, v in rope.items() if k not in {"rope_theta", "type", "rope_type", "partial_rotary_factor"}}
    # Old releases read the type from "type", newer ones from "rope_type".
    return theta, None if kind == "default" else {**rest, "rope_type": kind, "type": kind}


def _write_text(settings: Settings) -> dict[str, Any]:
    model_type = settings.text["model_type"]
    return {
        "architectures": [ARCHITECTURES[model_type]],
        "model_type": model_type,
        **({"attention_bias": False} if model_type == "qwen3" else {}),
        **_fixed(TEXT_FIXED),
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


def _checked(settings: Settings, sections: tuple[str, str, str]) -> Settings:
    in_vision, in_text, in_kept = sections
    for key in ("hidden_size", "num_attention_heads", "intermediate_size", "image_size", "patch_size", "num_channels"):
        count_of(settings.vision[key], in_vision + key)
    for key in ("vocab_size", "intermediate_size", "num_key_value_heads"):
        count_of(settings.text[key], in_text + key)
    for where, section in ((in_vision, settings.vision), (in_text, settings.text)):
        count_of(section["num_hidden_layers"], f"{where}num_hidden_layers", most=_MOST_LAYERS)
        if section["hidden_size"] % section["num_attention_heads"]:
            raise refusal(f"{where}hidden_size", section["hidden_size"], f"a multiple of {section['num_attention_heads']} heads")
    for key, least in (("min_dynamic_patch", 0), ("max_dynamic_patch", 1)):
        if settings.kept.get(key) is not None:
            count_of(settings.kept[key], in_kept + key, least=least)
    ratio: Any = settings.downsample_ratio
    if not isinstance(ratio, int | float) or not 0 < ratio <= 1 or 1 / settings.shuffle != ratio:
        raise refusal("downsample_ratio", ratio, "1 over a whole number")
    if settings.vision["image_size"] % settings.vision["patch_size"] or settings.grid % settings.shuffle:
        raise refusal(f"{in_vision}image_size", settings.vision["image_size"], "a multiple of the patches that the pixel shuffle combines")
    return settings
