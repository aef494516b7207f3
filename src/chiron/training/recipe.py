"""What a training run is: a base model, an adapter, and a list of stages from simple to complex. YAML, checked."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, ValidationError, model_validator

from chiron.client.config import Strict, SystemText
from chiron.errors import InputError
from chiron.io import read_yaml
from chiron.providers.local.tiling import Tiling
from chiron.training.encoding import LossWeighting

Share = Annotated[float, Field(ge=0, lt=1)]


class Adapter(Strict):
    """LoRA on the language model's linear layers; the vision tower and the projector stay as they are."""

    rank: PositiveInt = 16
    alpha: PositiveInt = 32
    dropout: Share = 0.05


class Images(Strict):
    """How images become tiles, as the authors do it."""

    tile: PositiveInt = 448
    """Side in pixels."""
    max_tiles: PositiveInt = 6
    """For all images of a row together, each of which gets ``max(1, max_tiles // images)``; or for each image."""
    max_tiles_per: Literal["row", "image"] = "row"
    """``row``: as the authors train; ``image``: as they ask."""
    thumbnail: bool = True
    """Whether an image of several tiles is also shown whole, as one tile more."""

    @property
    def tiling(self) -> Tiling:
        """The same, as images are cut."""
        return Tiling(self.tile, self.max_tiles, self.thumbnail, per_image=self.max_tiles_per == "image")


class Scratch(Strict):
    """A model from a configuration, all weights random."""

    tokenizer: str
    """A folder with ``tokenizer.json``."""
    config: dict[str, Any]
    """Of an ``InternVLForConditionalGeneration``, as in its ``config.json``."""


class Batch(Strict):
    """How much an optimizer step sees: one of the two."""

    tokens: PositiveInt | None = None
    """Real tokens, images included; as many packed lines as reach it."""
    rows: PositiveInt | None = None
    """Exactly so many shuffled rows, packed within the step; the last step of an epoch has what is left."""

    @model_validator(mode="after")
    def _one(self) -> "Batch":
        if (self.tokens is None) == (self.rows is None):
            raise ValueError("give either tokens or rows")
        return self


class Stage(Strict):
    """One stage of the curriculum."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,40}$")]
    data: str
    """A JSONL file of rows in the data folder."""
    train: Literal["adapter", "all"] = "adapter"
    """The adapter, or every weight (before there is an adapter)."""
    replay: dict[str, Share] = Field(default_factory=dict)
    """Share of the tokens taken from earlier stages' data, by their names."""
    epochs: PositiveFloat | None = None
    steps: PositiveInt | None = None
    batch: Batch
    learning_rate: PositiveFloat
    warmup: Share = 0.03
    """Share of the steps in which the learning rate rises; then it falls as a cosine to zero."""
    held_out: str | None = None
    """A JSONL file of rows whose loss is measured at the stage's end."""

    @model_validator(mode="after")
    def _length(self) -> "Stage":
        if (self.epochs is None) == (self.steps is None):
            raise ValueError(f"stage {self.name}: give either epochs or steps")
        if sum(self.replay.values()) >= 1:
            raise ValueError(f"stage {self.name}: replay takes all of it")
        return self


class Recipe(Strict):
    """A whole training run."""

    name: str
    base: str | None = None
    """A folder or a hub id of a HF-native InternVL checkpoint (``chiron convert`` makes one of an original)."""
    scratch: Scratch | None = None
    adapter: Adapter | None = Adapter()
    system: SystemText | None = None
    """Said before rows that bring no system turn: ``internvl2_5`` (InternVL's own message) or a text; nothing by default."""
    loss_weighting: LossWeighting = "token"
    """What weighs the same in a step: every trained token, every row, or a row by the root of its trained tokens."""
    images: Images = Images()
    sequence: PositiveInt = 8192
    """Tokens of a packed line; a longer row is an error before training starts."""
    lines_at_once: PositiveInt = 1
    """Packed lines in one forward pass."""
    precision: Literal["fp32", "bf16"] = "bf16"
    gradient_checkpointing: bool = False
    shard: bool = False
    """Whether several processes split the weights among them (FSDP2), where one GPU does not hold them; slower."""
    attention: Literal["sdpa", "eager"] = "sdpa"
    weight_decay: NonNegativeFloat = 0.05
    betas: tuple[Share, Share] = (0.9, 0.999)
    clip: PositiveFloat = 1.0
    """The gradient's norm is cut to this."""
    seed: int = 0
    workers: PositiveInt = 2
    """Threads that decode images ahead of the model."""
    checkpoint_every: PositiveInt = 200
    """Steps between checkpoints."""
    tensorboard: bool = False
    """Whether TensorBoard's event files are written beside ``metrics.jsonl``."""
    earlier: dict[str, str] = Field(default_factory=dict)
    """Data of stages that the base model has behind it, by the stages' names: not trained on, but may be replayed."""
    stages: Annotated[list[Stage], Field(min_length=1)]

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        if (self.base is None) == (self.scratch is None):
            raise ValueError("give either base or scratch")
        seen: list[str] = list(self.earlier)
        adapted = False
        for stage in self.stages:
            if stage.name in seen:
                raise ValueError(f"two stages are called '{stage.name}'; those of earlier are counted too")
            if unknown := [name for name in stage.replay if name not in seen]:
                raise ValueError(f"stage {stage.name} replays '{unknown[0]}', which is no earlier stage")
            if stage.train == "adapter" and self.adapter is None:
                raise ValueError(f"stage {stage.name} trains the adapter, but the recipe has none")
            if stage.train == "all" and adapted:
                raise ValueError(f"stage {stage.name} trains all weights after a stage that trained the adapter; put it before")
            adapted = adapted or stage.train == "adapter"
            seen.append(stage.name)
        return self


def load_recipe(path: Path) -> Recipe:
    """Read and check a recipe.

    Raises:
        InputError: with the place of the fault.
    """
    data = read_yaml(path, "recipe")
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        place = ".".join(map(str, fault["loc"]))
        message = fault["msg"].replace("Value error, ", "")
        raise InputError(f"recipe {path}: {f'{place}: ' if place else ''}{message}") from None
