"""Floating-point operations of training, by part of the model."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from chiron.providers.local.families.family import ModelFamily
from chiron.training.model import plain
from chiron.training.quantization import count_weights
from chiron.training.recipe import Adapter, Recipe, Stage
from chiron.training.rows import Encoded, trained_tokens


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
