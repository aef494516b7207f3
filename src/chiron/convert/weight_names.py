"""Names and shapes of all weights in the two layouts of InternVL checkpoints.

The authors' layout (``internvl_chat``) stores the vision tower's query, key and value in one matrix, the query's rows first. Transformers'
layout stores three matrices. Otherwise only names differ, so a weight has one name in the authors' layout and one or three in the other.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

HEAD = "language_model.lm_head.weight"
EMBEDDING = "language_model.model.embed_tokens.weight"

# transformers uses different names in memory and on disk. Files contain both, because some tools write the names used in memory.
_IN_MEMORY = {
    "model.vision_tower.": "vision_tower.",
    "model.multi_modal_projector.": "multi_modal_projector.",
    "model.language_model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
}


@dataclass(frozen=True)
class Dimensions:
    """Sizes that determine the weights; all counts and widths are positive."""

    vision_width: int
    vision_layers: int
    vision_mlp: int
    channels: int
    patch: int
    """Side of a patch in pixels."""
    positions: int
    """Number of patches of a tile, plus one for the class token."""
    qkv_bias: bool
    shuffled_width: int
    """Channels of an image token before the projector: the channels of all patches that the pixel shuffle combines."""
    text_width: int
    text_layers: int
    text_mlp: int
    query_width: int
    """Number of query heads times the width of a head."""
    key_width: int
    """Number of key-value heads times the width of a head."""
    vocabulary: int
    head: bool
    """Whether the output matrix is stored (a tied one may be omitted)."""


@dataclass(frozen=True)
class Weight:
    """Name and shape of a weight in both layouts."""

    chat: str
    """Name in the authors' layout."""
    hf: tuple[str, ...]
    """Name in transformers' layout, or the three names of its equal parts along the first dimension."""
    shape: tuple[int, ...]
    """Shape in the authors' layout."""

    @property
    def part_shape(self) -> tuple[int, ...]:
        """Shape of each part in transformers' layout."""
        return (self.shape[0] // len(self.hf), *self.shape[1:])


def weights(size: Dimensions) -> Iterator[Weight]:
    """Yield every weight of a model of that size, in the order of computation."""
    yield from _embeddings(size)
    for layer in range(size.vision_layers):
        yield from _vision_layer(size, layer)
    yield from _projector(size)
    yield from _language(size)


def on_disk(name: str) -> str:
    """Convert a weight's name, in memory or on disk, to the name that transformers uses on disk."""
    for prefix, replacement in _IN_MEMORY.items():
        if name.startswith(prefix):
            return replacement + name.removeprefix(prefix)
    return name


def _embeddings(size: Dimensions) -> Iterator[Weight]:
    chat, hf, width = "vision_model.embeddings.", "vision_tower.embeddings.", size.vision_width
    yield Weight(f"{chat}class_embedding", (f"{hf}cls_token",), (1, 1, width))
    yield Weight(f"{chat}position_embedding", (f"{hf}position_embeddings",), (1, size.positions, width))
    shape = (width, size.channels, size.patch, size.patch)
    yield Weight(f"{chat}patch_embedding.weight", (f"{hf}patch_embeddings.projection.weight",), shape)
    yield Weight(f"{chat}patch_embedding.bias", (f"{hf}patch_embeddings.projection.bias",), (width,))


def _vision_layer(size: Dimensions, layer: int) -> Iterator[Weight]:
    chat, hf = f"vision_model.encoder.layers.{layer}.", f"vision_tower.encoder.layer.{layer}."
    width = size.vision_width
    shapes: dict[str, tuple[int, ...]] = {"weight": (3 * width, width)}
    if size.qkv_bias:
        shapes["bias"] = (3 * width,)
    for kind, shape in shapes.items():
        yield Weight(f"{chat}attn.qkv.{kind}", tuple(f"{hf}attention.{p}_proj.{kind}" for p in "qkv"), shape)
    matrices = {
        ("attn.proj", "attention.projection_layer"): (width, width),
        ("mlp.fc1", "mlp.fc1"): (size.vision_mlp, width),
        ("mlp.fc2", "mlp.fc2"): (width, size.vision_mlp),
    }
    for (ours, theirs), shape in matrices.items():
        yield Weight(f"{chat}{ours}.weight", (f"{hf}{theirs}.weight",), shape)
        yield Weight(f"{chat}{ours}.bias", (f"{hf}{theirs}.bias",), shape[:1])
    for ours, theirs in (("norm1", "layernorm_before"), ("norm2", "layernorm_after")):
        for kind in ("weight", "bias"):
            yield Weight(f"{chat}{ours}.{kind}", (f"{hf}{theirs}.{kind}",), (width,))
    for number in (1, 2):
        yield Weight(f"{chat}ls{number}", (f"{hf}lambda_{number}",), (width,))


def _projector(size: Dimensions) -> Iterator[Weight]:
    # The number is an index in the authors' nn.Sequential; 2 is the activation.
    shapes: Mapping[tuple[int, str], tuple[int, ...]] = {
        (0, "layer_norm"): (size.shuffled_width,),
        (1, "linear_1"): (size.text_width, size.shuffled_width),
        (3, "linear_2"): (size.text_width, size.text_width),
    }
    for (place, name), shape in shapes.items():
        yield Weight(f"mlp1.{place}.weight", (f"multi_modal_projector.{name}.weight",), shape)
        yield Weight(f"mlp1.{place}.bias", (f"multi_modal_projector.{name}.bias",), shape[:1])


def _language(size: Dimensions) -> Iterator[Weight]:
    width = size.text_width
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (size.vocabulary, width)}
    for layer in range(size.text_layers):
        prefix = f"language_model.model.layers.{layer}."
        for part, rows in (("q", size.query_width), ("k", size.key_width), ("v", size.key_width)):
            shapes[f"{prefix}self_attn.{part}_proj.weight"] = (rows, width)
            shapes[f"{prefix}self_attn.{part}_proj.bias"] = (rows,)
        shapes[f"{prefix}self_attn.o_proj.weight"] = (width, size.query_width)
        shapes[f"{prefix}mlp.gate_proj.weight"] = (size.text_mlp, width)
        shapes[f"{prefix}mlp.up_proj.weight"] = (size.text_mlp, width)
        shapes[f"{prefix}mlp.down_proj.weight"] = (width, size.text_mlp)
        shapes[f"{prefix}input_layernorm.weight"] = (width,)
        shapes[f"{prefix}post_attention_layernorm.weight"] = (width,)
    shapes["language_model.model.norm.weight"] = (width,)
    if size.head:
        shapes[HEAD] = (size.vocabulary, width)
    # The language model has the same names in both layouts.
    for name, shape in shapes.items():
        yield Weight(name, (name,), shape)
