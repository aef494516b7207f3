"""Model for training: load or create it, add a LoRA adapter, and compute the loss."""

import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from chiron.errors import InputError
from chiron.providers.local.loading import load_whole, tile_side, tokens_per_tile
from chiron.training.encoding import IGNORED
from chiron.training.recipe import Adapter, Recipe

ADAPTED = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
"""Regular expression for the language model's linear layers. The vision tower has layers of the same names and stays frozen."""


@dataclass
class Loaded:
    """A base model with its tokenizer."""

    model: nn.Module
    """An ``InternVLForConditionalGeneration``."""
    tokenizer: Any
    tokens_per_tile: int
    """Number of image tokens per tile."""


def load_base(recipe: Recipe) -> Loaded:
    """Load the base model of a recipe and its tokenizer.

    Raises:
        InputError: The checkpoint does not exist, has another architecture, is incomplete, or uses another tile size.
    """
    from transformers import AutoTokenizer, InternVLConfig, InternVLForConditionalGeneration, PreTrainedTokenizerFast

    # Frozen base weights can stay in half precision; trained weights need full precision.
    trains_all = any(stage.trainable == "all" for stage in recipe.stages)
    dtype = torch.bfloat16 if recipe.precision == "bf16" and not trains_all else torch.float32
    if recipe.scratch is not None:
        torch.manual_seed(recipe.seed)
        try:
            config = InternVLConfig(**recipe.scratch.config)
            # The public constructor accepts neither the attention type nor the precision.
            model = InternVLForConditionalGeneration._from_config(  # type: ignore[no-untyped-call]  # noqa: SLF001
                config, dtype=dtype, attn_implementation=recipe.attention
            )
            tokenizer = PreTrainedTokenizerFast.from_pretrained(recipe.scratch.tokenizer)
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"recipe {recipe.name}: scratch: {_first_line(error)}") from error
    else:
        source = str(recipe.base)
        try:
            model = load_whole(
                InternVLForConditionalGeneration, source, dtype=dtype, attn_implementation=recipe.attention, use_safetensors=True
            )
            tokenizer = AutoTokenizer.from_pretrained(source)
        except (InputError, OSError, ValueError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
            hint = "; 'chiron convert' makes one of an original internvl_chat checkpoint" if Path(source).is_dir() else ""
            raise InputError(f"recipe {recipe.name}: base {source} cannot be loaded: {_first_line(error)}{hint}") from error
    side = tile_side(model.config)
    if recipe.images.tile != side:
        raise InputError(f"recipe {recipe.name}: images.tile is {recipe.images.tile}, and the base sees tiles of {side} pixels: set it so")
    if recipe.gradient_checkpointing:
        _compute_activations_again(model)
    return Loaded(model, tokenizer, tokens_per_tile(model.config))


def add_adapter(model: nn.Module, adapter: Adapter) -> nn.Module:
    """Add LoRA to the language model; only the adapter is trained, in full precision."""
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(
        r=adapter.rank, lora_alpha=adapter.alpha, lora_dropout=adapter.dropout, target_modules=ADAPTED, task_type="CAUSAL_LM", bias="none"
    )
    with warnings.catch_warnings():
        # peft uses a name that transformers has deprecated; users cannot fix that.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        adapted: nn.Module = get_peft_model(model, settings)
    _stop_at_frozen_embeddings(plain(adapted))
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return adapted


def train_everything(model: nn.Module) -> None:
    """Make every weight trainable."""
    for parameter in model.parameters():
        parameter.requires_grad = True


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """Trainable weights by name."""
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


class Loss(nn.Module):
    """Sum of the cross-entropy over labeled positions, in nats; the head is computed only at these positions."""

    def __init__(self, model: nn.Module) -> None:
        """``model`` with or without an adapter."""
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, position_ids: Tensor, labels: Tensor, pixel_values: Tensor | None, weights: Tensor | None = None
    ) -> Tensor:
        """Compute the summed loss, a scalar; ``weights`` multiplies the loss of each label.

        Shapes: ``input_ids``, ``position_ids``, ``labels`` and ``weights`` are (lines, length); ``pixel_values`` is (tiles, 3, side, side).

        There is no attention mask: positions that restart at 0 separate packed rows; a mask of ones would let them attend to each other.
        """
        inner = plain(self.model)
        hidden = inner.model(
            input_ids=input_ids, position_ids=position_ids, pixel_values=pixel_values, attention_mask=None, use_cache=False
        ).last_hidden_state
        targets = labels[:, 1:]
        chosen = targets != IGNORED
        logits = inner.lm_head(hidden[:, :-1][chosen])
        if weights is None:
            return nn.functional.cross_entropy(logits.float(), targets[chosen], reduction="sum")
        losses = nn.functional.cross_entropy(logits.float(), targets[chosen], reduction="none")
        return (losses * weights[:, 1:][chosen]).sum()


def plain(model: nn.Module) -> Any:
    """Return the ``InternVLForConditionalGeneration`` without its adapter wrapper, if any."""
    return model.get_base_model() if hasattr(model, "peft_config") else model  # type: ignore[operator]


def _compute_activations_again(model: Any) -> None:
    """Turn on gradient checkpointing; the method name depends on the release of transformers."""
    settings = {"use_reentrant": False}
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=settings)
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=settings)
    _stop_at_frozen_embeddings(model)


def _stop_at_frozen_embeddings(model: Any) -> None:
    """Stop gradients at frozen embeddings.

    With gradient checkpointing, transformers and peft let gradients flow into every embedding, which only reentrant checkpointing needs.
    The patch embedding is one of them, so a frozen vision tower would be recomputed and differentiated without need.
    """
    model.disable_input_require_grads()


def _first_line(error: BaseException) -> str:
    return re.sub(r"\s+", " ", str(error)).strip()[:300] or type(error).__name__
