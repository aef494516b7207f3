"""Base model of a recipe: load it, and check that images, adapter and chat template fit."""

import importlib.util
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from chiron.client.failures import one_line
from chiron.errors import InputError
from chiron.providers.local.dialogue import ChatFormat
from chiron.providers.local.families.family import ModelFamily
from chiron.providers.local.families.internvl import INTERNVL
from chiron.providers.local.families.registry import FAMILIES, known_families
from chiron.providers.local.loading import load_whole
from chiron.providers.local.tiling import ImageLayout, Tiling
from chiron.terminal import printable
from chiron.training.attention import use_attention
from chiron.training.model import recompute
from chiron.training.recipe import Adapter, Images, Recipe


@dataclass
class LoadedModel:
    """A base model with its tokenizer."""

    model: nn.Module
    """A transformers model of a supported family."""
    tokenizer: Any
    family: ModelFamily = INTERNVL
    layout: ImageLayout = field(default_factory=Tiling)
    """How the model sees images."""
    one_layer: nn.Module | None = None
    """If ``model`` has no weights and ``tokenizer`` is approximate, for an estimate: a model of one layer with weights."""


def load_base(recipe: Recipe) -> LoadedModel:
    """Load the base model of a recipe and its tokenizer.

    Raises:
        InputError: The checkpoint does not exist, is of an unknown family, is incomplete, sees images in another way than the recipe says,
            or has another chat template. Or the GPU lacks the recipe's precision.
    """
    import transformers

    check_precision(recipe)
    family = _family(recipe)
    architecture = getattr(transformers, family.architecture)
    # Frozen base weights can stay in half precision; trained weights need full precision.
    trains_all = any(stage.trained_parts for stage in recipe.stages)
    dtype = torch.bfloat16 if recipe.precision == "bf16" and not trains_all else torch.float32
    attention = "eager" if recipe.attention == "eager" else "sdpa"  # the others are only for the language model, and set later
    if recipe.scratch is not None:
        torch.manual_seed(recipe.seed)
        try:
            config = getattr(transformers, family.config_class)(**recipe.scratch.config)
            # The public constructor accepts neither the attention type nor the precision.
            model = architecture._from_config(config, dtype=dtype, attn_implementation=attention)  # noqa: SLF001
            tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(recipe.scratch.tokenizer)
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"recipe {recipe.name}: scratch: {first_line(error)}") from error
    else:
        source = str(recipe.base)
        quantized = quantization_settings(recipe, family, dtype)
        try:
            model = load_whole(architecture, source, dtype=dtype, attn_implementation=attention, use_safetensors=True, **quantized)
            tokenizer = transformers.AutoTokenizer.from_pretrained(source)
        except (InputError, OSError, ValueError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
            hint = "; convert an original internvl_chat checkpoint with 'chiron convert'" if Path(source).is_dir() else ""
            raise InputError(f"recipe {recipe.name}: base {source} cannot be loaded: {first_line(error)}{hint}") from error
    layout = fit_base(recipe, family, model, tokenizer, recipe.base)
    if recipe.gradient_checkpointing not in {False, "none"}:
        recompute(model)
    return LoadedModel(model, tokenizer, family, layout)


def _family(recipe: Recipe) -> ModelFamily:
    """Return the family of a recipe's base. A base whose settings cannot be read is reported when it is loaded."""
    from transformers import PreTrainedConfig

    if recipe.scratch is not None:
        kind = recipe.scratch.config.get("model_type", INTERNVL.model_type)
    else:
        try:
            kind = PreTrainedConfig.get_config_dict(str(recipe.base))[0].get("model_type", INTERNVL.model_type)
        except (OSError, ValueError):
            return INTERNVL
    if kind not in FAMILIES:
        hint = "; convert it with 'chiron convert'" if kind == "internvl_chat" else ""
        raise InputError(
            f"recipe {recipe.name}: the base has the model_type '{printable(str(kind))[:60]}', which cannot be trained: choose one of"
            f" {known_families()}{hint}"
        )
    return FAMILIES[kind]


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


def fit_base(recipe: Recipe, family: ModelFamily, model: Any, tokenizer: Any, source: str | None) -> ImageLayout:
    """Check that a base and a recipe fit, and set the base's attention. Returns how the base sees images.

    ``source``: folder or hub id with the image processor's settings; None: transformers' defaults.

    Raises:
        InputError: They do not fit.
    """
    try:
        layout = family.layout(model.config, source, tiling=recipe.images.tiling, limit=recipe.images.limit)
        check_images(family, layout, recipe.images)
        check_adapter(family, recipe.adapter)
        check_template(tokenizer, family.chat)
        use_attention(model, recipe, own_masks=family.own_masks)
    except (InputError, OSError, ValueError) as error:
        raise InputError(f"recipe {recipe.name}: {first_line(error)}") from error
    return layout


def check_precision(recipe: Recipe) -> None:
    """Check that the GPU, if there is one, computes in the recipe's precision.

    Raises:
        InputError: It has no bf16. Torch would emulate it, which is slower than fp32.
    """
    if recipe.precision == "bf16" and torch.cuda.is_available() and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise InputError(
            f"recipe {recipe.name}: precision: bf16 needs a GPU of compute capability 8.0 or higher, which {torch.cuda.get_device_name()}"
            " does not have: set precision: fp32"
        )


def check_images(family: ModelFamily, layout: ImageLayout, images: Images) -> None:
    """Check that the recipe says how this family sees images, and nothing about how others do."""
    if isinstance(layout, Tiling):
        if images.tile != layout.tile:
            raise InputError(f"images.tile is {images.tile}, but the base needs {layout.tile}: set it to {layout.tile}")
    elif images.tiling != Tiling():
        instead = f", and set {layout.limit} instead" if layout.limit else ""
        raise InputError(
            f"images.tile, max_tiles, max_tiles_per and thumbnail do not apply to {family.name}, which sees images as {family.images}:"
            f" remove them{instead}"
        )
    for key in ("max_pixels", "longest_edge"):
        if getattr(images, key) is not None and key != layout.limit:
            other = layout.limit or ("max_tiles" if family.tiled else None)
            raise InputError(
                f"images.{key} does not apply to {family.name}, which sees images as {family.images}:"
                f" {f'set {other} instead' if other else 'remove it'}"
            )


def check_adapter(family: ModelFamily, adapter: Adapter | None) -> None:
    """Check that the adapter's targets are parts whose layers are known."""
    for part in (adapter or Adapter()).targets:
        if part not in family.lora_parts:
            raise InputError(f"adapter.targets: the {part} of {family.name} has no layers that LoRA can adapt: remove it")


def check_template(tokenizer: Any, chat: ChatFormat) -> None:
    """Check that the base's own chat template, if it has one, marks assistant turns as training does."""
    from jinja2 import TemplateError

    if not getattr(tokenizer, "chat_template", None):
        return
    wanted = chat.reply("reply")
    # Some templates read contents as text, and some as lists of parts.
    contents: list[Any] = [["question", "reply"], [[{"type": "text", "text": text}] for text in ("question", "reply")]]
    written, problem = "", None
    for asked, reply in contents:
        turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": reply}]
        try:
            written += str(tokenizer.apply_chat_template(turns, tokenize=False))
        except (TemplateError, TypeError, ValueError) as error:
            problem = error
    if not written and problem is not None:
        raise InputError(
            f"the base's chat template cannot be used ({first_line(problem)}): use the tokenizer of the published model"
        ) from problem
    if wanted not in written:
        raise InputError(
            f"the base's chat template does not mark assistant turns with {wanted!r}, so the model would be asked in"
            " another form than it is trained in: use the base of the published template, or remove its chat template"
        )


def first_line(error: BaseException) -> str:
    """Return the text of an error on one line, or its class."""
    return one_line(str(error)) or type(error).__name__
