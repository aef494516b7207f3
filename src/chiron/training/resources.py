"""What training needs of a GPU: floating-point operations by part of the model, and memory.

The memory that is free decides how many layers of the language model compute their activations again. One layer's activations are measured
on a short line; they grow with the length of a line (with attention that needs no mask).
"""

import gc
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from chiron.providers.local.families.family import ModelFamily
from chiron.training.encoding import Encoded, trained_tokens
from chiron.training.model import CHUNK, Loss, language_layers, plain, recompute_only
from chiron.training.recipe import Adapter, Recipe, Stage

_SAMPLE = 256
"""Tokens of the measured line."""
_MARGIN = 0.9
"""Share of the free memory that is used. The rest is for the vision tower's peak and for fragmentation."""


@dataclass(frozen=True)
class Operations:
    """Floating-point operations of one forward pass: two for each weight that a token, label or tile meets, and attention."""

    per_token: int
    """Of the language model's layers, without attention."""
    per_token_pair: int
    """Of attention, for each pair of tokens that attend to each other."""
    per_label: int
    """Of the head."""
    per_tile: int
    """Of the vision tower, its attention included."""

    @classmethod
    def of(cls, model: Any, family: ModelFamily) -> "Operations":
        """Count the operations of a transformers ``model``, with or without an adapter; those of the adapter do not count."""
        inner = plain(model)
        text, patches = inner.config.get_text_config(), family.patches_per_tile(inner.config)
        size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        tower = getattr(inner.model, family.vision_tower)
        # Families without tiles attend within windows or whole images, which is little per token.
        vision = inner.config.vision_config
        attention = 4 * patches**2 * vision.hidden_size * vision.num_hidden_layers if family.tiled else 0
        return cls(
            per_token=2 * count_weights(inner.get_decoder().layers),
            per_token_pair=4 * text.num_hidden_layers * text.num_attention_heads * size,
            per_label=2 * text.vocab_size * text.hidden_size,
            per_tile=2 * count_weights(tower) * patches + attention,
        )

    def forward(self, rows: Iterable[Encoded]) -> Counter[str]:
        """Operations of one forward pass over ``rows``, by part: language, attention, head and vision."""
        found = Counter[str]()
        for row in rows:
            found["language"] += self.per_token * len(row.input_ids)
            found["attention"] += self.per_token_pair * pairs_of_tokens(row)
            found["head"] += self.per_label * trained_tokens(row)
            found["vision"] += self.per_tile * row.tiles()
        return found

    def useful(self, rows: Iterable[Encoded], passes: Mapping[str, int]) -> dict[str, float]:
        """Operations that training on ``rows`` needs, by part; activations computed again do not count.

        ``passes``: see :func:`passes_of`.
        """
        once = self.forward(rows)
        return {part: float(count * once[part]) for part, count in passes.items()}

    def cost(self, passes: Mapping[str, int]) -> Callable[[Encoded], float]:
        """Return a function of a row: the operations that training on it needs."""
        return lambda row: sum(self.useful([row], passes).values())


def passes_of(recipe: Recipe, stage: Stage) -> dict[str, int]:
    """Return how many forward passes' worth of operations training needs, by part.

    Backward costs as much as forward in layers whose weights are frozen, twice as much in others, and also in attention, which has no
    weights. A frozen vision tower has no backward pass.
    """
    own = stage.trained_parts
    learns = 3 if "language" in own else 2
    vision = (3 if own else 2) if "vision" in (own or (recipe.adapter or Adapter()).targets) else 1
    return {"language": learns, "attention": 3, "head": learns, "vision": vision}


def pairs_of_tokens(row: Encoded) -> int:
    """Number of pairs of tokens that attend to each other."""
    return sum(size * (size + 1) // 2 for size in row.conversations)


def count_weights(module: nn.Module) -> int:
    """Return the number of weights of a module without its adapter; two quantized ones are stored in a byte."""
    weights = (weight for name, weight in module.named_parameters() if "lora_" not in name)
    return sum(weight.numel() * (2 if weight.dtype == torch.uint8 else 1) for weight in weights)


@dataclass(frozen=True)
class Memory:
    """Peak memory of training on one GPU, in bytes, without sharding. The peak is at the start of the backward pass."""

    weights: int
    trained: int
    """Gradients and both moments of the optimizer, in full precision."""
    head: int
    """Logits of a chunk, with their copy in full precision and its gradient."""
    layers: int
    """Number of the language model's layers."""
    a_layer: int
    """Activations that a layer keeps."""
    a_layer_again: int
    """What a layer keeps that computes its activations again: its input."""

    def peak(self, recomputed: int) -> int:
        """Peak if so many layers compute their activations again, one of them at a time."""
        kept = (self.layers - recomputed) * self.a_layer + recomputed * self.a_layer_again + bool(recomputed) * self.a_layer
        return self.weights + self.trained + self.head + kept


def predict_memory(loss: Loss, recipe: Recipe, device: torch.device, measured: Loss | None = None) -> Memory:
    """Predict the memory of one batch of full lines; the model is on ``device``, with its adapter.

    ``measured``: a model on ``device`` with such layers, if ``loss`` has no weights.
    """
    text = plain(loss.model).config.get_text_config()
    positions = recipe.max_seq_length * recipe.micro_batch_size
    width = 2 if recipe.precision == "bf16" else 4
    return Memory(
        weights=sum(p.numel() * p.element_size() for p in loss.parameters()),
        trained=sum(p.numel() for p in loss.parameters() if p.requires_grad) * 12,
        head=min(CHUNK, positions) * text.vocab_size * (width + 8),
        layers=len(language_layers(loss.model)),
        a_layer=round(_bytes_per_token(measured or loss, device, half=recipe.precision == "bf16") * positions),
        a_layer_again=positions * text.hidden_size * width,
    )


def choose_recomputed(loss: Loss, recipe: Recipe, device: torch.device) -> int:
    """Return how many layers compute their activations again, and set them; see :attr:`Recipe.gradient_checkpointing`."""
    count = fixed_recomputed(recipe, len(language_layers(loss.model)))
    if count is None:
        predicted = predict_memory(loss, recipe, device)
        room = _MARGIN * free_memory(device) + predicted.weights  # the weights are there already
        count = next((n for n in range(predicted.layers) if predicted.peak(n) <= room), predicted.layers)
    recompute_only(loss.model, count)
    return count


def fixed_recomputed(recipe: Recipe, layers: int) -> int | None:
    """Return how many of ``layers`` the recipe wants to compute their activations again; None if the free memory decides."""
    setting = recipe.gradient_checkpointing
    if setting == "auto":
        return None
    return layers if setting is True or setting == "all" else 0 if setting == "none" else min(layers, int(setting))


def free_memory(device: torch.device) -> int:
    """Return the free memory in bytes: of the GPU, or of this machine."""
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(device)[0]
    # macOS does not know how much is free.
    pages = "SC_AVPHYS_PAGES" if "SC_AVPHYS_PAGES" in os.sysconf_names else "SC_PHYS_PAGES"
    return os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")


def _bytes_per_token(loss: Loss, device: torch.device, *, half: bool) -> float:
    """Measure what the first layer keeps per token for the backward pass."""
    layer = language_layers(loss.model)[0]
    kept: dict[int, int] = {}
    weights = {p.untyped_storage().data_ptr() for p in loss.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)

    training, recomputed = loss.training, [getattr(layer, "gradient_checkpointing", False) for layer in language_layers(loss.model)]
    loss.train()
    recompute_only(loss.model, 0)
    handles = [
        layer.register_forward_pre_hook(lambda *_: hooks.__enter__()),
        layer.register_forward_hook(lambda *_: hooks.__exit__()),
    ]
    ids = torch.ones(1, _SAMPLE, dtype=torch.long, device=device)
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=half), torch.random.fork_rng():  # dropout must not change the run
            loss(ids, torch.arange(_SAMPLE, device=device)[None], ids, None)
    finally:
        for handle in handles:
            handle.remove()
        for number, again in enumerate(recomputed):
            language_layers(loss.model)[number].gradient_checkpointing = again
        loss.train(training)
    return sum(kept.values()) / _SAMPLE
