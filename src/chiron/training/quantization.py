"""QLoRA: a frozen base in 4 bits (bitsandbytes NF4), and merging its adapter into the base in full precision."""

import importlib.util
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from chiron.errors import InputError
from chiron.providers.local.families.family import ModelFamily
from chiron.providers.local.loading import load_whole
from chiron.training.attention import masked_attention
from chiron.training.recipe import Recipe

_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
"""Largest relative difference between the logits of a merged model and those of base and adapter."""


def quantization_settings(recipe: Recipe, family: ModelFamily, dtype: torch.dtype) -> dict[str, Any]:
    """Return the arguments of ``from_pretrained`` for a recipe's ``quantization``; only the language model's layers are quantized.

    Raises:
        InputError: bitsandbytes is not installed.
    """
    if recipe.quantization is None:
        return {}
    from transformers import BitsAndBytesConfig

    if importlib.util.find_spec("bitsandbytes") is None:
        raise InputError(
            f"recipe {recipe.name}: quantization: nf4 needs the package bitsandbytes: pip install bitsandbytes, or remove quantization"
        )
    settings = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=[f".*{part}" for part in (family.vision_tower, "multi_modal_projector", "connector", "lm_head")],
    )
    # Quantizing happens on the device. The processes of a node have a GPU each.
    device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    return {"quantization_config": settings, "device_map": {"": device}}


def count_weights(module: nn.Module) -> int:
    """Return the number of weights of a module without its adapter; two quantized ones are stored in a byte."""
    weights = (weight for name, weight in module.named_parameters() if "lora_" not in name)
    return sum(weight.numel() * (2 if weight.dtype == torch.uint8 else 1) for weight in weights)


def merge(adapted: Any) -> Any:
    """Merge an adapter into its base, in place, and check the result.

    Raises:
        InputError: the merged model does not compute what base and adapter compute.
    """
    before = _logits(adapted)
    merged = adapted.merge_and_unload()
    after = _logits(merged)
    difference = float((after - before).norm() / before.norm())
    if not difference < _TOLERANCE.get(merged.dtype, 5e-2):  # false for NaN
        raise InputError(
            f"the merged model differs from base and adapter (relative difference of the logits {difference:.2g}):"
            " use adapter/ with its base"
        )
    return merged


def merge_into_full_precision(recipe: Recipe, family: ModelFamily, adapter: Path) -> Any:
    """Load a recipe's base without quantization, on the CPU, and merge the saved adapter into it.

    Raises:
        InputError: the base cannot be loaded, or see :func:`merge`.
    """
    import transformers
    from peft import PeftModel

    dtype = torch.bfloat16 if recipe.precision == "bf16" else torch.float32
    base = load_whole(getattr(transformers, family.architecture), str(recipe.base), dtype=dtype, use_safetensors=True)
    return merge(PeftModel.from_pretrained(base, str(adapter)).eval())


@torch.no_grad()
def _logits(model: Any) -> Tensor:
    """Return the logits of a few tokens without images."""
    was_training = model.training
    model.eval()
    tokens = torch.arange(5, 37, device=model.device)[None] % model.get_input_embeddings().weight.shape[0]
    with masked_attention(model):
        logits: Tensor = model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits.float()
    model.train(was_training)
    return logits
