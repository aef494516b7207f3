"""Export of a trained model: the adapter, the model merged from it and its base, and their card."""

import copy
import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from chiron.errors import DiskError, InputError
from chiron.io import write_atomically
from chiron.providers.local.chat_template import family_template
from chiron.providers.local.checkpoint import write_format
from chiron.providers.local.families.family import ModelFamily
from chiron.providers.local.families.internvl import INTERNVL
from chiron.providers.local.loading import load_whole, no_bars
from chiron.providers.local.tiling import Tiling, tile_budget
from chiron.training.attention import masked_attention
from chiron.training.base import LoadedModel
from chiron.training.checkpoint import FULL_DISK
from chiron.training.metrics import held_out_losses, read_metrics
from chiron.training.packing import StagePlan
from chiron.training.recipe import Recipe, Stage

KEPT_BASE = "base.safetensors"
"""File in the output folder with the weights below the adapter; written if earlier stages trained all weights."""
LIBRARIES = ("chiron-med", "torch", "transformers", "peft", "accelerate", "tokenizers")
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
"""Largest relative difference between the logits of a merged model and those of base and adapter."""


def export(model: nn.Module, base: LoadedModel, out: Path, recipe: Recipe, plans: list[StagePlan], hashes: dict[str, str]) -> Path | None:
    """Write ``adapter/`` (if the model has one) and ``model/`` (merged weights, tokenizer, image settings, card) to ``out``.

    Returns the adapter's folder, or None.

    Raises:
        DiskError: Writing failed.
    """
    adapter = out / "adapter" if hasattr(model, "peft_config") else None
    draft = out / ".model"
    about = card(recipe, base, plans, hashes, out / "metrics.jsonl")
    try:
        if adapter is not None:
            model.save_pretrained(adapter)  # type: ignore[operator]
            (adapter / "README.md").write_text(about)
            if (out / KEPT_BASE).is_file():
                # Earlier stages trained every weight, so the adapter does not fit the base model of the recipe.
                settings = adapter / "adapter_config.json"
                named = json.loads(settings.read_text()) | {"base_model_name_or_path": f"../{KEPT_BASE}"}
                write_atomically(settings, [json.dumps(named, indent=2, sort_keys=True) + "\n"])
            quantized = recipe.quantization is not None
            merged = merge_into_full_precision(recipe, base.family, adapter) if quantized else merge(copy.deepcopy(model))
        else:
            merged = model
        if recipe.precision == "bf16":
            merged = merged.to(torch.bfloat16)
        shutil.rmtree(draft, ignore_errors=True)
        with no_bars():
            merged.save_pretrained(draft, safe_serialization=True)
        family, system = base.family, base.family.system(recipe.system)
        base.tokenizer.chat_template = family_template(family, system)
        base.tokenizer.save_pretrained(draft)
        # Rows contain their own line breaks next to images, so generation adds what they have.
        unset = None if family.default_system is None else "none"
        write_format(draft, base.layout, system or unset, image_separator=INTERNVL.image_separator)
        (draft / "preprocessor_config.json").write_text(json.dumps(base.layout.processor_settings(), indent=2) + "\n")
        (draft / "README.md").write_text(about)
        shutil.rmtree(out / "model", ignore_errors=True)
        draft.rename(out / "model")
    except FULL_DISK as error:
        raise DiskError(f"{out / 'model'} cannot be written ({error}): free space and run the same command again") from error
    return adapter


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


def card(recipe: Recipe, base: LoadedModel, plans: list[StagePlan], hashes: dict[str, str], metrics: Path) -> str:
    """Write the model card: recipe, hashes of the data, versions and losses."""
    losses = {name: f"{loss:.4f}" for name, loss in held_out_losses(metrics, recipe.best_stages).items()}
    steps = {line["stage"]: line["step"] for line in read_metrics(metrics) if "loss" in line}  # fewer than planned after early stopping
    rows = "\n".join(
        f"| {p.stage.name} | {_trained(p.stage)} | {p.stage.objective} | {p.rows:,} | {(done := steps.get(p.stage.name, p.steps)):,} |"
        f" {p.epochs * done / p.steps:.2f} | {p.stage.learning_rate:g} | {losses.get(p.stage.name, '-')} |"
        for p in plans
    )
    data = "\n".join(f"- `{name}` sha256 `{digest}`" for name, digest in hashes.items())
    versions = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    settings = json.dumps(recipe.model_dump(mode="json", exclude={"scratch"}), indent=2)
    return f"""---
tags: [medical, vision-language, chain-of-thought]
---
# {recipe.name}

For research. Not a medical device.

Base: {recipe.base or "from scratch"}. Versions: {versions}.

| stage | trained | objective | rows | steps | epochs | learning rate | held-out loss |
|---|---|---|---|---|---|---|---|
{rows}

Data:
{data}

{serving(recipe, base)}
Recipe:
```json
{settings}
```
"""


def _trained(stage: Stage) -> str:
    return stage.trainable if isinstance(stage.trainable, str) else ", ".join(stage.trainable)


_SERVING = """## Serving it

`chiron` with `provider: local` prompts this model as in training, by the settings in `chiron.json`. For other programs:

- The chat template puts nothing next to an image, as in training. Send texts and images in the order of the row, line breaks included.
"""


_SHARED = """- Training shared {most} tiles among the images of a row; `preprocessor_config.json` alone gives {most} to every image. Pass
  the number with each request: `max_patches = max(1, {most} // number of images)`. {budgets}
  - transformers: `processor(text=..., images=..., images_kwargs={{"max_patches": N}})`
  - vLLM: `vllm serve FOLDER --trust-request-mm-kwargs`, only if you trust all clients (before vLLM 0.31 without this option), and in
    every request `"mm_processor_kwargs": {{"max_patches": N}}`
  - chiron: `{{provider: openai, base_url: ..., model: ..., serves: {{max_tiles: {most}, max_tiles_per: row}}}}` sends it
"""


def serving(recipe: Recipe, base: LoadedModel) -> str:
    """Section of the card on how to serve the model with the same inputs as in training."""
    images = recipe.images
    text = _SERVING
    if base.family.system(recipe.system) is not None:
        text += "- The chat template adds the system message of training if a conversation has none.\n"
    if not isinstance(base.layout, Tiling):
        text += f"- {base.layout.served}, as in training; no argument is needed.\n"
        return text
    if images.max_tiles_per == "image":
        text += f"- Every image gets up to {images.max_tiles} tiles, as in training; no argument is needed.\n"
    elif images.max_tiles > 1:
        budgets = ", ".join(f"{n} images: {tile_budget(n, images.tiling)}" for n in range(2, images.max_tiles + 1))
        text += _SHARED.format(most=images.max_tiles, budgets=f"({budgets}.)")
    if not images.thumbnail and images.max_tiles > 1:
        text += "- Training showed no thumbnail. The image processor of transformers adds one to every image of several tiles.\n"
    return text
