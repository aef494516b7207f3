"""Decode images ahead of time and turn packed lines into tensors."""

import contextlib
import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from chiron.cases.images import FORMATS, MAX_PIXELS, ImageFolder, ImageProblem
from chiron.client.images import upright
from chiron.errors import InputError
from chiron.providers.local.tiling import DEVIATION, MEAN, Grid, ImageLayout, TileKey, Tiles, Tiling
from chiron.training.encoding import IGNORED, Encoded, LossWeighting, token_weight, trained_tokens
from chiron.training.rows import shown
from chiron.training.tile_cache import TileCache


@dataclass(frozen=True, slots=True, eq=False)
class PackedBatch:
    """Packed lines as model inputs, to be used with ``use_cache=False``, and without a mask but that of families with own masks.

    Samples are separated where ``position_ids`` restart at 0 (:mod:`chiron.training.attention`). A mask of ones, or the key-value cache
    (the default without gradient checkpointing), lets samples attend to each other.
    """

    input_ids: Tensor
    """``(lines, length)`` int64."""
    position_ids: Tensor
    """``(lines, length)`` int64, starting at 0 in each sample and in the padding.

    If positions have several axes, ``(1 + axes, lines, length)``: transformers separates the samples by the first, which counts tokens.
    """
    labels: Tensor
    """``(lines, length)`` int64, -100 for tokens without loss; not shifted, as transformers expects."""
    pixel_values: Tensor | None
    """Float32, in the order of lines and samples: tiles ``(tiles, 3, side, side)``, or patches ``(patches, values)`` of families without
    tiles. Tiles are uint8 ``(tiles, side, side, 3)`` until the batch is on its device. None if the batch has no images.
    """
    weights: Tensor | None = None
    """``(lines, length)`` float32, the loss weight of each label; None if all are equal."""
    image_grid_thw: Tensor | None = None
    """Only of families that need it: ``(images, 3)`` int64, the time, rows and columns of each image's patches."""
    conversations: Tensor | None = None
    """Only of preference pairs: ``(lines, length)`` int64, the number of each position's conversation, -1 in the padding. Chosen and
    rejected conversations have even and odd numbers.
    """
    reference: Tensor | None = None
    """Only of preference pairs: ``(pairs, 2)`` float32; see :attr:`~chiron.training.encoding.Encoded.reference`."""

    def loss_inputs(self) -> dict[str, Tensor | None]:
        """Keyword arguments of :meth:`chiron.training.model.Loss.forward`."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "PackedBatch":
        """Copy the batch to ``device``."""
        moved = self._with(lambda tensor: tensor.to(device, non_blocking=non_blocking))
        if moved.pixel_values is not None and moved.pixel_values.dtype == torch.uint8:
            return replace(moved, pixel_values=normalized(moved.pixel_values))
        return moved

    def pinned(self) -> "PackedBatch":
        """Copy the batch to memory that a GPU reads while the program continues."""
        return self._with(Tensor.pin_memory)

    def _with(self, change: Callable[[Tensor], Tensor]) -> "PackedBatch":
        tensors = {name: value for name, value in self.loss_inputs().items() if value is not None}
        return replace(self, **{name: change(value) for name, value in tensors.items()})


def normalized(tiles: Tensor) -> Tensor:
    """Return what :func:`~chiron.providers.local.tiling.normalise` does, on the device of ``tiles``."""
    mean, deviation = np.array(MEAN, np.float32), np.array(DEVIATION, np.float32)
    scale, shift = (torch.from_numpy(v)[:, None, None].to(tiles.device) for v in (1 / (255 * deviation), mean / deviation))
    return tiles.permute(0, 3, 1, 2).float().contiguous().mul_(scale).sub_(shift)


def collate(
    bins: Sequence[Sequence[Encoded]],
    pixels: Mapping[TileKey, Tiles] | Callable[[TileKey], Tiles],
    *,
    length: int | None,
    pad_id: int,
    weighting: LossWeighting = "token",
    layout: ImageLayout | None = None,
    raw: bool = False,
) -> PackedBatch:
    """Build a batch of packed lines; each inner sequence is one line.

    Args:
        bins: Samples of each line, in order.
        pixels: Returns the tiles of an ``(image, tiles)`` key; not used if no sample has an image.
        length: Length of a line in tokens. If None, the longest line, rounded up to a multiple of 8 for tensor cores.
        pad_id: Padding token. It has no loss, and no sample attends to it.
        weighting: Loss weighting of the labels (:func:`~chiron.training.encoding.token_weight`).
        layout: How the model sees images; default: InternVL's tiles.
        raw: Whether tiles stay uint8 until :meth:`PackedBatch.to` moves them, which then is four times faster.

    Raises:
        ValueError: A line is longer than ``length``, the first token of a sample has a label (the model would predict it from the previous
            sample), or an image has a different number of tiles than its encoded row.
    """
    layout = layout or Tiling()
    used = [sum(len(sample.input_ids) for sample in line) for line in bins]
    shape = (len(bins), _width(max(used, default=0), length))
    input_ids = np.full(shape, pad_id, np.int64)
    labels = np.full(shape, IGNORED, np.int64)
    weights = None if weighting == "token" else np.zeros(shape, np.float32)
    # Transformers recognizes packed samples by the positions of tokens, which precede those of several axes.
    position_ids = np.empty((1 if layout.axes == 1 else 1 + layout.axes, *shape), np.int64)
    for number, size in enumerate(used):
        position_ids[:, number, size:] = np.arange(shape[1] - size)
    tiles: list[Tiles] = []
    grids: list[Grid] = []
    placed = list(_placed(bins))
    for sample, place in placed:
        if len(sample.labels) and sample.labels[0] != IGNORED:
            raise ValueError(f"row {sample.id!r}: its first token has a label, but no token precedes it")
        input_ids[place] = sample.input_ids
        labels[place] = sample.labels
        if weights is not None:
            weights[place] = token_weight(sample, weighting)
        _write_positions(sample, position_ids[:, *place])
        tiles += [_tiles(pixels, key, sample.id) for key in sample.tile_keys()]
        grids += sample.grids * len(sample.conversations)
    images = _image_inputs(layout, tiles, grids, raw=raw) if tiles else {}
    pairs = _pair_inputs(placed, shape)
    return PackedBatch(
        input_ids=torch.from_numpy(input_ids),
        position_ids=torch.from_numpy(position_ids[0] if layout.axes == 1 else position_ids),
        labels=torch.from_numpy(labels),
        pixel_values=images.get("pixel_values"),
        weights=None if weights is None else torch.from_numpy(weights),
        image_grid_thw=images.get("image_grid_thw"),
        conversations=pairs.get("conversations"),
        reference=pairs.get("reference"),
    )


_Span = tuple[int, slice]
"""Line and tokens of a sample in a batch."""


def _placed(bins: Sequence[Sequence[Encoded]]) -> Iterator[tuple[Encoded, _Span]]:
    """Yield each sample with its place."""
    for number, line in enumerate(bins):
        begin = 0
        for sample in line:
            end = begin + len(sample.input_ids)
            yield sample, (number, slice(begin, end))
            begin = end


def _write_positions(sample: Encoded, position_ids: NDArray[np.int64]) -> None:
    """Write the positions of a sample's tokens. Those of each of its conversations begin at 0."""
    begin = 0
    for size in sample.conversations:
        position_ids[:, begin : begin + size] = np.arange(size)
        begin += size
    if sample.positions is not None:
        position_ids[1:] = sample.positions


def _image_inputs(layout: ImageLayout, tiles: Sequence[Tiles], grids: Sequence[Grid], *, raw: bool) -> dict[str, Tensor]:
    """Return the model's image arguments; with ``raw``, tiles stay bytes."""
    arrays = {"pixel_values": np.concatenate(tiles)} if raw and isinstance(layout, Tiling) else layout.model_inputs(tiles, grids)
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _width(longest: int, length: int | None) -> int:
    """Return the length of a batch's lines."""
    width = length if length is not None else -(-longest // 8) * 8
    if longest > width:
        raise ValueError(f"a line of {longest} tokens in a batch of length {width}")
    return width


def _pair_inputs(placed: Sequence[tuple[Encoded, _Span]], shape: tuple[int, int]) -> dict[str, Tensor]:
    """Return ``conversations`` and, if it is known, ``reference`` of preference pairs; nothing for other rows."""
    if not any(sample.lengths for sample, _ in placed):
        return {}
    scored = [(sample, place) for sample, place in placed if trained_tokens(sample)]
    conversations = np.full(shape, -1, np.int64)
    for number, (pair, place) in enumerate(scored):
        conversations[place] = 2 * number + np.repeat(np.arange(len(pair.conversations)), pair.conversations)
    found = {"conversations": torch.from_numpy(conversations)}
    known = [pair.reference for pair, _ in scored if pair.reference is not None]
    if len(known) == len(scored):
        found["reference"] = torch.tensor(known, dtype=torch.float32).view(-1, 2)
    return found


def _tiles(pixels: Mapping[TileKey, Tiles] | Callable[[TileKey], Tiles], key: TileKey, row: str) -> Tiles:
    found = pixels[key] if isinstance(pixels, Mapping) else pixels(key)
    if len(found) != key[1]:
        raise ValueError(f"row {row!r}: image {key[0]!r} has {len(found)} tiles, but was encoded with {key[1]}")
    return found


Lines = TypeVar("Lines", bound=Sequence[Sequence[Encoded]])
AHEAD = 2
"""Number of batches whose images are decoded ahead of the current one, which bounds the memory that tiles take."""


class Decoder:
    """Decoder of upcoming images that runs while the model trains on the current batch.

    The workers are threads. Pillow releases the GIL for decoding and resizing, which is most of the work. Threads share tiles without
    copying, and they do not fork a process that uses a GPU. Text-only batches start no threads.
    """

    def __init__(self, folder: ImageFolder, layout: ImageLayout, workers: int, *, cache: TileCache | None = None) -> None:
        """``workers``: number of threads. ``cache``: where decoded images are kept."""
        self._fence = _Fence(folder.root)
        self._layout = layout
        self._cache = cache
        self._pool = ThreadPoolExecutor(workers, "decoder")

    def __enter__(self) -> Self:
        """Return self; threads start with the first image."""
        return self

    def __exit__(self, *_: object) -> None:
        """Cancel pending images and wait for those in progress. The decoder cannot be used afterwards."""
        self._pool.shutdown(cancel_futures=True)

    def ahead(self, batches: Iterable[Lines]) -> Iterator[tuple[Lines, dict[TileKey, Tiles]]]:
        """Yield the batches in order, each with the tiles that :func:`~chiron.training.batches.collate` needs.

        Reads at most :data:`AHEAD` batches ahead. Decodes an image once per batch, even if it occurs twice.

        Raises:
            InputError: An image is missing or has changed since its row was encoded. The message names the row. Raised when its batch is
                due, not earlier.
        """
        waiting: deque[tuple[Lines, dict[TileKey, Future[Tiles]]]] = deque()
        try:
            for lines in batches:
                waiting.append((lines, self._submit(lines)))
                if len(waiting) > AHEAD:
                    yield _finished(*waiting.popleft())
            while waiting:
                yield _finished(*waiting.popleft())
        finally:
            for _, tiles in waiting:
                for future in tiles.values():
                    future.cancel()

    def _submit(self, lines: Sequence[Sequence[Encoded]]) -> dict[TileKey, Future[Tiles]]:
        tiles: dict[TileKey, Future[Tiles]] = {}
        for line in lines:
            for sample in line:
                for key in sample.tile_keys():
                    if key not in tiles:
                        tiles[key] = self._pool.submit(self._decode, key, sample)
        return tiles

    def _decode(self, key: TileKey, sample: Encoded) -> Tiles:
        name, expected = key
        n_images = len(sample.images)
        grid = sample.grids[sample.images.index(name)] if sample.grids else (1, expected)
        try:
            content = self._fence.find(name).read_bytes()
            make = partial(self._cut, content, key, grid, sample)
            return make() if self._cache is None else self._cache.tiles(content, grid, n_images, make)
        except (ImageProblem, OSError, ValueError, SyntaxError, EOFError, IndexError, OverflowError, Image.DecompressionBombError) as error:
            why = " ".join(str(error).split())
            raise InputError(f"row {shown(sample.id)}: image {shown(name)} can no longer be read: {why}") from error

    def _cut(self, content: bytes, key: TileKey, grid: Grid, sample: Encoded) -> Tiles:
        name, expected = key
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            width, height = image.size
            if width * height <= MAX_PIXELS:
                plain = upright(image)
                width, height = plain.size
                if self._layout.grid(width, height, len(sample.images)) == grid:
                    return self._layout.cut(plain, len(sample.images))
        raise InputError(
            f"row {shown(sample.id)}: image {shown(name)} is now {width} x {height} pixels, which does not give {expected}"
            f" {self._layout.unit}: it has changed since training began; start again with another --out"
        )


Item = TypeVar("Item")


@contextlib.contextmanager
def one_ahead(source: Iterator[Item]) -> Iterator[Iterator[Item]]:
    """Give the items of ``source``, each made in a thread while the one before it is in use."""
    end: Any = object()
    with ThreadPoolExecutor(1, "batches") as pool:

        def items() -> Iterator[Item]:
            coming = pool.submit(next, source, end)
            while (item := coming.result()) is not end:
                coming = pool.submit(next, source, end)
                yield item

        yield items()


class _Fence(ImageFolder):
    """Folder of images that were already checked at encoding. Checks paths without decoding the images a second time."""

    def find(self, name: str) -> Path:
        return self._inside(name)


def _finished(lines: Lines, tiles: dict[TileKey, Future[Tiles]]) -> tuple[Lines, dict[TileKey, Tiles]]:
    return lines, {key: future.result() for key, future in tiles.items()}
