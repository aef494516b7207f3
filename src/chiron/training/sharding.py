"""Weights split over processes (FSDP2), for a model that one GPU does not hold.

A sharded copy is trained, and what it learned comes home to the plain model, which waits in the host's memory: checkpoints, export and the
next stage's adapter know nothing of shards. Splitting is torch's own ``fully_shard``, since accelerate leaves its FSDP out, without a word,
where there is no GPU; processes, precision and meetings are accelerate's as ever.
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
    """The loss of a sharded model, in which every process computes with every trained weight, images or not.

    Gradients are split among the processes as one long vector, so a process that had none for the vision tower would hand the others theirs
    in the wrong places.
    """

    def forward(
        self, input_ids: Tensor, position_ids: Tensor, labels: Tensor, pixel_values: Tensor | None, weights: Tensor | None = None
    ) -> Tensor:
        """As :meth:`Loss.forward`."""
        summed = super().forward(input_ids, position_ids, labels, pixel_values, weights)
        if pixel_values is None:
            for weight in self.image_weights():
                summed = summed + 0.0 * weight.sum()
        return summed

    def image_weights(self) -> list[nn.Parameter]:
        """The trained weights that text alone does not pass through."""
        inner = plain(self.model).model
        return [p for part in (inner.vision_tower, inner.multi_modal_projector) for p in part.parameters() if p.requires_grad]


def sharded(model: nn.Module, device: torch.device, world: int) -> ShardedLoss:
    """A copy of ``model``, split over ``world`` processes on ``device``, in its loss. All processes call it, with equal weights.

    Only the language model's layers are split one by one. Vision tower, projector, embedding and head are gathered together when a batch
    begins: a batch of text alone never comes by the vision tower, and would leave the others waiting there.
    """
    loss = ShardedLoss(copy.deepcopy(model))
    mesh = init_device_mesh(device.type, (world,))
    # Numbers keep the types that they have; autocast chooses what is computed in half precision, as without shards.
    settings: dict[str, Any] = {"mesh": mesh, "mp_policy": MixedPrecisionPolicy()}
    for layer in plain(loss.model).model.language_model.layers:
        fully_shard(layer, **settings)
    fully_shard(loss, **settings)
    return loss


def bring_home(loss: nn.Module, model: nn.Module) -> None:
    """Copy the trained weights of a sharded ``loss`` into the plain ``model``. All processes call it together."""
    learned = {name.removeprefix("model."): p for name, p in loss.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.requires_grad:
                weight.copy_(whole(learned[name]))


def whole_state(state: dict[str, Any], *, keep: bool) -> dict[str, Any]:
    """An optimizer's state as it would be without shards, in the host's memory; nothing of use unless ``keep``.

    All processes call it together.
    """

    def taken(value: Any) -> Any:
        if not isinstance(value, DTensor):
            return value
        # One after the other: whole, they would not fit beside the shards.
        put_together = value.full_tensor()
        return put_together.cpu() if keep else None

    return {**state, "state": {number: {key: taken(v) for key, v in one.items()} for number, one in state["state"].items()}}


def split_state(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """A whole state, split as the weights of ``optimizer`` are."""
    weights = [p for group in optimizer.param_groups for p in group["params"]]

    def part(value: Any, like: Tensor) -> Any:
        if not isinstance(value, Tensor) or value.shape != like.shape or not isinstance(like, DTensor):
            return value  # the number of steps
        # Every process has read the whole; none has to be sent its part.
        return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)

    return {**state, "state": {n: {key: part(v, weights[int(n)]) for key, v in one.items()} for n, one in state["state"].items()}}


def whole(value: Any) -> Any:
    """A tensor put together from its shards; anything else as it is. All processes call it together."""
    return value.full_tensor() if isinstance(value, DTensor) else value


@contextlib.contextmanager
def unexchanged(loss: nn.Module) -> Iterator[None]:
    """Gradients pile up in each process; the first backward pass outside exchanges them."""
    if not isinstance(loss, FSDPModule):
        raise TypeError("only a sharded loss can hold its gradients back")
    loss.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        loss.set_requires_gradient_sync(True)
