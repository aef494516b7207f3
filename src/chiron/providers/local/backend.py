"""What generation needs to know of a model, and what all supported architectures have in common."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from chiron.client.call import ImagePart, Message
from chiron.client.images import PictureStore
from chiron.client.prompts import texts_between
from chiron.errors import InputError
from chiron.providers.local.cache import BytesLru, KVCache, SeenKey
from chiron.providers.local.dialogue import DialogueTokens, PlacedTurn


@dataclass(frozen=True, slots=True, eq=False)
class EncodedImage:
    """An image, encoded."""

    key: SeenKey
    features: Tensor
    """``(tokens, hidden)``, in place of the embeddings of its image tokens."""
    grid: tuple[int, int]
    """Rows and columns of its tokens, where positions depend on them; their product is the number of tokens."""


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """What a model reads before it speaks."""

    ids: NDArray[np.int32]
    """``(n,)``"""
    positions: NDArray[np.int64]
    """``(axes, n)``"""
    next_position: int
    """Of the first token said, on every axis."""
    images: tuple[EncodedImage, ...]
    spans: tuple[tuple[int, int], ...]
    """Where each image's tokens begin and end in ``ids``."""

    @property
    def image_keys(self) -> tuple[SeenKey, ...]:
        """Names what is seen; prompts of equal keys and tokens are equal."""
        return tuple(seen.key for seen in self.images)

    def __len__(self) -> int:
        """Tokens."""
        return len(self.ids)


class VLMBackend(ABC):
    """A loaded model of one architecture: reads calls, sees images, and runs its language model on rows with a cache.

    Not for several threads at once.
    """

    axes: ClassVar[int] = 1
    """Of a position: 1, or 3 where positions say time, height and width."""
    beside_image: ClassVar[str] = "\n"
    """What the model was taught to read between an image and what comes before or after it."""

    def __init__(self, model: Any, tokenizer: Any, dialogue: DialogueTokens, *, features_bytes: int) -> None:
        """``features_bytes``: the most that encoded images may take.

        Raises:
            InputError: the tokenizer is another model's, or some layers see only a window of what was said before, which shared prefixes
                cannot serve.
        """
        dialogue.check_against(model)
        self.model = model
        self.dialogue = dialogue
        self._tokenizer = tokenizer
        self._seen: BytesLru[SeenKey, EncodedImage] = BytesLru(features_bytes, lambda seen: seen.features.nbytes)
        text = model.config.get_text_config()
        if any(kind != "full_attention" for kind in getattr(text, "layer_types", None) or ()):
            raise InputError("its language model has layers of sliding-window attention, which the provider local cannot run")
        heads: int = text.num_key_value_heads
        head: int = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        self.cache_shape: tuple[int, int, int] = (text.num_hidden_layers, heads, head)
        """Layers, heads and channels of the keys and values of a token."""
        self.longest: int = text.max_position_embeddings
        """Tokens of prompt and reply together, at most."""
        self.stop_ids = frozenset({dialogue.stop_id, *_eos_ids(model)})
        """A reply ends before any of these."""
        self._cache_argument = _cache_argument(model.model.language_model)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        device: torch.device = self.model.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """In what precision they are."""
        dtype: torch.dtype = self.model.dtype
        return dtype

    @torch.inference_mode()
    def prompt(self, messages: Sequence[Message], pictures: PictureStore) -> Prompt:
        """Read a call's messages, and encode those of its images that are not known yet.

        Raises:
            CallerFault: an image cannot be read any more.
        """
        shown = [part for message in messages for part in message.parts if isinstance(part, ImagePart)]
        images = tuple(self._see(picture, len(shown), pictures) for picture in shown)
        turns = [turn for message in messages if (turn := self._turn(message)) is not None]
        # An assistant's last turn would be taken for what is to be said: the empty one after it is.
        counts = [len(seen.features) // self.dialogue.tokens_per_tile for seen in images]
        ids = self.dialogue.prompt([*turns, PlacedTurn("assistant", ("",))], counts, where="call")
        starts = (np.flatnonzero(ids == self.dialogue.image_ids[0]) + 1).tolist()
        spans = tuple((start, start + len(seen.features)) for start, seen in zip(starts, images, strict=True))
        positions, following = self._positions(len(ids), images, spans)
        return Prompt(ids, positions, following, images, spans)

    def text(self, ids: Sequence[int]) -> str:
        """What was said, in words."""
        words: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return words

    def embed(self, prompt: Prompt, start: int, end: int) -> Tensor:
        """``(end - start, hidden)``: embeddings of a stretch of a prompt, image features in their places."""
        embeddings = self.embed_tokens(torch.from_numpy(prompt.ids[start:end].astype(np.int64)))
        for seen, (first, last) in zip(prompt.images, prompt.spans, strict=True):
            low, high = max(first, start), min(last, end)
            if low < high:
                embeddings[low - start : high - start] = seen.features[low - first : high - first]
        return embeddings

    def embed_tokens(self, ids: Tensor) -> Tensor:
        """``ids`` of any shape; a last dimension of ``hidden`` comes to it."""
        embedded: Tensor = self.model.get_input_embeddings()(ids.to(self.device))
        return embedded

    def run(self, embeddings: Tensor, positions: Tensor, mask: Tensor, cache: KVCache) -> Tensor:
        """``(rows, n, hidden)`` from embeddings of that shape; ``cache`` takes the new keys and values.

        ``positions``: ``(axes, rows, n)``; ``mask``: ``(rows, 1, n, cached + n)``, true where a token may look.
        """
        hidden: Tensor = self.model.model.language_model(
            inputs_embeds=embeddings,
            position_ids=positions if self.axes > 1 else positions[0],
            # A mapping is taken as it is: no other mask is made of it.
            attention_mask={"full_attention": mask},
            use_cache=True,
            **{self._cache_argument: cache},
        ).last_hidden_state
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """``(rows, vocabulary)`` from ``(rows, hidden)``."""
        found: Tensor = self.model.lm_head(hidden)
        return found

    def forget(self) -> None:
        """Let go of encoded images."""
        self._seen.clear()

    @abstractmethod
    def encode(self, image: Image.Image, n_images: int) -> tuple[Tensor, tuple[int, int]]:
        """Features ``(tokens, hidden)`` of an image, one of ``n_images`` of its call, and rows and columns of the tokens."""

    @abstractmethod
    def sharing(self, n_images: int) -> int:
        """What of the number of a call's images decides how each is seen; 0 where nothing does."""

    def _positions(self, length: int, images: Sequence[EncodedImage], spans: Sequence[tuple[int, int]]) -> tuple[NDArray[np.int64], int]:
        """Positions ``(axes, length)``, and the one after them."""
        del images, spans
        return np.arange(length, dtype=np.int64)[None], length

    def _see(self, picture: ImagePart, n_images: int, pictures: PictureStore) -> EncodedImage:
        key = (picture.sha256, picture.max_side, self.sharing(n_images))
        seen = self._seen.get(key)
        if seen is None:
            features, grid = self.encode(pictures.image(picture), n_images)
            seen = EncodedImage(key, features, grid)
            self._seen.put(key, seen)
        return seen

    def _turn(self, message: Message) -> PlacedTurn | None:
        """``None`` for a message without an image or a word."""
        texts = texts_between(message, self.beside_image)
        return PlacedTurn(message.role, texts) if len(texts) > 1 or texts[0].strip() else None


def _cache_argument(language_model: Any) -> str:
    """Return the name under which this version of transformers takes the cache: ``cache`` since 5.24, ``past_key_values`` before."""
    return "cache" if "cache" in inspect.signature(language_model.forward).parameters else "past_key_values"


def _eos_ids(model: Any) -> set[int]:
    found: set[int] = set()
    for config in (model.config, model.config.get_text_config(), getattr(model, "generation_config", None)):
        ids = getattr(config, "eos_token_id", None)
        found.update(ids if isinstance(ids, list | tuple) else () if ids is None else (ids,))
    return found
