"""Decode images ahead of time and turn packed lines into tensors."""

import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from chiron.cases.images import FORMATS, MAX_PIXELS, ImageFolder, ImageProblem
from chiron.client.images import upright
from chiron.errors import InputError
from chiron.providers.local.tiling import TileKey, Tiles, Tiling, cut, normalise, tile_budget, tile_count
from chiron.training.encoding import IGNORED, Encoded, LossWeighting, token_weight
from chiron.training.rows import shown


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


Lines = TypeVar("Lines", bound=Sequence[Sequence[Encoded]])


@dataclass(frozen=True, slots=True)
class _Ahead(Generic[Lines]):
    lines: Lines
    tiles: dict[TileKey, Future[Tiles]]


class Decoder:
    """Decodes the images of coming batches while the present one is trained on.

    The workers are threads: Pillow lets others run while it decodes and stretches, which is nearly all of the work, and threads hand their
    tiles over without copying and make no second process of one that may hold a GPU. Batches of text alone start none.
    """

    def __init__(self, folder: ImageFolder | None, tiling: Tiling, workers: int, *, prefetch: int = 2) -> None:
        """``folder`` may be None for text alone. Memory is bounded by ``prefetch`` batches of tiles beside the present one.

        With 0 ``workers`` or 0 ``prefetch``, images are decoded when they are needed, in this thread.
        """
        if workers < 0 or prefetch < 0:
            raise ValueError(f"{workers} workers and {prefetch} batches ahead")
        self._fence = None if folder is None else _Fence(folder.root)
        self._tiling = tiling
        self._workers = workers
        self._prefetch = prefetch if workers else 0
        self._pool: ThreadPoolExecutor | None = None
        self._closed = False

    def __enter__(self) -> Self:
        """Nothing is started before the first image."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Drop what is waiting, wait for what is being decoded."""
        self.close()

    def close(self) -> None:
        """Drop what is waiting, wait for what is being decoded; the decoder is of no use afterwards."""
        self._closed = True
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def ahead(self, batches: Iterable[Lines]) -> Iterator[tuple[Lines, dict[TileKey, Tiles]]]:
        """The batches in order, each with the tiles that :func:`~chiron.training.batches.collate` asks for.

        ``batches`` is read ``prefetch`` batches ahead, and no further. An image that a batch shows twice is decoded once.

        Raises:
            InputError: an image is gone or another than when its row was encoded; the message names the row. It comes when its batch is
                due, not before.
        """
        waiting: deque[_Ahead[Lines]] = deque()
        try:
            for lines in batches:
                waiting.append(_Ahead(lines, self._submit(lines)))
                if len(waiting) > self._prefetch:
                    yield _finished(waiting.popleft())
            while waiting:
                yield _finished(waiting.popleft())
        finally:
            for batch in waiting:
                for future in batch.tiles.values():
                    future.cancel()

    def _submit(self, lines: Sequence[Sequence[Encoded]]) -> dict[TileKey, Future[Tiles]]:
        tiles: dict[TileKey, Future[Tiles]] = {}
        for line in lines:
            for sample in line:
                for key in sample.tile_keys():
                    if key not in tiles:
                        tiles[key] = self._start(partial(self._decode, key, sample))
        return tiles

    def _start(self, work: Callable[[], Tiles]) -> Future[Tiles]:
        if self._closed:
            raise ValueError("this decoder is closed")
        if self._workers:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._workers, "decoder")
            return self._pool.submit(work)
        future: Future[Tiles] = Future()
        try:
            future.set_result(work())
        except InputError as error:
            future.set_exception(error)
        return future

    def _decode(self, key: TileKey, sample: Encoded) -> Tiles:
        name, expected = key
        budget = tile_budget(len(sample.images), self._tiling)
        if self._fence is None:
            raise InputError(f"row {shown(sample.id)}: image {shown(name)} has no folder to lie in")
        try:
            with Image.open(io.BytesIO(self._fence.find(name).read_bytes()), formats=FORMATS) as image:
                width, height = image.size
                if width * height <= MAX_PIXELS:
                    plain = upright(image)
                    width, height = plain.size
                    if tile_count(width, height, budget=budget, tiling=self._tiling) == expected:
                        return cut(plain, budget=budget, tiling=self._tiling)
            raise InputError(
                f"row {shown(sample.id)}: image {shown(name)} is {width} x {height} pixels, which is not {expected} tiles any more:"
                " the file was changed since training began, start again"
            )
        except (ImageProblem, OSError, ValueError, SyntaxError, EOFError, IndexError, OverflowError, Image.DecompressionBombError) as error:
            why = " ".join(str(error).split())
            raise InputError(f"row {shown(sample.id)}: image {shown(name)} can no longer be read: {why}") from error


class _Fence(ImageFolder):
    """A folder whose images were checked when their rows were encoded: they are found inside it, not decoded twice."""

    def find(self, name: str) -> Path:
        return self._inside(name)


def _finished(batch: _Ahead[Lines]) -> tuple[Lines, dict[TileKey, Tiles]]:
    return batch.lines, {key: future.result() for key, future in batch.tiles.items()}
