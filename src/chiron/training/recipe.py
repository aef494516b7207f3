"""Training recipe in YAML: a base model, an adapter, and a list of stages from simple to complex."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, ValidationError, model_validator

from chiron.client.config import Strict, SystemText
from chiron.errors import InputError
from chiron.io import read_yaml
from chiron.providers.local.tiling import Tiling
from chiron.training.rows import LossWeighting

Share = Annotated[float, Field(ge=0, lt=1)]


class Adapter(Strict):
    """LoRA settings for the language model's linear layers; the vision tower and the projector stay frozen."""

    rank: PositiveInt = 16
    alpha: PositiveInt = 32
    dropout: Share = 0.05


class Images(Strict):
    """How the model sees images. Tiles are for InternVL; their defaults follow the authors' training code."""

    tile: PositiveInt = 448
    """Side of a tile in pixels."""
    max_tiles: PositiveInt = 6
    """Maximum number of tiles, per row or per image. If per row, each image gets ``max(1, max_tiles // images)``."""
    max_tiles_per: Literal["row", "image"] = "row"
    """``row``: as in the authors' training; ``image``: as in their inference."""
    thumbnail: bool = True
    """Whether an image of several tiles also gets one more tile that shows the whole image."""
    max_pixels: PositiveInt | None = None
    """Only for families without tiles (Qwen-VL): larger images are scaled down to this number of pixels. Default: the
    checkpoint's setting.
    """

    @property
    def tiling(self) -> Tiling:
        """These settings as a :class:`Tiling`."""
        return Tiling(self.tile, self.max_tiles, self.thumbnail, per_image=self.max_tiles_per == "image")


class Scratch(Strict):
    """A model with random weights, built from a configuration."""

    tokenizer: str
    """Folder with ``tokenizer.json``."""
    config: dict[str, Any]
    """Configuration as in ``config.json``; ``model_type`` names the family (default: ``internvl``)."""


class Batch(Strict):
    """Size of an optimizer step, in tokens or in rows; set exactly one."""

    tokens: PositiveInt | None = None
    """Real tokens, image tokens included; packed lines are added until they reach this number."""
    rows: PositiveInt | None = None
    """Exact number of shuffled rows, packed within the step; the last step of an epoch has the remaining rows."""

    @model_validator(mode="after")
    def _one(self) -> "Batch":
        if (self.tokens is None) == (self.rows is None):
            raise ValueError("give either tokens or rows")
        return self


class Stage(Strict):
    """One stage of the curriculum."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,40}$")]
    data: str
    """JSONL file of rows in the data folder."""
    trainable: Literal["adapter", "all"] = "adapter"
    """Train the adapter, or every weight (only before the first stage with an adapter)."""
    objective: Literal["sft", "dpo"] = "sft"
    """``sft``: learn the assistant's text. ``dpo``: learn from pairs of a chosen and a rejected reply (direct preference optimization)."""
    beta: PositiveFloat = 0.1
    """Only for ``dpo``: how strongly the model is kept near the reference, the model at the start of the stage."""
    replay: dict[str, Share] = Field(default_factory=dict)
    """Share of the tokens taken from earlier stages' data, by stage name."""
    epochs: PositiveFloat | None = None
    steps: PositiveInt | None = None
    batch: Batch
    learning_rate: PositiveFloat
    warmup: Share = 0.03
    """Share of the steps in which the learning rate rises; then it decays as a cosine to zero."""
    held_out: str | None = None
    """JSONL file of rows whose loss is measured at the end of the stage."""

    @model_validator(mode="after")
    def _length(self) -> "Stage":
        if (self.epochs is None) == (self.steps is None):
            raise ValueError(f"stage {self.name}: give either epochs or steps")
        if sum(self.replay.values()) >= 1:
            raise ValueError(f"stage {self.name}: the shares of replay must sum to less than 1")
        if self.objective == "dpo" and self.replay:
            raise ValueError(f"stage {self.name}: objective: dpo does not support replay; remove it")
        if self.objective == "sft" and self.beta != type(self).model_fields["beta"].default:
            raise ValueError(f"stage {self.name}: beta belongs to objective: dpo; remove it")
        return self


class Recipe(Strict):
    """Settings of a complete training run."""

    name: str
    base: str | None = None
    """Folder or hub id of a checkpoint in transformers' layout (``chiron convert`` creates one from an original InternVL).
    ``chiron train --list-bases`` prints the families.
    """
    scratch: Scratch | None = None
    adapter: Adapter | None = Adapter()
    system: SystemText | None = None
    """System message for rows without one: ``internvl2_5`` (InternVL's own message) or a text. Default: that of the family's
    published template; ``none`` for none.
    """
    loss_weighting: LossWeighting = "token"
    """Total loss weight of a row: its number of trained tokens (``token``), 1 (``sample``), or the root of that number (``square``)."""
    images: Images = Images()
    max_seq_length: PositiveInt = 8192
    """Maximum tokens of a packed line; a longer row is an error before training starts."""
    micro_batch_size: PositiveInt = 1
    """Packed lines in one forward pass."""
    precision: Literal["fp32", "bf16"] = "bf16"
    gradient_checkpointing: bool = False
    shard: bool = False
    """Whether to shard the weights over processes (FSDP2). Slower; for models that do not fit on one GPU."""
    attention: Literal["sdpa", "eager"] = "sdpa"
    weight_decay: NonNegativeFloat = 0.05
    betas: tuple[Share, Share] = (0.9, 0.999)
    clip: PositiveFloat = 1.0
    """Maximum gradient norm."""
    seed: int = 0
    workers: PositiveInt = 2
    """Number of threads that decode images ahead of the model."""
    checkpoint_every: PositiveInt = 200
    """Steps between checkpoints."""
    tensorboard: bool = False
    """Whether to write TensorBoard event files in addition to ``metrics.jsonl``."""
    base_stages: dict[str, str] = Field(default_factory=dict)
    """Data files of stages that the base model was already trained on, by stage name. Used only for replay."""
    stages: Annotated[list[Stage], Field(min_length=1)]

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        if (self.base is None) == (self.scratch is None):
            raise ValueError("give either base or scratch")
        seen: list[str] = list(self.base_stages)
        adapted = False
        for stage in self.stages:
            if stage.name in seen:
                raise ValueError(f"two stages are called '{stage.name}' (base_stages included): rename one")
            if unknown := [name for name in stage.replay if name not in seen]:
                raise ValueError(f"stage {stage.name} replays '{unknown[0]}', which is not an earlier stage or one of base_stages")
            if pairs := [s.name for s in self.stages if s.objective == "dpo" and s.name in stage.replay]:
                raise ValueError(f"stage {stage.name} replays '{pairs[0]}', whose rows are preference pairs; remove it")
            if stage.trainable == "adapter" and self.adapter is None:
                raise ValueError(f"stage {stage.name} trains the adapter, but the recipe has none: set adapter, or trainable: all")
            if stage.trainable == "all" and adapted:
                raise ValueError(f"stage {stage.name} trains all weights after a stage that trained the adapter; put it before")
            adapted = adapted or stage.trainable == "adapter"
            seen.append(stage.name)
        return self


def load_recipe(path: Path) -> Recipe:
    """Read and check a recipe.

    Raises:
        InputError: The recipe cannot be read or is invalid. The message names the key.
    """
    data = read_yaml(path, "recipe")
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        place = ".".join(map(str, fault["loc"]))
        message = fault["msg"].replace("Value error, ", "")
        raise InputError(f"recipe {path}: {f'{place}: ' if place else ''}{message}") from None
