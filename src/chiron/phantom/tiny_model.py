"""A tiny InternVL that can be trained from scratch on two CPU cores, and its word-level tokenizer."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

SIDE: Final = 48
"""Side of its input images in pixels."""
PATCH: Final = 8
TOKENS_PER_IMAGE: Final = (SIDE // PATCH // 2) ** 2
"""9 tokens: patches of 8 pixels, four patches per token."""

_PIECES: Final = (
    r"\n?### Step \d+: The [a-z]+ is|\n?### Step \d+:|\n?### The final answer is:|\n*</?[a-z_]+>\n*| ?The [a-z]+ is"
    r"| ?[A-Za-z]+\.?| ?\d| ?[^\sA-Za-z\d]+|\s"
)
"""A token is a reasoning header, the beginning of a step, a prompt section tag, a word, a digit or a run of punctuation, with the white
space before it, so that joined tokens give the text again. What contains nothing to learn is a single token, because every token costs
time. It also keeps the values of the attributes close together: with five words between them, the model does not learn the rules."""

SPECIAL_TOKENS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
        "turn_start_token": "<|im_start|>",
    }
)
"""Special tokens of an InternVL tokenizer, by their names in transformers."""


def write_tokenizer(texts: Iterable[str], folder: Path) -> None:
    """Write a tokenizer with every token of ``texts`` as ``tokenizer.json`` to ``folder``; others become ``<unk>``."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    split = pre_tokenizers.Split(Regex(_PIECES), behavior="isolated")
    roles = ("system", "user", "assistant")
    pieces = sorted({piece for text in (*texts, *roles, "\n") for piece, _ in split.pre_tokenize_str(text)})
    vocabulary = {piece: number for number, piece in enumerate(["<unk>", *pieces])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))  # noqa: S106 - no password
    backend.pre_tokenizer = split
    backend.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        unk_token="<unk>",  # noqa: S106 - no password
        pad_token="<|pad|>",  # noqa: S106 - no password
        eos_token="<|im_end|>",  # noqa: S106 - no password
        extra_special_tokens=dict(SPECIAL_TOKENS),
        clean_up_tokenization_spaces=False,
    )
    tokenizer.save_pretrained(folder)


def configuration(folder: Path, *, hidden: int = 128, vision_layers: int = 2, language_layers: int = 2) -> dict[str, Any]:
    """Return the contents of ``config.json`` of an ``InternVLForConditionalGeneration`` with about one million weights.

    Args:
        folder: folder given to :func:`write_tokenizer`.
        hidden: width of both towers, a multiple of 32.
        vision_layers: number of layers of the vision tower.
        language_layers: number of layers of the language model.
    """
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    # Initialization: the usual spread and scale suit a thousand channels, and a small model learns nothing with them.
    return {
        "vision_config": {
            "model_type": "internvl_vision",
            "hidden_size": hidden,
            "num_hidden_layers": vision_layers,
            "num_attention_heads": hidden // 32,
            "intermediate_size": 4 * hidden,
            "image_size": [SIDE, SIDE],
            "patch_size": [PATCH, PATCH],
            "attention_bias": True,
            "layer_scale_init_value": 1.0,
            "initializer_range": 0.05,
        },
        "text_config": {
            "model_type": "qwen2",
            "vocab_size": len(tokenizer),
            "hidden_size": hidden,
            "num_hidden_layers": language_layers,
            "num_attention_heads": hidden // 32,
            "num_key_value_heads": hidden // 32,
            "intermediate_size": 3 * hidden,
            "max_position_embeddings": 2048,
            "initializer_range": 0.05,
            "tie_word_embeddings": False,
            "bos_token_id": None,
            "eos_token_id": tokenizer.convert_tokens_to_ids("<|im_end|>"),
            "pad_token_id": tokenizer.convert_tokens_to_ids("<|pad|>"),
        },
        "image_token_id": tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        "image_seq_length": TOKENS_PER_IMAGE,
        "downsample_ratio": 0.5,
        "tie_word_embeddings": False,
    }
