"""Checks that a base and a recipe fit: images, adapter and chat template."""

from typing import Any

import torch

from chiron.client.failures import one_line
from chiron.errors import InputError
from chiron.providers.local.dialogue import ChatFormat
from chiron.providers.local.families.family import ModelFamily
from chiron.providers.local.tiling import ImageLayout, Tiling
from chiron.training.attention import use_attention
from chiron.training.recipe import Adapter, Images, Recipe


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
