"""Interface between generation and models, and the code shared by all supported architectures."""

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
    """An image encoded by the vision tower."""

    key: SeenKey
    features: Tensor
    """Shape ``(tokens, hidden)``; replaces the embeddings of the image's tokens."""
    grid: tuple[int, int]
    """Rows and columns of its tokens, if positions depend on them; their product is the number of tokens."""


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """Model input of one call."""

    ids: NDArray[np.int32]
    """Token IDs, shape ``(n,)``."""
    positions: NDArray[np.int64]
    """Shape ``(axes, n)``."""
    next_position: int
    """Position of the first generated token, on every axis."""
    images: tuple[EncodedImage, ...]
    spans: tuple[tuple[int, int], ...]
    """Start and end of each image's tokens in ``ids``."""

    @property
    def image_keys(self) -> tuple[SeenKey, ...]:
        """Keys of the images. Prompts with equal keys and tokens are equal."""
        return tuple(seen.key for seen in self.images)

    def __len__(self) -> int:
        """Return the number of tokens."""
        return len(self.ids)


class VLMBackend(ABC):
    """A loaded model of one architecture: tokenizes calls, encodes images, and runs its language model on rows with a cache.

    Not thread-safe.
    """

    axes: ClassVar[int] = 1
    """Axes of a position: 1, or 3 for time, height and width."""
    beside_image: ClassVar[str] = "\n"
    """Separator between an image and adjacent text, as in the model's training."""

    def __init__(self, model: Any, tokenizer: Any, dialogue: DialogueTokens, *, features_bytes: int) -> None:
        """``features_bytes``: memory limit for encoded images.

        Raises:
            InputError: the tokenizer belongs to another model, or some layers use sliding-window attention, which shared prefixes do not
                support.
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
        """Layers, heads and channels of a token's keys and values."""
        self.longest: int = text.max_position_embeddings
        """Maximum number of tokens of prompt and reply together."""
        self.stop_ids = frozenset({dialogue.stop_id, *_eos_ids(model)})
        """Tokens that end a reply."""
        self._cache_argument = _cache_argument(model.model.language_model)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        device: torch.device = self.model.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        dtype: torch.dtype = self.model.dtype
        return dtype

    @torch.inference_mode()
    def prompt(self, messages: Sequence[Message], pictures: PictureStore) -> Prompt:
        """Tokenize a call's messages, and encode the images that are not cached.

        Raises:
            CallerFault: an image can no longer be read.
        """
        shown = [part for message in messages for part in message.parts if isinstance(part, ImagePart)]
        images = tuple(self._see(picture, len(shown), pictures) for picture in shown)
        turns = [turn for message in messages if (turn := self._turn(message)) is not None]
        # The last assistant turn is treated as the reply to generate, so add an empty one.
        counts = [len(seen.features) // self.dialogue.tokens_per_tile for seen in images]
        ids = self.dialogue.prompt([*turns, PlacedTurn("assistant", ("",))], counts, where="call")
        starts = (np.flatnonzero(ids == self.dialogue.image_ids[0]) + 1).tolist()
        spans = tuple((start, start + len(seen.features)) for start, seen in zip(starts, images, strict=True))
        positions, following = self._positions(len(ids), images, spans)
        return Prompt(ids, positions, following, images, spans)

    def text(self, ids: Sequence[int]) -> str:
        """Decode generated tokens."""
        words: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return words

    def embed(self, prompt: Prompt, start: int, end: int) -> Tensor:
        """Return the embeddings of prompt tokens ``start`` to ``end``, with image features inserted. Shape ``(end - start, hidden)``."""
        embeddings = self.embed_tokens(torch.from_numpy(prompt.ids[start:end].astype(np.int64)))
        for seen, (first, last) in zip(prompt.images, prompt.spans, strict=True):
            low, high = max(first, start), min(last, end)
            if low < high:
                embeddings[low - start : high - start] = seen.features[low - first : high - first]
        return embeddings

    def embed_tokens(self, ids: Tensor) -> Tensor:
        """Return the embeddings of ``ids``: any shape, with ``hidden`` appended."""
        embedded: Tensor = self.model.get_input_embeddings()(ids.to(self.device))
        return embedded

    def run(self, embeddings: Tensor, positions: Tensor, mask: Tensor, cache: KVCache) -> Tensor:
        """Run the language model on embeddings ``(rows, n, hidden)``; returns hidden states of the same shape.

        ``positions``: ``(axes, rows, n)``. ``mask``: ``(rows, 1, n, cached + n)``, true where a token may attend. New keys and values are
        added to ``cache``.
        """
        hidden: Tensor = self.model.model.language_model(
            inputs_embeds=embeddings,
            position_ids=positions if self.axes > 1 else positions[0],
            # Transformers uses a mapping unchanged and does not create another mask from it.
            attention_mask={"full_attention": mask},
            use_cache=True,
            **{self._cache_argument: cache},
        ).last_hidden_state
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Return logits ``(rows, vocabulary)`` for hidden states ``(rows, hidden)``."""
        found: Tensor = self.model.lm_head(hidden)
        return found

    def forget(self) -> None:
        """Clear the cache of encoded images."""
        self._seen.clear()

    @abstractmethod
    def encode(self, image: Image.Image, n_images: int) -> tuple[Tensor, tuple[int, int]]:
        """Encode one of a call's ``n_images`` images. Returns features ``(tokens, hidden)``, and rows and columns of the tokens."""

    @abstractmethod
    def sharing(self, n_images: int) -> int:
        """Return how the number of a call's images affects the encoding of each; 0 if it does not."""

    def _positions(self, length: int, images: Sequence[EncodedImage], spans: Sequence[tuple[int, int]]) -> tuple[NDArray[np.int64], int]:
        """Return positions ``(axes, length)``, and the next position."""
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
        """Convert a message to a turn; ``None`` if it has neither images nor text."""
        texts = texts_between(message, self.beside_image)
        return PlacedTurn(message.role, texts) if len(texts) > 1 or texts[0].strip() else None


def _cache_argument(language_model: Any) -> str:
    """Return the name of transformers' cache argument: ``cache`` since 5.24, ``past_key_values`` before."""
    return "cache" if "cache" in inspect.signature(language_model.forward).parameters else "past_key_values"


def _eos_ids(model: Any) -> set[int]:
    found: set[int] = set()
    for config in (model.config, model.config.get_text_config(), getattr(model, "generation_config", None)):
        ids = getattr(config, "eos_token_id", None)
        found.update(ids if isinstance(ids, list | tuple) else () if ids is None else (ids,))
    return found
