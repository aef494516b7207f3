"""Model in training: add a LoRA adapter, compute the loss, and shard it over processes.

Sharded training (FSDP2) is for models that do not fit on one GPU: a sharded copy is trained, and its weights are gathered into the full
model, which stays in host memory. Checkpoints, export and the adapter of the next stage use only the full model. Sharding uses torch's
``fully_shard``, because accelerate silently disables its FSDP without a GPU.
"""

import copy
import warnings
from collections.abc import Collection, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from chiron.providers.local.families.registry import FAMILIES
from chiron.training.attention import attention_inputs
from chiron.training.encoding import IGNORED
from chiron.training.recipe import Adapter, ModelPart

_LINEAR: dict[ModelPart, str] = {
    "language": r".*DECODER.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)",
    "projector": r".*(multi_modal_projector|connector\.modality_projection|visual\.(merger|deepstack_merger_list)).*"
    r"\.(linear_1|linear_2|proj|mlp\.0|mlp\.2|linear_fc1|linear_fc2)",
    "vision": r".*(vision_tower|vision_model|visual\.blocks).*\.(q_proj|k_proj|v_proj|projection_layer|out_proj|qkv|proj|fc1|fc2"
    r"|linear_fc1|linear_fc2|gate_proj|up_proj|down_proj)",
}
"""Regular expressions for the linear layers of each part, in all families. Vision towers have layers of the language model's names."""


def adapted_layers(targets: Sequence[ModelPart], model: Any) -> str:
    """Return a regular expression for the full names of the layers of ``model`` to adapt."""
    decoder = next(name for name, part in model.model.named_children() if part is model.get_decoder())
    # One group for the language model alone: older releases of vLLM read no other expressions.
    return "|".join(_LINEAR[part] for part in dict.fromkeys(targets)).replace("DECODER", decoder)


def part_of(name: str) -> ModelPart:
    """Return the part of the model that a weight belongs to, by the weight's name."""
    if any(projector in name for projector in ("multi_modal_projector", "connector.", "visual.merger", "visual.deepstack_merger_list")):
        return "projector"
    return "vision" if any(tower in name for tower in ("vision_tower", "vision_model", "visual.")) else "language"


def add_adapter(model: nn.Module, adapter: Adapter) -> nn.Module:
    """Add LoRA to the parts that ``adapter`` names; only the adapter is trained, in full precision."""
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        target_modules=adapted_layers(adapter.targets, model),
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


def train_parts(model: nn.Module, parts: Collection[ModelPart]) -> None:
    """Make every weight of these parts trainable, and no other."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad = part_of(name) in parts


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

        Positions that restart at 0 separate packed rows; most families need no mask. One of ones would let rows attend to each other.
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
            attention_mask=FAMILIES[inner.config.model_type].packed_mask(inner.config, input_ids, position_ids),
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
    parts = zip(torch.split(hidden, CHUNK), torch.split(targets, CHUNK), strict=True)
    return [checkpoint(chunk, states, words, use_reentrant=False) for states, words in parts]


def plain(model: nn.Module) -> Any:
    """Return the transformers model without its adapter wrapper, if any."""
    # peft sets "peft_config" on the model inside, too.
    return model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]


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
    return plain(model).get_decoder().layers


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
        parts = [part for part in inner.children() if part is not inner.get_decoder()]
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
