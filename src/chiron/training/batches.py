"""Packed lines become tensors: positions that begin again keep samples apart, and tiles stand in the order of their tokens."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from chiron.models.local.tiling import TileKey, Tiles, normalise
from chiron.training.encoding import IGNORED, Encoded, LossWeighting, token_weight


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Packed lines as a model takes them, together with ``attention_mask=None`` and ``use_cache=False``.

    Transformers keeps the samples of a line apart where ``position_ids`` begin again, and only if it is called so: a mask of ones, or the
    key-value cache that is its default outside of gradient checkpointing, lets samples see each other. With "eager" and "sdpa" attention
    a batch may have any number of lines; "flash_attention_2" looks for packed samples in batches of one line only.
    """

    input_ids: Tensor
    """``(lines, length)`` int64."""
    position_ids: Tensor
    """``(lines, length)`` int64, from 0 in each sample and in the padding behind the last."""
    labels: Tensor
    """``(lines, length)`` int64, -100 where nothing is learned; not shifted, as transformers wants them."""
    pixel_values: Tensor | None
    """``(tiles, 3, side, side)`` float32 of all lines, top to bottom and left to right; None if there is no image at all."""
    trained_tokens: int
    real_tokens: int
    """Positions that are not padding."""
    rows: tuple[str, ...]
    """Ids, in order."""
    weights: Tensor | None = None
    """``(lines, length)`` float32, what each label weighs; None where all weigh the same."""

    def inputs(self) -> dict[str, Any]:
        """What a model is called with, labels apart."""
        return {
            "input_ids": self.input_ids,
            "position_ids": self.position_ids,
            "pixel_values": self.pixel_values,
            "attention_mask": None,
            "use_cache": False,
        }

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "Batch":
        """The same batch on ``device``."""
        pixels = self.pixel_values
        return replace(
            self,
            input_ids=self.input_ids.to(device, non_blocking=non_blocking),
            position_ids=self.position_ids.to(device, non_blocking=non_blocking),
            labels=self.labels.to(device, non_blocking=non_blocking),
            pixel_values=None if pixels is None else pixels.to(device, non_blocking=non_blocking),
            weights=None if self.weights is None else self.weights.to(device, non_blocking=non_blocking),
        )


def collate(
    bins: Sequence[Sequence[Encoded]],
    pixels: Mapping[TileKey, Tiles] | Callable[[TileKey], Tiles],
    *,
    length: int | None,
    pad_id: int,
    weighting: LossWeighting = "token",
) -> Batch:
    """One batch of packed lines, each inner sequence one line.

    Args:
        bins: the samples of each line, in order.
        pixels: the tiles of ``(image, tiles)``; asked for nothing where no sample has an image.
        length: of a line; by default the longest, rounded up to a multiple of 8, which tensor cores want.
        pad_id: fills lines up. It is never learned, and no sample sees it.
        weighting: what weighs the same (:func:`~chiron.training.encoding.token_weight`).

    Raises:
        ValueError: a line is longer than ``length``, a sample's first token is learned (it would be predicted from the sample before), or
            an image has other tiles than its row was encoded with.
    """
    used = [sum(len(sample.input_ids) for sample in line) for line in bins]
    longest = max(used, default=0)
    width = length if length is not None else -(-longest // 8) * 8
    if longest > width:
        raise ValueError(f"a line of {longest} tokens in a batch of length {width}")
    shape = (len(bins), width)
    input_ids = np.full(shape, pad_id, np.int64)
    labels = np.full(shape, IGNORED, np.int64)
    position_ids = np.empty(shape, np.int64)
    weights = None if weighting == "token" else np.zeros(shape, np.float32)
    tiles: list[Tiles] = []
    for number, line in enumerate(bins):
        at = 0
        for sample in line:
            if len(sample.labels) and sample.labels[0] != IGNORED:
                raise ValueError(f"row {sample.id!r}: its first token is learned, though nothing of it stands before")
            end = at + len(sample.input_ids)
            input_ids[number, at:end] = sample.input_ids
            labels[number, at:end] = sample.labels
            if weights is not None:
                weights[number, at:end] = token_weight(sample, weighting)
            position_ids[number, at:end] = np.arange(end - at)
            at = end
            tiles += [_tiles(pixels, key, sample.id) for key in sample.tile_keys()]
        position_ids[number, at:] = np.arange(width - at)
    return Batch(
        input_ids=torch.from_numpy(input_ids),
        position_ids=torch.from_numpy(position_ids),
        labels=torch.from_numpy(labels),
        pixel_values=torch.from_numpy(normalise(np.concatenate(tiles))) if tiles else None,
        trained_tokens=int(np.count_nonzero(labels != IGNORED)),
        real_tokens=sum(used),
        rows=tuple(sample.id for line in bins for sample in line),
        weights=None if weights is None else torch.from_numpy(weights),
    )


def _tiles(pixels: Mapping[TileKey, Tiles] | Callable[[TileKey], Tiles], key: TileKey, row: str) -> Tiles:
    found = pixels[key] if isinstance(pixels, Mapping) else pixels(key)
    if len(found) != key[1]:
        raise ValueError(f"row {row!r}: image {key[0]!r} has {len(found)} tiles, but was encoded with {key[1]}")
    return found
