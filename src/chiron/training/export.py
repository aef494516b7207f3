"""Export of a trained model: the adapter, the merged model for plain transformers, and a model card."""

import copy
import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from chiron.errors import DiskError
from chiron.io import write_atomically
from chiron.providers.local.checkpoint import exact_template, write_format
from chiron.providers.local.dialogue import system_text
from chiron.providers.local.loading import no_bars
from chiron.providers.local.tiling import tile_budget
from chiron.training.checkpoint import FULL_DISK
from chiron.training.metrics import read_metrics
from chiron.training.packing import StagePlan
from chiron.training.recipe import Recipe

KEPT_BASE = "base.safetensors"
"""File in the output folder with the weights below the adapter; written if earlier stages trained all weights."""
LIBRARIES = ("chiron-med", "torch", "transformers", "peft", "accelerate", "tokenizers")


def export(model: nn.Module, tokenizer: Any, out: Path, recipe: Recipe, plans: list[StagePlan], hashes: dict[str, str]) -> Path | None:
    """Write ``adapter/`` (if the model has one) and ``model/`` (merged weights, tokenizer, image settings, card) to ``out``.

    Returns the adapter's folder, or None.

    Raises:
        DiskError: Writing failed.
    """
    adapter = out / "adapter" if hasattr(model, "peft_config") else None
    draft = out / ".model"
    try:
        if adapter is not None:
            model.save_pretrained(adapter)  # type: ignore[operator]
            if (out / KEPT_BASE).is_file():
                # Earlier stages trained every weight, so the adapter does not fit the base model of the recipe.
                settings = adapter / "adapter_config.json"
                named = json.loads(settings.read_text()) | {"base_model_name_or_path": f"../{KEPT_BASE}"}
                write_atomically(settings, [json.dumps(named, indent=2, sort_keys=True) + "\n"])
            merged = copy.deepcopy(model).merge_and_unload()  # type: ignore[operator]
        else:
            merged = model
        if recipe.precision == "bf16":
            merged = merged.to(torch.bfloat16)
        shutil.rmtree(draft, ignore_errors=True)
        with no_bars():
            merged.save_pretrained(draft, safe_serialization=True)
        system = system_text(recipe.system)
        tokenizer.chat_template = exact_template(system)
        tokenizer.save_pretrained(draft)
        write_format(draft, recipe.images.tiling, system)
        (draft / "preprocessor_config.json").write_text(json.dumps(image_settings(recipe), indent=2) + "\n")
        (draft / "README.md").write_text(card(recipe, plans, hashes, out / "metrics.jsonl"))
        shutil.rmtree(out / "model", ignore_errors=True)
        draft.rename(out / "model")
    except FULL_DISK as error:
        raise DiskError(f"{out / 'model'} cannot be written ({error}): free space and run the same command again") from error
    return adapter


def image_settings(recipe: Recipe) -> dict[str, Any]:
    """Settings of the image processor. They match training for one image; for several, callers must pass the tiles per image."""
    side = {"height": recipe.images.tile, "width": recipe.images.tile}
    return {
        "image_processor_type": "GotOcr2ImageProcessor",
        "crop_to_patches": True,
        "min_patches": 1,
        "max_patches": recipe.images.max_tiles,
        "size": side,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "do_convert_rgb": True,
        "resample": 3,
        "rescale_factor": 1 / 255,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }


def card(recipe: Recipe, plans: list[StagePlan], hashes: dict[str, str], metrics: Path) -> str:
    """Write the model card: recipe, hashes of the data, versions and losses."""
    losses = {line["stage"]: f"{line['held_out_loss']:.4f}" for line in read_metrics(metrics) if "held_out_loss" in line}
    rows = "\n".join(
        f"| {p.stage.name} | {p.stage.trainable} | {p.stage.objective} | {p.rows:,} | {p.steps:,} | {p.epochs:.2f} |"
        f" {p.stage.learning_rate:g} | {losses.get(p.stage.name, '-')} |"
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

{serving(recipe)}
Recipe:
```json
{settings}
```
"""


_SERVING = """## Serving it

`chiron` with `provider: local` prompts this model as in training, by the settings in `chiron.json`. For other programs:

- The chat template puts nothing next to an image, as in training. Send texts and images in the order of the row, line breaks included.
"""
_SHARED = """- Training shared {most} tiles among the images of a row; `preprocessor_config.json` alone gives {most} to every image. Pass
  the number with each request: `max_patches = max(1, {most} // number of images)`. {budgets}
  - transformers: `processor(text=..., images=..., images_kwargs={{"max_patches": N}})`
  - vLLM: `vllm serve FOLDER`, and in every request `"mm_processor_kwargs": {{"max_patches": N}}`
  - chiron: `{{provider: openai, base_url: ..., model: ..., serves: {{max_tiles: {most}, max_tiles_per: row}}}}` sends it
"""


def serving(recipe: Recipe) -> str:
    """Section of the card on how to serve the model with the same inputs as in training."""
    images = recipe.images
    text = _SERVING
    if recipe.system is not None:
        text += "- The chat template adds the system message of training if a conversation has none.\n"
    if images.max_tiles_per == "image":
        text += f"- Every image gets up to {images.max_tiles} tiles, as in training; no argument is needed.\n"
    elif images.max_tiles > 1:
        budgets = ", ".join(f"{n} images: {tile_budget(n, images.tiling)}" for n in range(2, images.max_tiles + 1))
        text += _SHARED.format(most=images.max_tiles, budgets=f"({budgets}.)")
    if not images.thumbnail and images.max_tiles > 1:
        text += "- Training showed no thumbnail. The image processor of transformers adds one to every image of several tiles.\n"
    return text
