"""Rows become tokens and labels. The same encoder writes the prompts of generation, so the two cannot drift apart."""

import os
import re
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from chiron.cases.images import ImageFolder, ImageProblem
from chiron.errors import InputError
from chiron.training.rows import IMAGE_MARK, Row, Turn, listing, shown
from chiron.training.tiling import TileKey, Tiling, tile_budget, tile_count

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED: Final = -100
"""The label of a token that is not learned; PyTorch's cross-entropy passes over it."""


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """What stands around turns: ``start role after_role text end after_turn``. The default is ChatML, as InternVL3 was trained with."""

    start: str = "<|im_start|>"
    """One token of its own in the vocabulary."""
    after_role: str = "\n"
    end: str = "<|im_end|>"
    """One token of its own; it is learned, and generation stops at it."""
    after_turn: str = "\n"
    system: str | None = None
    """Said before rows that bring no system turn; None says nothing."""

    def __post_init__(self) -> None:
        """Refuse an image that no row brings."""
        if self.system and IMAGE_MARK in self.system:
            raise ValueError(f"the system text holds an {IMAGE_MARK} mark")


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """A row as the model reads it, without its pixels."""

    id: str
    input_ids: NDArray[np.int32]
    """``(n,)``"""
    labels: NDArray[np.int32]
    """``(n,)``: the token itself where it is learned, else -100; not shifted."""
    images: tuple[str, ...]
    tile_counts: tuple[int, ...]
    """Of each image, the thumbnail included."""

    def tile_keys(self) -> list[TileKey]:
        """What the tiles of the images are known by, in order."""
        return list(zip(self.images, self.tile_counts, strict=True))


class Encoder:
    """Turns rows into tokens; text never becomes a special token, whatever it holds."""

    def __init__(
        self, tokenizer: "PreTrainedTokenizerBase", *, tiling: Tiling, tokens_per_tile: int, chat: ChatFormat | None = None
    ) -> None:
        """``tokens_per_tile``: image tokens that the model makes of a tile (256 for InternVL3). ``chat`` defaults to ChatML.

        Raises:
            InputError: the tokenizer has no fast backend, or lacks an image or chat token.
        """
        if tokens_per_tile < 1:
            raise ValueError(f"{tokens_per_tile} tokens a tile")
        self.tiling = tiling
        self.tokens_per_tile = tokens_per_tile
        self.chat = chat or ChatFormat()
        self._backend = _private_backend(tokenizer)
        self.image_ids = tuple(
            self._single(str(getattr(tokenizer, name, None) or default))
            for name, default in (("start_image_token", "<img>"), ("context_image_token", "<IMG_CONTEXT>"), ("end_image_token", "</img>"))
        )
        """Of the tokens before, in place of, and after an image."""
        self._start_id = self._single(self.chat.start)
        self.stop_id = self._single(self.chat.end)
        """The token that ends every turn."""
        added = self._backend.get_added_tokens_decoder()
        special = {i for i, token in added.items() if token.special and token.content != getattr(tokenizer, "unk_token", None)}
        self._protected = special | {*self.image_ids, self._start_id, self.stop_id}
        literals = sorted((self._backend.id_to_token(i) for i in self._protected), key=len, reverse=True)
        self._literals = re.compile("|".join(re.escape(literal) for literal in literals))
        self._headers = {role: [self._start_id, *self._text(role + self.chat.after_role)] for role in ("system", "user", "assistant")}
        self._after_turn = self._text(self.chat.after_turn)
        if self._headers["user"] == self._headers["assistant"]:
            raise InputError("the tokenizer has the same tokens for 'user' and 'assistant': give it words for both")

    def encode(self, row: Row, tile_counts: Sequence[int]) -> Encoded:
        """Tokens of a whole conversation; what the assistant says is learned, and the end of it, and nothing else.

        Every turn's text is tokenized apart from what stands around it, so that a label is what generation would have to say there.

        Raises:
            InputError: there are not as many image marks as ``tile_counts``.
        """
        input_ids: list[int] = []
        labels: list[int] = []
        for tokens, learned in self._pieces(row.turns, tile_counts, f"row {shown(row.id)}"):
            input_ids += tokens
            labels += tokens if learned else [IGNORED] * len(tokens)
        return Encoded(row.id, np.array(input_ids, np.int32), np.array(labels, np.int32), row.images, tuple(tile_counts))

    def prompt(self, turns: Row | Sequence[Turn], tile_counts: Sequence[int]) -> NDArray[np.int32]:
        """Tokens up to where the assistant begins to speak, ``(n,)``. A last assistant turn is what is to be said, and left out.

        For a row these are the very tokens that stand before its last answer in :meth:`encode`.

        Raises:
            InputError: there are not as many image marks as ``tile_counts``.
        """
        given = turns.turns if isinstance(turns, Row) else tuple(turns)
        before = given[:-1] if given and given[-1].role == "assistant" else given
        where = f"row {shown(turns.id)}" if isinstance(turns, Row) else "prompt"
        tokens = [token for piece, _ in self._pieces(before, tile_counts, where) for token in piece]
        return np.array(tokens + self._headers["assistant"], np.int32)

    def _pieces(self, turns: Sequence[Turn], tile_counts: Sequence[int], where: str) -> Iterator[tuple[list[int], bool]]:
        """Tokens in order, and whether they are learned."""
        marks = sum(turn.text.count(IMAGE_MARK) for turn in turns if turn.role != "assistant")
        if marks != len(tile_counts) or any(count < 1 for count in tile_counts):
            raise InputError(f"{where}: {marks} {IMAGE_MARK} marks, but images of {list(tile_counts)} tiles")
        if self.chat.system is not None and not any(turn.role == "system" for turn in turns):
            turns = (Turn("system", self.chat.system), *turns)
        counts = iter(tile_counts)
        for turn in turns:
            learned = turn.role == "assistant"
            yield self._headers[turn.role], False
            for number, text in enumerate([turn.text] if learned else turn.text.split(IMAGE_MARK)):
                if number:
                    yield self._image(next(counts)), False
                if text:
                    yield self._text(text, where), learned
            yield [self.stop_id], learned
            yield self._after_turn, False

    def _image(self, tiles: int) -> list[int]:
        before, context, after = self.image_ids
        return [before, *[context] * (tiles * self.tokens_per_tile), after]

    def _text(self, text: str, where: str = "chat format") -> list[int]:
        """Tokens of plain text, none of them special."""
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        if self._protected.isdisjoint(ids):
            return ids
        # Some vocabularies hold their special tokens as words, or do not mark them as special. Broken after its first character, such a
        # word is none any more, and no character is lost.
        breaks = [0, *(found.start() + 1 for found in self._literals.finditer(text) if len(found.group()) > 1), len(text)]
        if len(breaks) == 2:
            raise InputError(f"{where}: its text makes special tokens of this tokenizer")
        return [token for i in range(len(breaks) - 1) for token in self._text(text[breaks[i] : breaks[i + 1]], where)]

    def _single(self, token: str) -> int:
        number: int | None = self._backend.token_to_id(token)
        if number is None:
            raise InputError(
                f"the tokenizer has no token {shown(token)}: add it as a special token, or take the tokenizer of an InternVL model"
            )
        return number


def encode_all(rows: Sequence[Row], folder: ImageFolder | None, encoder: Encoder, *, limit: int) -> list[Encoded]:
    """All rows, in order, every image decoded once on the way, so that training meets no broken one.

    Raises:
        InputError: images of some rows are missing or broken, or rows are longer than ``limit`` tokens: nothing is cut, replaced or left
            out. The message counts them all and names the first few.
    """
    sizes = _image_sizes(sorted({image for row in rows for image in row.images}), folder)
    encoded: list[Encoded] = []
    unseen: list[str] = []
    too_long: list[str] = []
    for row in rows:
        problems = [size for size in (sizes[image] for image in dict.fromkeys(row.images)) if isinstance(size, str)]
        if problems:
            unseen.append(f"row {shown(row.id)}: {' and '.join(problems)}")
            continue
        one = encoder.encode(row, _tile_counts(row, sizes, encoder.tiling))
        if len(one.input_ids) > limit:
            too_long.append(f"row {shown(row.id)}: {len(one.input_ids)} tokens, {sum(one.tile_counts)} tiles among them")
        encoded.append(one)
    if unseen or too_long:
        kinds = [f"{len(unseen)} with images missing or broken"] * bool(unseen)
        kinds += [f"{len(too_long)} longer than {limit} tokens (allow more tokens or fewer tiles)"] * bool(too_long)
        # Some of each kind are shown, so that one mending round can see both.
        first = [*unseen[:3], *too_long[:3], *unseen[3:], *too_long[3:]]
        raise InputError(
            f"{len(unseen) + len(too_long)} of {len(rows)} rows cannot be trained on, {' and '.join(kinds)}: {listing(first, most=6)}"
        )
    return encoded


def trained_tokens(encoded: Encoded) -> int:
    """Tokens of a row that are learned."""
    return int(np.count_nonzero(encoded.labels != IGNORED))


def _tile_counts(row: Row, sizes: dict[str, tuple[int, int] | str], tiling: Tiling) -> list[int]:
    if not row.images:
        return []
    budget = tile_budget(len(row.images), tiling)
    return [tile_count(*size, budget=budget, tiling=tiling) for size in (sizes[image] for image in row.images) if not isinstance(size, str)]


def _image_sizes(names: Sequence[str], folder: ImageFolder | None) -> dict[str, tuple[int, int] | str]:
    """Width and height of every image, or why it cannot be used. Each is decoded whole: a header promises pixels that may not be there."""
    if not names:
        return {}

    def look(name: str) -> tuple[int, int] | str:
        if folder is None:
            return f"image {shown(name)} has no folder to lie in"
        try:
            checked = folder.check(name)
        except ImageProblem as problem:
            return " ".join(str(problem).split())
        return checked.width, checked.height

    # Pillow lets other threads run while it decodes. The filters of warnings belong to all threads, and the check changes them back and
    # forth: they are put back here once all threads are done.
    with warnings.catch_warnings(), ThreadPoolExecutor(min(8, os.cpu_count() or 1), "image-check") as pool:
        warnings.simplefilter("ignore")
        try:
            return dict(zip(names, pool.map(look, names), strict=True))
        finally:
            pool.shutdown(cancel_futures=True)


def _private_backend(tokenizer: "PreTrainedTokenizerBase") -> Any:
    """A copy of the Rust tokenizer: settings of the shared one (cutting, padding, special tokens in text) cannot reach it."""
    from tokenizers import Tokenizer

    shared = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(shared, Tokenizer):
        raise InputError("this tokenizer has no fast backend (tokenizer.json): convert it first")
    backend = Tokenizer.from_str(shared.to_str())
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True
    return backend
