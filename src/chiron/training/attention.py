"""Attention in packed lines without a mask: each row attends only to itself, and nothing is computed between rows.

Memory grows with the length of a line. The mask that "sdpa" needs grows with its square.
"""

import contextlib
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from chiron.errors import InputError
from chiron.training.recipe import Recipe

VARLEN = "chiron_varlen"
"""Name of this attention in transformers' registry."""


def varlen_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each row; the signature is that of transformers' attention functions.

    On a GPU, this is torch's own flash attention (half precision only). On a CPU, rows are computed one after another.

    Args:
        module: the attention layer.
        query: ``(lines, heads, length, size)``.
        key: ``(lines, key heads, length, size)``.
        value: like ``key``.
        attention_mask: not used.
        scaling: factor of the scores; None: one over the root of ``size``.
        dropout: share of the weights that are dropped.
        cu_seq_lens_q: boundaries of the rows in all lines, one after another (:func:`row_boundaries`).
        max_length_q: an upper bound of a row's length.
        sliding_window: not supported.
        others: keyword arguments of other attention functions; not used.

    Returns:
        The output ``(lines, length, heads, size)``, and no attention weights.
    """
    del module, attention_mask, others
    if cu_seq_lens_q is None or max_length_q is None or sliding_window is not None:
        raise ValueError("attention of packed rows needs the boundaries of the rows, and no sliding window")
    lines, heads, length, size = query.shape
    # Positions make queries and keys full precision if the base is. Torch casts the arguments of its public attention, but not of this.
    kind = torch.get_autocast_dtype(query.device.type) if torch.is_autocast_enabled(query.device.type) else value.dtype
    query, key, value = (states.transpose(1, 2).reshape(lines * length, -1, size).to(kind) for states in (query, key, value))
    if query.is_cuda:
        bounds, longest = (cu_seq_lens_q, cu_seq_lens_q), (max_length_q, max_length_q)
        out = torch.ops.aten._flash_attention_forward(query, key, value, *bounds, *longest, dropout, True, False, scale=scaling)[0]  # noqa: SLF001
    else:
        rows = pairwise(cu_seq_lens_q.tolist())
        out = torch.cat([_one_row(query[a:b], key[a:b], value[a:b], dropout, scaling) for a, b in rows])
    return out.view(lines, length, heads, size), None


def _one_row(query: Tensor, key: Tensor, value: Tensor, dropout: float, scaling: float | None) -> Tensor:
    """Attention of one row; all arguments and the result are ``(length, heads, size)``."""
    query, key, value = (states.transpose(0, 1)[None] for states in (query, key, value))
    out = nn.functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=True)
    return out[0].transpose(0, 1)


def row_boundaries(position_ids: Tensor) -> tuple[Tensor, int]:
    """Return where rows begin and end in lines that are put one after another, ``(rows + 1,)`` int32, and the longest row.

    ``position_ids``: ``(lines, length)``, restarting at 0 in each row and in the padding. The length of the longest row is rounded up, so
    that compiled code can be used again.
    """
    starts = torch.nonzero(position_ids.flatten() == 0)[:, 0].to(torch.int32)
    bounds = torch.cat([starts, starts.new_tensor([position_ids.numel()])])
    longest = int(position_ids.max()) + 1
    return bounds, min(-(-longest // _STEP) * _STEP, position_ids.shape[-1])


_STEP = 512


def use_attention(model: Any, recipe: Recipe, *, own_masks: bool = False) -> None:
    """Set the attention of the language model of a model that was loaded with "sdpa" or "eager".

    The vision tower keeps "sdpa": its images are not packed. ``own_masks``: whether the family needs a mask of its own.

    Raises:
        InputError: The attention is not available here, or the model has layers that it cannot compute.
    """
    chosen = recipe.attention
    gpu = torch.cuda.is_available()
    layer_types = getattr(model.config.get_text_config(), "layer_types", None) or ()
    special = None
    if own_masks:
        special = "the family's own masks"
    elif any(kind != "full_attention" for kind in layer_types):
        special = "layers with a sliding window"
    if chosen == "auto":
        chosen = "varlen" if gpu and _has_flash() and recipe.precision == "bf16" and special is None else "sdpa"
    if chosen in {"sdpa", "eager"}:
        return
    if special is not None:
        raise InputError(f"attention: {chosen} cannot compute {special}: use sdpa")
    if chosen == "varlen" and gpu and recipe.precision != "bf16":
        raise InputError("attention: varlen needs precision: bf16 on a GPU: set it, or use sdpa")
    if chosen == "varlen" and gpu and not _has_flash():
        raise InputError("attention: varlen needs a GPU of compute capability 8.0 or higher: use sdpa")
    if chosen == "flex_attention" and not gpu:
        raise InputError("attention: flex_attention can only be trained on a GPU: use varlen or sdpa")
    try:
        model.set_attn_implementation({"text_config": VARLEN if chosen == "varlen" else chosen})
    except ImportError as error:
        raise InputError("attention: flash_attention_2 needs the package 'flash-attn': pip install flash-attn, or use varlen") from error


def attention_inputs(model: Any, position_ids: Tensor) -> dict[str, Any]:
    """Return the keyword arguments that the model's attention needs for packed lines; ``position_ids``: ``(lines, length)``."""
    if model.config.get_text_config()._attn_implementation not in {VARLEN, "flash_attention_2"}:  # noqa: SLF001 - no public name
        return {}
    bounds, longest = row_boundaries(position_ids)
    return {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, "max_length_q": longest, "max_length_k": longest}


@contextlib.contextmanager
def masked_attention(model: Any) -> Iterator[None]:
    """Compute attention with "sdpa" where rows are not packed, as in generation, which also has a cache."""
    before = model.config.get_text_config()._attn_implementation  # noqa: SLF001
    if before == "eager":
        yield
        return
    model.set_attn_implementation({"text_config": "sdpa"})
    try:
        yield
    finally:
        model.set_attn_implementation({"text_config": before})


def _has_flash() -> bool:
    """Return whether this GPU has torch's flash attention."""
    return torch.cuda.get_device_capability() >= (8, 0)


AttentionInterface.register(VARLEN, varlen_attention)
AttentionMaskInterface.register(VARLEN, lambda *_, **__: None)
