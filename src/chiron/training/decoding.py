"""Images decoded and cut ahead of time, so that the model never waits for them."""

import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Generic, Self, TypeVar

from PIL import Image

from chiron.cases.images import FORMATS, MAX_PIXELS, ImageFolder, ImageProblem
from chiron.errors import InputError
from chiron.models.local.tiling import TileKey, Tiles, Tiling, cut, tile_budget, tile_count
from chiron.models.pictures import upright
from chiron.training.encoding import Encoded
from chiron.training.rows import shown

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
