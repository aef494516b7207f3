"""Tokenize a conversation with image marks. Training and generation use the same code."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from chiron.cases.case import IMAGE_MARK
from chiron.errors import InputError
from chiron.providers.local.tiling import Grid, ImageLayout
from chiron.terminal import printable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

SYSTEM_MESSAGES: Mapping[str, str] = MappingProxyType(
    {
        "internvl2_5": (
            "\u4f60\u662f\u4e66\u751f\u00b7\u4e07\u8c61\uff0c\u82f1\u6587\u540d\u662fInternVL\uff0c\u662f\u7531\u4e0a\u6d77\u4eba\u5de5\u667a\u80fd\u5b9e\u9a8c\u5ba4"
            "\u3001\u6e05\u534e\u5927\u5b66\u53ca\u591a\u5bb6\u5408\u4f5c\u5355\u4f4d\u8054\u5408\u5f00\u53d1\u7684\u591a\u6a21\u6001\u5927\u8bed\u8a00\u6a21\u578b\u3002"
        )
    }
)
"""System messages by name. ``internvl2_5`` is the one that InternVL2.5, InternVL3 and Chiron-o1 were trained with ("You are Shusheng
Wanxiang, in English InternVL, a multimodal large language model developed by ...").
"""

IMAGE_TOKENS = ("<img>", "<IMG_CONTEXT>", "</img>")
"""InternVL's tokens before, for, and after an image."""

RoleName = Literal["system", "user", "assistant"]
"""Role of a turn."""


@dataclass(frozen=True, slots=True)
class Turn:
    role: RoleName
    text: str
    """May contain image marks, except in assistant turns."""

    @property
    def texts(self) -> tuple[str, ...]:
        """Text before, between and after the images: one more than there are images."""
        return (self.text,) if self.role == "assistant" else tuple(self.text.split(IMAGE_MARK))


@dataclass(frozen=True, slots=True)
class PlacedTurn:
    """A turn with its images placed by structure, so that image marks in its text are plain text."""

    role: RoleName
    texts: tuple[str, ...]
    """Text before, between and after the images: one more than there are images."""


AnyTurn = Turn | PlacedTurn


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """Tokens around turns: ``start role after_role text end after_turn``. The default is ChatML, as in InternVL3's training."""

    start: str = "<|im_start|>"
    """A single token of the vocabulary; empty: turns begin with the role."""
    after_role: str = "\n"
    end: str = "<|im_end|>"
    """A single token. Models learn to generate it, and generation stops at it."""
    after_turn: str = "\n"
    system: str | None = None
    """System message for rows without a system turn; ``None`` adds none."""
    begin: str = ""
    """A single token at the start of a conversation; empty: none."""
    roles: Mapping[RoleName, str] = field(default_factory=lambda: {"system": "system", "user": "user", "assistant": "assistant"})
    """How the roles are written."""
    before_text: str = ""
    """Text at the start of a turn, unless the turn starts with an image."""
    around_image: str = ""
    """Text before and after an image, part of the adjacent text."""
    system_in_user: bool = False
    """Whether the system message is the start of the first user turn, and two line breaks follow it."""
    joined: bool = False
    """Whether the role and the text of a user turn are tokenized together, as published processors do. Otherwise the text is tokenized
    alone. A reply always is.
    """

    def __post_init__(self) -> None:
        """Reject a system message with image marks, since rows have no image for it."""
        if self.system and IMAGE_MARK in self.system:
            raise ValueError(f"the system message contains {IMAGE_MARK}: remove it")

    def reply(self, text: str) -> str:
        """Return an assistant turn as a template writes it, without what follows it."""
        return f"{self.start}{self.roles['assistant']}{self.after_role}{self.before_text}{text}{self.end}"


class DialogueTokens:
    """Tokenize conversations. Text never becomes a special token, even if it contains the name of one."""

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        *,
        tiling: ImageLayout,
        tokens_per_tile: int,
        chat: ChatFormat | None = None,
        image_tokens: tuple[str, str, str] | None = None,
    ) -> None:
        """``tokens_per_tile``: image tokens per tile (256 for InternVL3). ``chat``: default ChatML.

        ``image_tokens``: the tokens before, for, and after an image; default: the tokenizer's, or InternVL's.

        Raises:
            InputError: the tokenizer has no fast backend, or lacks an image or chat token.
        """
        if tokens_per_tile < 1:
            raise ValueError(f"tokens_per_tile must be at least 1 (got {tokens_per_tile})")
        self.layout = tiling
        self.tokens_per_tile = tokens_per_tile
        self.chat = chat or ChatFormat()
        self._backend = _private_backend(tokenizer)
        self._vocabulary: int | None = None
        named = zip(("start_image_token", "context_image_token", "end_image_token"), IMAGE_TOKENS, strict=True)
        literal = image_tokens or tuple(str(getattr(tokenizer, name, None) or default) for name, default in named)
        self.image_ids = tuple(self._single(token) for token in literal)
        """IDs of the tokens before, for, and after an image."""
        self._start = [self._single(self.chat.start)] if self.chat.start else []
        self._begin = [self._single(self.chat.begin)] if self.chat.begin else []
        self.stop_id = self._single(self.chat.end)
        """ID of the token that ends every turn."""
        added = self._backend.get_added_tokens_decoder()
        every = bool(tiling.tile_marks((1, 1)))  # the tokens before tiles need not be marked as special
        special = {i for i, token in added.items() if (token.special or every) and token.content != getattr(tokenizer, "unk_token", None)}
        self._structure = {*self.image_ids, *self._begin, *self._start, self.stop_id}
        self._protected = special | self._structure
        literals = sorted((self._backend.id_to_token(i) for i in self._protected), key=len, reverse=True)
        self._literals = re.compile("|".join(re.escape(literal) for literal in literals))
        self._headers = {role: [*self._start, *self._text(name + self.chat.after_role)] for role, name in self.chat.roles.items()}
        self._after_turn = self._text(self.chat.after_turn)
        if self._headers["user"] == self._headers["assistant"]:
            raise InputError("the tokenizer has the same tokens for 'user' and 'assistant': use one that tells them apart")

    def check_against(self, model: Any) -> None:
        """Check that the tokenizer belongs to this model. Afterwards, text with tokens that the model does not know is rejected.

        A tokenizer may have more tokens than the model. They only matter if a text contains them.

        Args:
            model: a transformers model with an embedding and an ``image_token_id``.

        Raises:
            InputError: image or chat tokens differ, or have no row in the embedding.
        """
        self._vocabulary = int(model.get_input_embeddings().weight.shape[0])
        if self.image_ids[1] != model.config.image_token_id:
            raise InputError(
                f"the tokenizer's image token is {self.image_ids[1]}, but image_token_id in config.json is {model.config.image_token_id}:"
                " use the tokenizer that belongs to these weights"
            )
        self._known(list(self._structure), "the tokenizer's image and chat tokens")

    def prompt(
        self, turns: Sequence[AnyTurn], tile_counts: Sequence[int], grids: Sequence[Grid] = (), *, where: str = "prompt"
    ) -> "NDArray[np.int32]":
        """Return the tokens up to the start of the assistant's reply, ``(n,)``. A final assistant turn is the reply itself, and is omitted.

        Raises:
            InputError: the number of image marks differs from ``tile_counts``; the message calls the conversation ``where``.
        """
        import numpy as np

        before = turns[:-1] if turns and turns[-1].role == "assistant" else turns
        tokens = [token for piece, _ in self.pieces(before, tile_counts, where, grids) for token in piece]
        return np.array(tokens + self._headers["assistant"], np.int32)

    def image_spans(self, ids: "NDArray[np.int32]") -> tuple[tuple[int, int], ...]:
        """Return the start and end of each run of image tokens: of each image, or of each tile if other tokens precede every tile."""
        import numpy as np

        edges = np.flatnonzero(np.diff(ids == self.image_ids[1], prepend=False, append=False)).reshape(-1, 2)
        return tuple((start, end) for start, end in edges.tolist())

    def pieces(
        self, turns: Sequence[AnyTurn], tile_counts: Sequence[int], where: str, grids: Sequence[Grid] = ()
    ) -> Iterator[tuple[list[int], bool]]:
        """Yield the tokens of the turns in order, in pieces, each with whether it is part of an assistant's text.

        ``grids``: rows and columns of each image's tiles; only needed if the layout ``needs_grids``.

        Raises:
            InputError: the number of image marks differs from ``tile_counts``.
        """
        marks = sum(len(turn.texts) - 1 for turn in turns)
        if marks != len(tile_counts) or any(count < 1 for count in tile_counts):
            raise InputError(f"{where}: {marks} {IMAGE_MARK} marks, but images of {list(tile_counts)} tiles: use one mark per image")
        chat = self.chat
        if chat.system is not None and not any(turn.role == "system" for turn in turns):
            turns = (Turn("system", chat.system), *turns)
        prefix = ""
        if chat.system_in_user and turns and turns[0].role == "system":
            prefix, turns = f"{turns[0].texts[0]}\n\n", turns[1:]
        images = iter([self._image(grid) for grid in grids or [(1, count) for count in tile_counts]])
        if self._begin:
            yield self._begin, False
        for turn in turns:
            learned = turn.role == "assistant"
            texts = self._texts(turn, "" if learned else prefix)
            prefix = prefix if learned else ""
            if chat.joined and not learned:
                yield [*self._start, *self._text(chat.roles[turn.role] + chat.after_role + texts[0], where)], False
            else:
                yield self._headers[turn.role], False
                if texts[0]:
                    yield self._text(texts[0], where), learned
            for text in texts[1:]:
                yield next(images), False
                if text:
                    yield self._text(text, where), learned
            yield [self.stop_id], learned
            yield self._after_turn, False

    def _texts(self, turn: AnyTurn, prefix: str) -> list[str]:
        """Return the turn's texts with what the format adds to them."""
        texts = [prefix + turn.texts[0], *turn.texts[1:]]
        if texts[0] or len(texts) == 1:
            texts[0] = self.chat.before_text + texts[0]
        beside, last = self.chat.around_image, len(texts) - 1
        return [beside * (number > 0) + text + beside * (number < last) for number, text in enumerate(texts)]

    def _image(self, grid: Grid) -> list[int]:
        before, context, after = self.image_ids
        marks = self.layout.tile_marks(grid)
        if not marks:
            return [before, *[context] * (self.layout.tiles(grid) * self.tokens_per_tile), after]
        tiles = ([*self._text(text), before, self._single(token), *[context] * self.tokens_per_tile] for text, token in marks)
        return [*(number for tile in tiles for number in tile), after]

    def _text(self, text: str, where: str = "chat format") -> list[int]:
        """Tokenize plain text without special tokens."""
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        if self._protected.isdisjoint(ids):
            self._known(ids, where)
            return ids
        # Some vocabularies contain special tokens as words, or do not mark them as special. Splitting such a word after its first character
        # prevents that, and no character is lost.
        breaks = [0, *(found.start() + 1 for found in self._literals.finditer(text) if len(found.group()) > 1), len(text)]
        if len(breaks) == 2:
            raise InputError(f"{where}: its text contains special tokens that cannot be split: remove them")
        return [token for i in range(len(breaks) - 1) for token in self._text(text[breaks[i] : breaks[i + 1]], where)]

    def _known(self, ids: Sequence[int], where: str) -> None:
        if self._vocabulary is not None and ids and max(ids) >= self._vocabulary:
            raise InputError(
                f"{where}: token {max(ids)} is outside of the {self._vocabulary} rows of the model's embedding:"
                " use the tokenizer that belongs to these weights"
            )

    def _single(self, token: str) -> int:
        number: int | None = self._backend.token_to_id(token)
        if number is None:
            raise InputError(
                f"the tokenizer has no token '{printable(token)}': add it as a special token, or use the weights' own tokenizer"
            )
        return number


def system_text(named: str | None) -> str | None:
    """Return the system message with a name in :data:`SYSTEM_MESSAGES`. Other text is the message itself, and ``none`` means no message."""
    return None if named is None or named == "none" else SYSTEM_MESSAGES.get(named, named)


def _private_backend(tokenizer: "PreTrainedTokenizerBase") -> Any:
    """Return a copy of the Rust tokenizer that does not share settings (truncation, padding, special tokens in text)."""
    from tokenizers import Tokenizer

    shared = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(shared, Tokenizer):
        raise InputError("this tokenizer has no fast backend: save it with tokenizer.json first")
    backend = Tokenizer.from_str(shared.to_str())
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True
    return backend
