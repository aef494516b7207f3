"""Training recipe in YAML: a base model, an adapter, and a list of stages from simple to complex."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, ValidationError, model_validator

from chiron.client.config import Strict, SystemText
from chiron.client.config_file import explain
from chiron.errors import InputError
from chiron.providers.local.tiling import Tiling
from chiron.terminal import printable
from chiron.training.encoding import LossWeighting
from chiron.yaml_file import read_yaml

Share = Annotated[float, Field(ge=0, lt=1)]
ModelPart = Literal["language", "projector", "vision"]
Attention = Literal["auto", "varlen", "flash_attention_2", "flex_attention", "sdpa", "eager"]


class Adapter(Strict):
    """LoRA settings. By default, only the language model's linear layers are adapted."""

    rank: PositiveInt = 16
    alpha: PositiveInt = 32
    dropout: Share = 0.05
    targets: Annotated[tuple[ModelPart, ...], Field(min_length=1)] = ("language",)
    """Parts whose linear layers are adapted. The others stay frozen."""
    rslora: bool = False
    """Scale the adapter by ``alpha / sqrt(rank)`` (rank-stabilized LoRA) instead of ``alpha / rank``."""
    dora: bool = False
    """Learn the magnitude of each weight vector apart from its direction (DoRA). Slower."""


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
    """Only for Qwen-VL: larger images are scaled down to this number of pixels. Default: the checkpoint's setting."""
    longest_edge: PositiveInt | None = None
    """Only for SmolVLM: images are scaled to this longest side, a multiple of the tile side. Default: the checkpoint's setting."""

    @property
    def limit(self) -> int | None:
        """The limit of images' size for families without InternVL's tiles."""
        return self.max_pixels or self.longest_edge

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
    trainable: Literal["adapter", "all"] | Annotated[tuple[ModelPart, ...], Field(min_length=1)] = "adapter"
    """Train the adapter, every weight, or every weight of some parts. The last two only before the first stage with an adapter."""
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
    learning_rates: dict[ModelPart, PositiveFloat] = Field(default_factory=dict)
    """Learning rates of parts that differ from ``learning_rate``. They rise and fall together."""
    warmup: Share = 0.03
    """Share of the steps in which the learning rate rises; then it decays as a cosine to zero."""
    held_out: str | None = None
    """JSONL file of rows whose loss is measured at the end of the stage."""
    held_out_every: PositiveInt | None = None
    """Also measure the held-out loss after every so many steps."""
    answers: NonNegativeInt = 0
    """Number of held-out rows whose last reply is generated and scored at each measurement."""
    answer_tokens: PositiveInt = 512
    """Maximum length of these replies."""
    keep_best: bool = False
    """Whether the stage ends with the weights of the lowest held-out loss; otherwise with the last ones."""
    patience: PositiveInt | None = None
    """End the stage early after so many measurements in a row that are no better than the best one."""

    @property
    def trained_parts(self) -> frozenset[ModelPart]:
        """Parts whose own weights are trained; empty if the adapter is."""
        if self.trainable == "adapter":
            return frozenset()
        return frozenset(("language", "projector", "vision") if self.trainable == "all" else self.trainable)

    @model_validator(mode="after")
    def _length(self) -> "Stage":
        if (self.epochs is None) == (self.steps is None):
            raise ValueError(f"stage {self.name}: give either epochs or steps")
        if sum(self.replay.values()) >= 1:
            raise ValueError(f"stage {self.name}: the shares of replay must sum to less than 1")
        if self.held_out is None and (self.held_out_every or self.answers):
            raise ValueError(f"stage {self.name}: held_out_every and answers need rows: set held_out, or remove them")
        if self.held_out_every is None and (self.keep_best or self.patience):
            raise ValueError(f"stage {self.name}: keep_best and patience need several measurements: set held_out_every, or remove them")
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
    quantization: Literal["nf4"] | None = None
    """``nf4``: keep the language model's frozen weights in 4 bits (QLoRA; needs bitsandbytes)."""
    gradient_checkpointing: bool | PositiveInt | Literal["all", "none", "auto"] = False
    """Layers of the language model whose activations are computed again in the backward pass: ``all`` (or true), ``none`` (or false), the
    first so many, or as many as the free memory needs (``auto``).
    """
    compile: bool = False
    """Whether to compile the model's layers (torch.compile). Faster on a GPU after the first steps."""
    shard: bool = False
    """Whether to shard the weights over processes (FSDP2). Slower; for models that do not fit on one GPU."""
    attention: Attention = "auto"
    """How rows of a packed line attend to themselves only. ``varlen``: without a mask, in memory that grows with the line; on a GPU with
    torch's flash attention. ``sdpa`` and ``eager`` use a mask. ``auto``: ``varlen`` on a GPU in bf16, otherwise ``sdpa``.
    """
    weight_decay: NonNegativeFloat = 0.05
    betas: tuple[Share, Share] = (0.9, 0.999)
    clip: PositiveFloat = 1.0
    """Maximum gradient norm."""
    seed: int = 0
    workers: PositiveInt = 2
    """Number of threads that decode images ahead of the model."""
    tile_cache: str | None = None
    """Folder in which decoded images are kept for later epochs, resumed runs and other processes; created if missing."""
    tile_cache_gib: PositiveFloat = 50
    """Maximum size of ``tile_cache``."""
    checkpoint_every: PositiveInt = 200
    """Steps between checkpoints."""
    checkpoint_minutes: PositiveFloat | None = None
    """Also write a checkpoint after the first step that ends this many minutes after the last one."""
    tensorboard: bool = False
    """Whether to write TensorBoard event files in addition to ``metrics.jsonl``; the same as in ``trackers``."""
    trackers: list[Literal["tensorboard", "wandb", "mlflow", "trackio"]] = Field(default_factory=list)
    """Also send the metrics to these. Each reads its own environment variables (address, key)."""
    base_stages: dict[str, str] = Field(default_factory=dict)
    """Data files of stages that the base model was already trained on, by stage name. Used only for replay."""
    stages: Annotated[list[Stage], Field(min_length=1)]

    @property
    def event_files(self) -> bool:
        """Whether to write TensorBoard event files."""
        return self.tensorboard or "tensorboard" in self.trackers

    @property
    def remote_trackers(self) -> list[str]:
        """The trackers other than TensorBoard, without repetitions."""
        return [name for name in dict.fromkeys(self.trackers) if name != "tensorboard"]

    @property
    def best_stages(self) -> set[str]:
        """Names of the stages that end with their best weights."""
        return {stage.name for stage in self.stages if stage.keep_best}

    @model_validator(mode="after")
    def _quantizable(self) -> "Recipe":
        if self.quantization is not None:
            for wrong, why in (
                (self.scratch is not None, "needs a base; scratch cannot be used"),
                (self.shard, "does not support shard: remove one of them"),
                (any(stage.trained_parts for stage in self.stages), "keeps weights frozen; a stage can only train the adapter"),
            ):
                if wrong:
                    raise ValueError(f"quantization: {self.quantization} {why}")
        return self

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        if (self.base is None) == (self.scratch is None):
            raise ValueError("give either base or scratch")
        if self.compile and self.shard:
            raise ValueError("compile does not support sharded weights: remove compile or shard")
        seen: list[str] = list(self.base_stages)
        adapted = False
        for stage in self.stages:
            if stage.answers and self.shard:
                raise ValueError(f"stage {stage.name}: answers cannot be generated from sharded weights: remove answers or shard")
            if stage.name in seen:
                raise ValueError(f"two stages are called '{stage.name}' (base_stages included): rename one")
            if unknown := [name for name in stage.replay if name not in seen]:
                raise ValueError(f"stage {stage.name} replays '{unknown[0]}', which is not an earlier stage or one of base_stages")
            if pairs := [s.name for s in self.stages if s.objective == "dpo" and s.name in stage.replay]:
                raise ValueError(f"stage {stage.name} replays '{pairs[0]}', whose rows are preference pairs; remove it")
            if stage.trainable == "adapter" and self.adapter is None:
                raise ValueError(f"stage {stage.name} trains the adapter, but the recipe has none: set adapter, or trainable: all")
            self._check_parts(stage, adapted=adapted)
            adapted = adapted or stage.trainable == "adapter"
            seen.append(stage.name)
        return self

    def _check_parts(self, stage: Stage, *, adapted: bool) -> None:
        """Check which weights a stage trains; ``adapted``: whether an earlier stage trained the adapter."""
        trained = stage.trained_parts or set((self.adapter or Adapter()).targets)
        if frozen := set(stage.learning_rates) - trained:
            key = "trainable" if stage.trained_parts else "adapter.targets"
            raise ValueError(f"stage {stage.name}: learning_rates names '{min(frozen)}', which is frozen: add it to {key}")
        if stage.trained_parts and adapted:
            raise ValueError(f"stage {stage.name} trains weights of the base after a stage that trained the adapter; put it before")
        if stage.trained_parts and stage.trained_parts != self.stages[0].trained_parts:
            raise ValueError(f"stage {stage.name} trains other parts than stage {self.stages[0].name}: use the same trainable in both")


def builtin_recipe(name: str) -> Path:
    """Return the file of a recipe that is part of the package.

    Raises:
        InputError: there is no recipe of this name; the message lists the names.
    """
    known = {path.stem: path for path in sorted((Path(__file__).parent / "recipes").glob("*.yaml"))}
    if name not in known:
        raise InputError(f"unknown recipe {printable(name)!r}; choose one of {', '.join(known)}, or give the path of a file as RECIPE")
    return known[name]


def load_recipe(path: Path) -> Recipe:
    """Read and check a recipe.

    Raises:
        InputError: the recipe cannot be read or is invalid; the message names all faults with line and column.
    """
    data = read_yaml(path, "recipe")
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise InputError(f"recipe {path}{explain(Recipe, error, path)}") from None
