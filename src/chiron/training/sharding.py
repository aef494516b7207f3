"""Sharded training with FSDP2, for models that do not fit on one GPU.

Train a sharded copy and gather its weights into the full model, which stays in host memory. Checkpoints, export and the adapter of the
next stage use only the full model. Sharding uses torch's ``fully_shard``, because accelerate silently disables its FSDP without a GPU.
Processes, precision and synchronization are still handled by accelerate.
"""

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from chiron.training.model import Loss, plain


class ShardedLoss(Loss):
    """Loss of a sharded model that gives every trained weight a gradient, even without images.

    FSDP reduces all gradients as one flat vector. A process without gradients for the vision tower would shift the vector for the others.
    """

    def forward(
        self, input_ids: Tensor, position_ids: Tensor, labels: Tensor, pixel_values: Tensor | None, weights: Tensor | None = None
    ) -> Tensor:
        """Compute the summed loss; see :meth:`Loss.forward`."""
        summed = super().forward(input_ids, position_ids, labels, pixel_values, weights)
        if pixel_values is None:
            for weight in self.image_weights():
                summed = summed + 0.0 * weight.sum()
        return summed

    def image_weights(self) -> list[nn.Parameter]:
        """Trained weights that text-only batches do not use."""
        inner = plain(self.model).model
        return [p for part in (inner.vision_tower, inner.multi_modal_projector) for p in part.parameters() if p.requires_grad]


def sharded(model: nn.Module, device: torch.device, world: int) -> ShardedLoss:
    """Shard a copy of ``model`` over ``world`` processes on ``device`` and wrap it in its loss.

    All processes must call this with equal weights. Only the language model's layers are sharded one by one. Vision tower, projector,
    embedding and head are gathered together at the start of a batch. Otherwise, a process with a text-only batch would skip the vision
    tower while the others wait for it there.
    """
    loss = ShardedLoss(copy.deepcopy(model))
    mesh = init_device_mesh(device.type, (world,))
    # Weights keep their types; autocast decides what is computed in half precision, as without shards.
    settings: dict[str, Any] = {"mesh": mesh, "mp_policy": MixedPrecisionPolicy()}
    for layer in plain(loss.model).model.language_model.layers:
        fully_shard(layer, **settings)
    fully_shard(loss, **settings)
    return loss


def bring_home(loss: nn.Module, model: nn.Module) -> None:
    """Copy the trained weights of a sharded ``loss`` into the full ``model``. All processes must call this together."""
    learned = {name.removeprefix("model."): p for name, p in loss.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.requires_grad:
                weight.copy_(whole(learned[name]))


def whole_state(state: dict[str, Any], *, keep: bool) -> dict[str, Any]:
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


def whole(value: Any) -> Any:
    """Gather a tensor from its shards; return other values unchanged. All processes must call this together."""
    return value.full_tensor() if isinstance(value, DTensor) else value


@contextlib.contextmanager
def unexchanged(loss: nn.Module) -> Iterator[None]:
    """Accumulate gradients locally; the next backward pass outside this context exchanges them."""
    if not isinstance(loss, FSDPModule):
        raise TypeError("only a sharded loss can hold its gradients back")
    loss.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        loss.set_requires_gradient_sync(True)
