"""Model for training: load or create it, add a LoRA adapter, compute the loss, and shard it over processes.

Sharded training (FSDP2) is for models that do not fit on one GPU: a sharded copy is trained, and its weights are gathered into the full
model, which stays in host memory. Checkpoints, export and the adapter of the next stage use only the full model. Sharding uses torch's
``fully_shard``, because accelerate silently disables its FSDP without a GPU.
"""

import contextlib
import copy
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from chiron.errors import InputError
from chiron.providers.local.dialogue import ChatFormat
from chiron.providers.local.families.family import ModelFamily
from chiron.providers.local.families.internvl import INTERNVL
from chiron.providers.local.families.registry import FAMILIES, known_families
from chiron.providers.local.loading import load_whole
from chiron.providers.local.tiling import ImageLayout, Tiling
from chiron.terminal import printable
from chiron.training.attention import attention_inputs, use_attention
from chiron.training.recipe import Adapter, Images, ModelPart, Recipe
from chiron.training.rows import IGNORED

_LINEAR: dict[ModelPart, str] = {
    "language": INTERNVL.lora_targets,
    "projector": r".*multi_modal_projector\.(linear_1|linear_2)",
    "vision": r".*vision_tower.*\.(q_proj|k_proj|v_proj|projection_layer|fc1|fc2)",
}
"""Regular expressions for the linear layers of each part. The language model's are the same in all families, the others are InternVL's."""


def adapted_layers(targets: Sequence[ModelPart]) -> str:
    """Return a regular expression for the full names of the layers to adapt."""
    return "|".join(_LINEAR[part] for part in dict.fromkeys(targets))


def part_of(name: str) -> ModelPart:
    """Return the part of the model that a weight belongs to, by the weight's name."""
    if "vision_tower" in name or "visual." in name:
        return "vision"
    return "projector" if "multi_modal_projector" in name else "language"


@dataclass
class LoadedModel:
    """A base model with its tokenizer."""

    model: nn.Module
    """A transformers model of a supported family."""
    tokenizer: Any
    tokens_per_tile: int
    """Number of image tokens per tile."""
    family: ModelFamily = INTERNVL
    layout: ImageLayout = field(default_factory=Tiling)
    """How the model sees images."""


def load_base(recipe: Recipe) -> LoadedModel:
    """Load the base model of a recipe and its tokenizer.

    Raises:
        InputError: The checkpoint does not exist, is of an unknown family, is incomplete, sees images in another way than the recipe says,
            or has another chat template.
    """
    import transformers

    family = _family(recipe)
    architecture = getattr(transformers, family.architecture)
    # Frozen base weights can stay in half precision; trained weights need full precision.
    trains_all = any(stage.trainable == "all" for stage in recipe.stages)
    dtype = torch.bfloat16 if recipe.precision == "bf16" and not trains_all else torch.float32
    if recipe.scratch is not None:
        torch.manual_seed(recipe.seed)
        try:
            config = getattr(transformers, family.config_class)(**recipe.scratch.config)
            # The public constructor accepts neither the attention type nor the precision.
            model = architecture._from_config(config, dtype=dtype, attn_implementation=_first_attention(recipe))  # noqa: SLF001
            tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(recipe.scratch.tokenizer)
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"recipe {recipe.name}: scratch: {_first_line(error)}") from error
    else:
        source = str(recipe.base)
        try:
            model = load_whole(architecture, source, dtype=dtype, attn_implementation=_first_attention(recipe), use_safetensors=True)
            tokenizer = transformers.AutoTokenizer.from_pretrained(source)
        except (InputError, OSError, ValueError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
            hint = "; convert an original internvl_chat checkpoint with 'chiron convert'" if Path(source).is_dir() else ""
            raise InputError(f"recipe {recipe.name}: base {source} cannot be loaded: {_first_line(error)}{hint}") from error
    try:
        layout = family.layout(model.config, recipe.base, tiling=recipe.images.tiling, max_pixels=recipe.images.max_pixels)
        _check_images(family, layout, recipe.images)
        _check_adapter(family, recipe.adapter)
        _check_template(tokenizer)
        use_attention(model, recipe)
    except (InputError, OSError, ValueError) as error:
        raise InputError(f"recipe {recipe.name}: {_first_line(error)}") from error
    if recipe.gradient_checkpointing not in {False, "none"}:
        recompute(model)
    return LoadedModel(model, tokenizer, family.tokens_per_tile(model.config), family, layout)


def _first_attention(recipe: Recipe) -> str:
    """Return the attention to load a model with: other kinds than "eager" are only for the language model, and set later."""
    return "eager" if recipe.attention == "eager" else "sdpa"


def _family(recipe: Recipe) -> ModelFamily:
    """Return the family of a recipe's base. A base whose settings cannot be read is reported when it is loaded."""
    from transformers import PreTrainedConfig

    if recipe.scratch is not None:
        kind = recipe.scratch.config.get("model_type", INTERNVL.model_type)
    else:
        try:
            kind = PreTrainedConfig.get_config_dict(str(recipe.base))[0].get("model_type", INTERNVL.model_type)
        except (OSError, ValueError):
            return INTERNVL
    if kind not in FAMILIES:
        hint = "; convert it with 'chiron convert'" if kind == "internvl_chat" else ""
        raise InputError(
            f"recipe {recipe.name}: the base has the model_type '{printable(str(kind))[:60]}', which cannot be trained: choose one of"
            f" {known_families()}{hint}"
        )
    return FAMILIES[kind]


def _check_images(family: ModelFamily, layout: ImageLayout, images: Images) -> None:
    """Check that the recipe says how this family sees images, and nothing about how others do."""
    if isinstance(layout, Tiling):
        if images.tile != layout.tile:
            raise InputError(f"images.tile is {images.tile}, but the base needs {layout.tile}: set it to {layout.tile}")
        if images.max_pixels is not None:
            raise InputError(f"images.max_pixels does not apply to {family.name}, which cuts images into tiles: set max_tiles instead")
    elif images.tiling != Tiling():
        raise InputError(
            f"images.tile, max_tiles, max_tiles_per and thumbnail do not apply to {family.name}, which sees images at their own resolution:"
            " remove them, and set max_pixels instead"
        )


def _check_adapter(family: ModelFamily, adapter: Adapter | None) -> None:
    """Check that the adapter's targets are parts whose layers are known."""
    others = [part for part in (adapter or Adapter()).targets if part != "language"]
    if others and family.vision_tower != INTERNVL.vision_tower:
        raise InputError(f"adapter.targets: {others[0]} is only known for the families of InternVL, not for {family.name}: remove it")


def _check_template(tokenizer: Any) -> None:
    """Check that the base's own chat template, if it has one, marks assistant turns as training does."""
    from jinja2 import TemplateError

    if not getattr(tokenizer, "chat_template", None):
        return
    chat = ChatFormat()
    turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "reply"}]
    wanted = f"{chat.start}assistant{chat.after_role}reply{chat.end}"
    try:
        written = str(tokenizer.apply_chat_template(turns, tokenize=False))
    except (TemplateError, TypeError, ValueError) as error:
        raise InputError(
            f"the base's chat template cannot be used ({_first_line(error)}): use the tokenizer of the published model"
        ) from error
    if wanted not in written:
        raise InputError(
            f"the base's chat template does not mark assistant turns with {wanted!r}, so the model would be asked in"
            " another form than it is trained in: use a base with ChatML turns, or remove its chat template"
        )


def add_adapter(model: nn.Module, adapter: Adapter) -> nn.Module:
    """Add LoRA to the parts that ``adapter`` names; only the adapter is trained, in full precision."""
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        target_modules=adapted_layers(adapter.targets),
        use_rslora=adapter.rslora,
        use_dora=adapter.dora,
        task_type="CAUSAL_LM",
        bias="none",
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
    """Training loss in nats, summed over a batch: cross-entropy, or the DPO loss of preference pairs.

    The head is computed only at labeled positions.
    """

    def __init__(self, model: nn.Module, *, beta: float = 0.1) -> None:
        """``model`` with or without an adapter. ``beta``: weight of the log-ratios in the DPO loss."""
        super().__init__()
        self.model = model
        self.beta = beta

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        labels: Tensor,
        pixel_values: Tensor | None,
        weights: Tensor | None = None,
        conversations: Tensor | None = None,
        reference: Tensor | None = None,
        image_grid_thw: Tensor | None = None,
    ) -> Tensor:
        """Compute the summed loss, a scalar; ``weights`` multiplies the loss of each label.

        Shapes: ``input_ids``, ``labels``, ``weights`` and ``conversations`` are (lines, length); ``reference`` is (pairs, 2); those of
        ``position_ids``, ``pixel_values`` and ``image_grid_thw`` depend on the family (:class:`~chiron.training.batches.PackedBatch`). With
        ``conversations``, the loss of a pair is
        ``-log sigmoid(beta * ((log p(chosen) - log ref(chosen)) - (log p(rejected) - log ref(rejected))))``. Without ``reference``, the
        log-probabilities of the conversations are returned, (2 * pairs,).

        There is no attention mask: positions that restart at 0 separate packed rows; a mask of ones would let them attend to each other.
        """
        inner = plain(self.model)
        rows = attention_inputs(inner, position_ids if position_ids.ndim == 2 else position_ids[0])
        images = {} if image_grid_thw is None else {"image_grid_thw": image_grid_thw}
        hidden = inner.model(
            input_ids=input_ids,
            position_ids=position_ids,
            pixel_values=pixel_values,
            **images,
            **rows,
            attention_mask=None,
            use_cache=False,
        ).last_hidden_state
        targets = labels[:, 1:]
        chosen = targets != IGNORED
        hidden, learned = hidden[:, :-1][chosen], targets[chosen]
        if weights is None and conversations is None:
            return torch.stack(cross_entropy(inner.lm_head, hidden, learned, reduction="sum")).sum()
        losses = torch.cat(cross_entropy(inner.lm_head, hidden, learned, reduction="none"))
        if conversations is None:
            assert weights is not None  # noqa: S101
            return (losses * weights[:, 1:][chosen]).sum()
        count = 2 * len(reference) if reference is not None else int(conversations.max()) + 1
        log_probabilities = losses.new_zeros(count).index_add(0, conversations[:, 1:][chosen], -losses)
        if reference is None:
            return log_probabilities
        ratios = log_probabilities.view(-1, 2) - reference
        return -nn.functional.logsigmoid(self.beta * (ratios[:, 0] - ratios[:, 1])).sum()


CHUNK = 2048
"""Tokens whose logits exist at the same time. With 152,000 words, they take 3 GiB with their gradient."""


def cross_entropy(head: nn.Module, hidden: Tensor, targets: Tensor, *, reduction: Literal["sum", "none"]) -> list[Tensor]:
    """Cross-entropy of tokens in nats, in chunks of :data:`CHUNK` tokens; more than one chunk computes its logits again when backward.

    ``hidden``: ``(tokens, hidden)``; ``targets``: ``(tokens,)``. Each chunk is a scalar (``sum``) or ``(tokens,)`` (``none``).
    """

    def chunk(states: Tensor, words: Tensor) -> Tensor:
        return nn.functional.cross_entropy(head(states).float(), words, reduction=reduction)

    if len(targets) <= CHUNK:
        return [chunk(hidden, targets)]
    parts = zip(hidden.split(CHUNK), targets.split(CHUNK), strict=True)
    return [checkpoint(chunk, states, words, use_reentrant=False) for states, words in parts]


def plain(model: nn.Module) -> Any:
    """Return the transformers model without its adapter wrapper, if any."""
    return model.get_base_model() if hasattr(model, "peft_config") else model  # type: ignore[operator]


def recompute(model: Any) -> None:
    """Turn on gradient checkpointing in all layers; the method name depends on the release of transformers."""
    settings = {"use_reentrant": False}
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=settings)
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=settings)
    _stop_at_frozen_embeddings(model)


def recompute_only(model: nn.Module, layers: int) -> None:
    """Of a model with gradient checkpointing, compute only the activations of the language model's first ``layers`` again."""
    for number, layer in enumerate(language_layers(model)):
        layer.gradient_checkpointing = number < layers


def language_layers(model: nn.Module) -> Any:
    """Return the layers of the language model."""
    return plain(model).model.language_model.layers


def compile_layers(model: nn.Module, *, backend: str = "inductor") -> None:
    """Compile the layers of the language model and of the vision tower, one by one: equal layers share the compiled code."""
    for module in plain(model).model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.compile(dynamic=True, backend=backend)  # lines and images differ in size


def _stop_at_frozen_embeddings(model: Any) -> None:
    """Stop gradients at frozen embeddings.

    With gradient checkpointing, transformers and peft let gradients flow into every embedding, which only reentrant checkpointing needs.
    The patch embedding is one of them, so a frozen vision tower would be recomputed and differentiated without need.
    """
    model.disable_input_require_grads()


def _first_line(error: BaseException) -> str:
    return re.sub(r"\s+", " ", str(error)).strip()[:300] or type(error).__name__


class ShardedLoss(Loss):
    """Loss of a sharded model that gives every trained weight a gradient, even without images.

    FSDP reduces all gradients as one flat vector. A process without gradients for the vision tower would shift the vector for the others.
    """

    def forward(self, **inputs: Tensor | None) -> Tensor:  # type: ignore[override]
        """Compute the summed loss; see :meth:`Loss.forward`."""
        loss = super().forward(**inputs)  # type: ignore[arg-type]
        if inputs["pixel_values"] is None:
            for weight in self.image_weights():
                loss = loss + 0.0 * weight.sum()
        return loss

    def image_weights(self) -> list[nn.Parameter]:
        """Trained weights that text-only batches do not use."""
        inner = plain(self.model).model
        parts = [part for name, part in inner.named_children() if name != ModelFamily.language_model]
        return [p for part in parts for p in part.parameters() if p.requires_grad]


def sharded(model: nn.Module, device: torch.device, world: int, *, beta: float = 0.1) -> ShardedLoss:
    """Shard a copy of ``model`` over ``world`` processes on ``device`` and wrap it in its loss.

    All processes must call this with equal weights. Only the language model's layers are sharded one by one. Vision tower, projector,
    embedding and head are gathered together at the start of a batch. Otherwise, a process with a text-only batch would skip the vision
    tower while the others wait for it there.
    """
    loss = ShardedLoss(copy.deepcopy(model), beta=beta)
    mesh = init_device_mesh(device.type, (world,))
    # Weights keep their types; autocast decides what is computed in half precision, as without shards.
    settings: dict[str, Any] = {"mesh": mesh, "mp_policy": MixedPrecisionPolicy()}
    for layer in language_layers(loss.model):
        fully_shard(layer, **settings)
    fully_shard(loss, **settings)
    return loss


def copy_from_shards(loss: nn.Module, model: nn.Module) -> None:
    """Copy the trained weights of a sharded ``loss`` into the full ``model``. All processes must call this together."""
    learned = {name.removeprefix("model."): p for name, p in loss.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.requires_grad:
                weight.copy_(gather(learned[name]))


def gather_state(state: dict[str, Any], *, keep: bool) -> dict[str, Any]:
    """Gather an optimizer's state into host memory. All processes must call this together.

    ``keep``: whether this process needs the result; otherwise sharded tensors are None.
    """

    def taken(value: Any) -> Any:
        if not isinstance(value, DTensor):
            return value
        # Gather one tensor at a time; all of them would not fit in GPU memory in addition to the shards.
        put_together = value.full_tensor()
        return put_together.cpu() if keep else None

    return {**state, "state": {number: {key: taken(v) for key, v in one.items()} for number, one in state["state"].items()}}


def split_state(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Shard a full optimizer state like the weights of ``optimizer``."""
    weights = [p for group in optimizer.param_groups for p in group["params"]]

    def part(value: Any, like: Tensor) -> Any:
        if not isinstance(value, Tensor) or value.shape != like.shape or not isinstance(like, DTensor):
            return value  # the step count is a scalar
        # Every process has the full tensor, so no communication is needed.
        return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)

    return {**state, "state": {n: {key: part(v, weights[int(n)]) for key, v in one.items()} for n, one in state["state"].items()}}


def gather(value: Any) -> Any:
    """Gather a tensor from its shards; return other values unchanged. All processes must call this together."""
    return value.full_tensor() if isinstance(value, DTensor) else value


@contextlib.contextmanager
def no_gradient_sync(loss: nn.Module) -> Iterator[None]:
    """Accumulate gradients locally; the next backward pass outside this context exchanges them."""
    if not isinstance(loss, FSDPModule):
        raise TypeError("only a sharded loss can delay its gradients")
    loss.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        loss.set_requires_gradient_sync(True)
