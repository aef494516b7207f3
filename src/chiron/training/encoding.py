"""Encode training rows as tokens and labels, and check their images."""

import os
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from chiron.cases.images import ImageFolder, ImageProblem
from chiron.client.images import upright_size
from chiron.errors import InputError
from chiron.providers.local.dialogue import DialogueTokens
from chiron.providers.local.tiling import Grid, ImageLayout, TileKey
from chiron.training.rows import TrainingExample, listing, shown

LossWeighting = Literal["token", "sample", "square"]
_POWERS: Final[Mapping[LossWeighting, float]] = MappingProxyType({"token": 0.0, "sample": 1.0, "square": 0.5})
IGNORED: Final = -100
"""Label of a token without loss; PyTorch's cross-entropy ignores it."""


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """An encoded row: tokens, labels and image names, without pixels. Of a preference pair, both conversations, one after the other."""

    id: str
    input_ids: NDArray[np.int32]
    """``(n,)``"""
    labels: NDArray[np.int32]
    """``(n,)``: the token itself if it is trained on, otherwise -100; not shifted."""
    images: tuple[str, ...]
    tile_counts: tuple[int, ...]
    """Number of tiles of each image, thumbnail included."""
    lengths: tuple[int, ...] = ()
    """Only of a preference pair: tokens of the chosen and of the rejected conversation. Each of them has the images."""
    positions: NDArray[np.int64] | None = None
    """``(axes, n)``, starting at 0 in each conversation; None if positions have one axis and count up."""
    grids: tuple[Grid, ...] = ()
    """Rows and columns of each image's tiles; empty unless the layout ``needs_grids``."""
    reference: tuple[float, float] | None = None
    """Only of a preference pair: log-probabilities of the chosen and the rejected reply under the reference model."""

    @property
    def conversations(self) -> tuple[int, ...]:
        """Number of tokens of each conversation."""
        return self.lengths or (len(self.input_ids),)

    def tile_keys(self) -> list[TileKey]:
        """Return the keys of the images' tiles, in order of their tokens."""
        return list(zip(self.images, self.tile_counts, strict=True)) * len(self.conversations)

    def tiles(self) -> int:
        """Return the number of tiles of all conversations."""
        return sum(self.tile_counts) * len(self.conversations)


class RowEncoder(DialogueTokens):
    """Encoder of rows as tokens and labels."""

    def encode(self, row: TrainingExample, tile_counts: Sequence[int], grids: Sequence[Grid] = ()) -> Encoded:
        """Encode a conversation, or a preference pair; only the assistant's text and its end token have labels, in a pair not the prompt's.

        Each turn is tokenized separately from its context, so that labels match the tokens that generation would produce.

        ``tile_counts``: number of tiles of each image. ``grids``: rows and columns of each image's tiles; only needed if the layout
        ``needs_grids``.

        Raises:
            InputError: The number of image marks differs from the number of ``tile_counts``.
        """
        input_ids: list[int] = []
        labels: list[int] = []
        lengths = []
        where = f"row {shown(row.id)}"
        pieces = partial(self.pieces, tile_counts=tile_counts, where=where, grids=grids)
        skipped = sum(len(tokens) for tokens, _ in pieces(row.turns[: row.prompt_turns])) if row.rejected else 0
        for turns in (row.turns, row.rejected) if row.rejected else (row.turns,):
            begin = len(input_ids)
            for tokens, learned in pieces(turns):
                labels += tokens if learned and len(input_ids) - begin >= skipped else [IGNORED] * len(tokens)
                input_ids += tokens
            lengths.append(len(input_ids) - begin)
        ids, targets = np.array(input_ids, np.int32), np.array(labels, np.int32)
        encoded = Encoded(row.id, ids, targets, row.images, tuple(tile_counts), tuple(lengths) if row.rejected else (), grids=tuple(grids))
        if self.layout.axes == 1:
            return encoded
        parts = np.split(ids, np.cumsum(lengths)[:-1])
        positions = [self.layout.positions(len(part), self.image_spans(part), grids)[0] for part in parts]
        return replace(encoded, positions=np.concatenate(positions, axis=1))


def encode_all(rows: Sequence[TrainingExample], folder: ImageFolder, encoder: RowEncoder, *, limit: int) -> list[Encoded]:
    """Encode all rows, in order. Decodes every image once, to find broken images before training starts.

    Raises:
        InputError: Images of some rows are missing or broken, or rows are longer than ``limit`` tokens. No row is truncated or dropped.
            The message gives the number of such rows and names the first few.
    """
    sizes = _image_sizes(sorted({image for row in rows for image in row.images}), folder)
    encoded: list[Encoded] = []
    unseen: list[str] = []
    too_long: list[str] = []
    for row in rows:
        grids = {image: _grid(image, sizes[image], len(row.images), encoder.layout) for image in row.images}
        problems = [grid for grid in grids.values() if isinstance(grid, str)]
        if problems:
            unseen.append(f"row {shown(row.id)}: {' and '.join(problems)}")
            continue
        seen = [grid for grid in (grids[image] for image in row.images) if not isinstance(grid, str)]
        one = encoder.encode(row, [encoder.layout.tiles(grid) for grid in seen], seen if encoder.layout.needs_grids else ())
        if len(one.input_ids) > limit:
            too_long.append(f"row {shown(row.id)}: {len(one.input_ids)} tokens, including {one.tiles()} {encoder.layout.unit}")
        encoded.append(one)
    if unseen or too_long:
        kinds = [f"{len(unseen)} with missing or broken images"] * bool(unseen)
        kinds += [f"{len(too_long)} longer than {limit} tokens (allow more tokens or {encoder.layout.fewer})"] * bool(too_long)
        # Show some of each kind, so that users can fix both at once.
        first = [*unseen[:3], *too_long[:3], *unseen[3:], *too_long[3:]]
        raise InputError(
            f"{len(unseen) + len(too_long)} of {len(rows)} rows cannot be trained on, {' and '.join(kinds)}: {listing(first, most=6)}"
        )
    return encoded


def trained_tokens(encoded: Encoded) -> int:
    """Count the trained tokens of a row."""
    return int(np.count_nonzero(encoded.labels != IGNORED))


def token_weight(encoded: Encoded, weighting: LossWeighting) -> float:
    """Weight of each trained token of a row with n trained tokens: 1 (token), 1/n (sample), or 1/sqrt(n) (square)."""
    count = trained_tokens(encoded)
    return float(count ** -_POWERS[weighting]) if count else 0.0


def _grid(image: str, size: tuple[int, int] | str, n_images: int, layout: ImageLayout) -> Grid | str:
    """Return the grid of an image, or why it cannot be used."""
    if isinstance(size, str):
        return size
    try:
        return layout.grid(*size, n_images)
    except InputError as error:
        return f"image {shown(image)}: {error}"


def _image_sizes(names: Sequence[str], folder: ImageFolder) -> dict[str, tuple[int, int] | str]:
    """Return the upright width and height of every image, or why it cannot be used.

    Decodes each image completely, because the header of a truncated file can be valid.
    """
    if not names:
        return {}

    def look(name: str) -> tuple[int, int] | str:
        try:
            return upright_size(folder.check(name).path)
        except ImageProblem as problem:
            return " ".join(str(problem).split())
        except OSError as error:  # valid at the check, but removed or changed since then
            return f"image {shown(name)} can no longer be read: {' '.join(str(error).split())}"

    # Pillow releases the GIL while it decodes. Warning filters are shared by all threads and the check changes them, so they are restored
    # here, when all threads are done.
    with warnings.catch_warnings(), ThreadPoolExecutor(min(8, os.cpu_count() or 1), "image-check") as pool:
        warnings.simplefilter("ignore")
        try:
            return dict(zip(names, pool.map(look, names), strict=True))
        finally:
            pool.shutdown(cancel_futures=True)
