"""Published sizes of the packaged recipes' bases, for estimates without the base itself (``chiron train --dry-run`` without a network)."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import nn

from chiron.providers.local.dialogue import IMAGE_TOKENS
from chiron.providers.local.families.family import ModelFamily
from chiron.providers.local.families.registry import FAMILIES
from chiron.training.base import LoadedModel, fit_base, load_base
from chiron.training.recipe import Recipe

CHARACTERS_PER_TOKEN: Final = 4
"""Rounded down from 4.41: 8,025 characters of published English cases are 1,821 tokens of Qwen's vocabulary of 151,643."""


def _internvl3(hidden: int, mlp: int, heads: int, key_heads: int) -> dict[str, Any]:
    vision = {
        "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096, "image_size": [448, 448],
        "patch_size": [14, 14], "attention_bias": True,
    }  # fmt: skip
    text = {
        "model_type": "qwen2", "vocab_size": 151674, "hidden_size": hidden, "intermediate_size": mlp, "num_hidden_layers": 28,
        "num_attention_heads": heads, "num_key_value_heads": key_heads, "max_position_embeddings": 32768, "tie_word_embeddings": False,
        "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e6},
    }  # fmt: skip
    return {"model_type": "internvl", "vision_config": vision, "text_config": text, "tie_word_embeddings": False}


# Written by hand. No config.json could be downloaded to compare them with; the numbers of weights fit the names of the models.
KNOWN_BASES: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "OpenGVLab/InternVL3-2B-hf": _internvl3(1536, 8960, 12, 2),
        "OpenGVLab/InternVL3-8B-hf": _internvl3(3584, 18944, 28, 4),
        "Qwen/Qwen3-VL-8B-Instruct": {
            "model_type": "qwen3_vl",
            "text_config": {
                "vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36,
                "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": False,
            },
            "vision_config": {
                "depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16, "patch_size": 16, "spatial_merge_size": 2,
                "temporal_patch_size": 2, "out_hidden_size": 4096, "num_position_embeddings": 2304, "deepstack_visual_indexes": [8, 16, 24],
            },
            "tie_word_embeddings": False,
        },
        "HuggingFaceTB/SmolVLM-256M-Instruct": {
            "model_type": "idefics3",
            "scale_factor": 4,
            "text_config": {
                "model_type": "llama", "vocab_size": 49280, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
                "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 8192, "tie_word_embeddings": False,
            },
            "vision_config": {
                "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072, "image_size": 512,
                "patch_size": 16,
            },
            "tie_word_embeddings": False,
        },
    }
)  # fmt: skip
"""Sizes by hub id."""


def load_for_estimate(recipe: Recipe) -> LoadedModel:
    """Load the base of a recipe; a known base without its weights, if it is not on this machine and the hub cannot be reached.

    Raises:
        InputError: see :func:`~chiron.training.base.load_base`.
    """
    if recipe.base is None or recipe.base not in KNOWN_BASES or not _is_unreachable(recipe.base):
        return load_base(recipe)
    import transformers

    published = KNOWN_BASES[recipe.base]
    family = FAMILIES[published["model_type"]]
    architecture: Any = getattr(transformers, family.architecture)
    config_class = getattr(transformers, family.config_class)
    dtype = torch.bfloat16 if recipe.precision == "bf16" else torch.float32
    tokenizer = _stand_in_tokenizer(family)
    token = tokenizer.convert_tokens_to_ids((family.image_tokens or IMAGE_TOKENS)[1])
    with torch.device("meta"):
        model = architecture._from_config(config_class(**published, image_token_id=token), dtype=dtype)  # noqa: SLF001 - as load_base
    if recipe.quantization is not None:
        _store_in_four_bits(model)
    one_layer = architecture._from_config(_one_layer(config_class(**published)), dtype=dtype)  # noqa: SLF001
    layout = fit_base(recipe, family, model, tokenizer, None)
    return LoadedModel(model, tokenizer, family, layout, one_layer)


def _is_unreachable(base: str) -> bool:
    """Return whether a base is neither in the cache nor on a hub that answers."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        hf_hub_download(base, "config.json")
    except LocalEntryNotFoundError:
        return True
    except OSError:  # the hub refuses it: loading the base says why
        return False
    return False


def _one_layer(config: Any) -> Any:
    """Cut a configuration down to one layer and few tokens."""
    text, vision = config.get_text_config(), config.vision_config
    text.num_hidden_layers, text.vocab_size, text.pad_token_id = 1, 64, None
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:1]
    setattr(vision, "depth" if hasattr(vision, "depth") else "num_hidden_layers", 1)
    if hasattr(vision, "deepstack_visual_indexes"):
        vision.deepstack_visual_indexes = []
    config.image_token_id = 63
    return config


def _store_in_four_bits(model: Any) -> None:
    """Give the language model's layers the memory of two weights in a byte. The scales of NF4, 3% of it, do not count."""
    for layer in model.get_decoder().layers.modules():
        if isinstance(layer, nn.Linear):
            empty = torch.empty(layer.weight.numel() // 2, dtype=torch.uint8, device="meta")
            layer.weight = nn.Parameter(empty, requires_grad=False)


_WORD = "[UNK]"


def _stand_in_tokenizer(family: ModelFamily) -> Any:
    """Return a tokenizer that makes a token of every :data:`CHARACTERS_PER_TOKEN` characters, with the family's special tokens."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    chat = family.chat
    special = {chat.begin, chat.start, chat.end, *(family.image_tokens or IMAGE_TOKENS)}
    special |= {"<global-img>", *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7))}
    words = [_WORD, *sorted(special - {""})]
    backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token=_WORD))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(rf"[\s\S]{{1,{CHARACTERS_PER_TOKEN}}}"), "isolated")
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend, unk_token=_WORD, additional_special_tokens=words[1:]
    )
