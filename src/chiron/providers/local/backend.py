"""Interface between generation and models: prompts, encoded images, and the cache of keys and values."""

import inspect
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from chiron.client.call import ImagePart, Message, images_of
from chiron.client.images import PictureStore
from chiron.client.prompts import texts_between
from chiron.errors import InputError
from chiron.providers.local.dialogue import DialogueTokens, PlacedTurn
from chiron.providers.local.families.family import ModelFamily
from chiron.providers.local.tiling import Grid

SeenKey = tuple[str, int, int]
"""Key of an encoded image: its SHA-256, the longest side, and how many images share the call's tiles (0 if not shared)."""

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class BytesLru(Generic[K, V]):
    """Least-recently-used cache with a memory limit. Not thread-safe."""

    def __init__(self, most_bytes: int, size: Callable[[V], int]) -> None:
        """``size`` returns a value's size in bytes. Values larger than ``most_bytes`` are not kept."""
        self.most_bytes = most_bytes
        self.bytes = 0
        self._size = size
        self._kept: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V | None:
        """Return the value and mark it as recently used; ``None`` if missing."""
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def put(self, key: K, value: V) -> None:
        """Store a value, replacing an earlier one with this key."""
        if key in self._kept:
            self.bytes -= self._size(self._kept.pop(key))
        if self._size(value) > self.most_bytes:
            return
        self._kept[key] = value
        self.bytes += self._size(value)
        while self.bytes > self.most_bytes:
            self.bytes -= self._size(self._kept.popitem(last=False)[1])

    def clear(self) -> None:
        self._kept.clear()
        self.bytes = 0


_ROOM = 128
"""Columns added when the cache is full. Growing copies everything, so it must not happen for every token."""


class KVCache:
    """Keys and values of a batch of rows. All rows end at the last used column, and each starts according to its length.

    If positions and masks are passed explicitly, transformers calls only :meth:`update`.
    """

    def __init__(self, store: Tensor, width: int, lengths: Sequence[int]) -> None:
        """``store``: ``(layers, 2, rows, heads, columns, channels)``, with the first ``width`` columns in use."""
        self._store = store
        self.width = width
        self.lengths = list(lengths)
        self._incoming: Tensor | None = None

    @classmethod
    def of(cls, backend: "VLMBackend", prefixes: Sequence[Tensor | None], coming: Sequence[int]) -> Self:
        """Create rows that start with ``prefixes`` (``(layers, 2, heads, n, channels)`` each), with space for ``coming`` new tokens each.

        Each prefix ends where the row's new tokens start. The new tokens end at the last column of :meth:`open`.
        """
        layers, heads, channels = backend.cache_shape
        known = [0 if prefix is None else prefix.shape[3] for prefix in prefixes]
        total = max(n + new for n, new in zip(known, coming, strict=True))
        longest = max(coming)
        store = torch.zeros((layers, 2, len(prefixes), heads, total + _ROOM, channels), dtype=backend.dtype, device=backend.device)
        for row, prefix in enumerate(prefixes):
            if prefix is not None:
                end = total - coming[row]
                store[:, :, row, :, end - known[row] : end] = prefix
        return cls(store, total - longest, known)

    def open(self, coming: Sequence[int]) -> Tensor:
        """Prepare a run over the next ``max(coming)`` columns, of which each row uses the last ``coming``.

        Returns the mask ``(rows, 1, max(coming), columns)``: true where a token may attend. A column that a row does not use attends to
        itself, since attention needs at least one key.
        """
        new = max(coming)
        end = self.width + new
        if end > self._store.shape[4]:
            wider = self._store.new_zeros((*self._store.shape[:4], end + _ROOM, self._store.shape[5]))
            wider[..., : self.width, :] = self._store[..., : self.width, :]
            self._store = wider
        device = self._store.device
        incoming = torch.tensor(coming, device=device)
        self.lengths = [n + more for n, more in zip(self.lengths, coming, strict=True)]
        starts = end - torch.tensor(self.lengths, device=device)
        columns = torch.arange(end, device=device)
        queries = columns[self.width :]
        # If all rows have equally many new tokens, no column has to be protected.
        self._incoming = None if min(coming) == new else (queries[None] >= (end - incoming)[:, None])[:, None, :, None]
        causal = columns[None, :] <= queries[:, None]
        inside = (columns[None, :] >= starts[:, None])[:, None, :]
        mask = (causal[None] & inside) | (columns[None, :] == queries[:, None])[None]
        self._opened = self.width
        self.width = end
        return mask[:, None]

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Store a layer's new keys and values, ``(rows, heads, new, channels)``; return all of the layer's."""
        for which, fresh in enumerate((keys, values)):
            place = self._store[layer, which, :, :, self._opened : self.width]
            # Columns left of a row's new tokens may contain the end of its prefix.
            place.copy_(fresh if self._incoming is None else torch.where(self._incoming, fresh, place))
        return self._store[layer, 0, :, :, : self.width], self._store[layer, 1, :, :, : self.width]

    def row(self, number: int) -> Tensor:
        """Return a copy of one row, ``(layers, 2, heads, n, channels)``."""
        return self._store[:, :, number, :, self.width - self.lengths[number] : self.width].clone()

    def select(self, rows: Sequence[int]) -> None:
        """Keep these rows, in this order; a row may occur several times."""
        lengths = [self.lengths[row] for row in rows]
        dropped = self.width - max(lengths)
        used = self._store[..., dropped : self.width, :].index_select(2, torch.tensor(list(rows), device=self._store.device))
        self._store = torch.nn.functional.pad(used, (0, 0, 0, _ROOM))
        self.width, self.lengths = used.shape[4], lengths

    def join(self, other: "KVCache") -> None:
        width = max(self.width, other.width)
        layers, two, mine, heads, _, channels = self._store.shape
        store = self._store.new_zeros((layers, two, mine + len(other.lengths), heads, width + _ROOM, channels))
        store[:, :, :mine, :, width - self.width : width] = self._store[..., : self.width, :]
        store[:, :, mine:, :, width - other.width : width] = other._store[..., : other.width, :]  # noqa: SLF001 - the same class
        self._store, self.width, self.lengths = store, width, [*self.lengths, *other.lengths]


@dataclass(frozen=True, slots=True, eq=False)
class EncodedImage:
    key: SeenKey
    features: Tensor
    """Shape ``(tokens, hidden)``; replaces the embeddings of the image's tokens."""
    grid: Grid


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    ids: NDArray[np.int32]
    """Token IDs, shape ``(n,)``."""
    positions: NDArray[np.int64]
    """Shape ``(axes, n)``."""
    next_position: int
    """Position of the first generated token, on every axis."""
    images: tuple[EncodedImage, ...]
    spans: tuple[tuple[int, int], ...]
    """Start and end of each run of image tokens in ``ids``; see :meth:`~chiron.providers.local.dialogue.DialogueTokens.image_spans`."""

    @property
    def image_keys(self) -> tuple[SeenKey, ...]:
        """Keys of the images. Prompts with equal keys and tokens are equal."""
        return tuple(seen.key for seen in self.images)

    def __len__(self) -> int:
        return len(self.ids)


class VLMBackend:
    """A loaded model: tokenizes calls, encodes images, and runs its language model on rows with a cache.

    Not thread-safe.
    """

    def __init__(
        self, model: Any, tokenizer: Any, family: ModelFamily, dialogue: DialogueTokens, *, image_separator: str, features_bytes: int
    ) -> None:
        """``image_separator``: between an image and adjacent text, as in the model's training. ``features_bytes``: memory limit for encoded
        images.

        Raises:
            InputError: the tokenizer belongs to another model, or some layers use sliding-window attention, which shared prefixes do not
                support.
        """
        dialogue.check_against(model)
        self.model = model
        self.family = family
        self.dialogue = dialogue
        self.axes = dialogue.layout.axes
        """Axes of a position: 1, or 3 for time, height and width."""
        self.image_separator = image_separator
        self._tokenizer = tokenizer
        self._seen: BytesLru[SeenKey, EncodedImage] = BytesLru(features_bytes, lambda seen: seen.features.nbytes)
        text = model.config.get_text_config()
        if not family.sliding_window and any(kind != "full_attention" for kind in getattr(text, "layer_types", None) or ()):
            raise InputError(
                "its language model has sliding-window attention, which the provider local does not support: serve it with vLLM"
            )
        heads: int = text.num_key_value_heads
        head: int = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        self.cache_shape: tuple[int, int, int] = (text.num_hidden_layers, heads, head)
        """Layers, heads and channels of a token's keys and values."""
        self.longest: int = text.max_position_embeddings
        """Maximum number of tokens of prompt and reply together."""
        self.stop_ids = frozenset({dialogue.stop_id, *_eos_ids(model)})
        """Tokens that end a reply."""
        self._language_model = model.get_decoder()
        # Since transformers 5.24 it is named "cache".
        is_new = "cache" in inspect.signature(self._language_model.forward).parameters
        self._cache_argument = "cache" if is_new else "past_key_values"

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.model.dtype
        return dtype

    @torch.inference_mode()
    def prompt(self, messages: Sequence[Message], pictures: PictureStore) -> Prompt:
        """Tokenize a call's messages, and encode the images that are not cached.

        Raises:
            CallerFault: an image can no longer be read.
        """
        shown = images_of(messages)
        images = tuple(self._see(picture, len(shown), pictures) for picture in shown)
        turns = [turn for message in messages if (turn := self._turn(message)) is not None]
        # The last assistant turn is treated as the reply to generate, so add an empty one.
        counts = [len(seen.features) // self.dialogue.tokens_per_tile for seen in images]
        grids = [seen.grid for seen in images]
        ids = self.dialogue.prompt([*turns, PlacedTurn("assistant", ("",))], counts, grids, where="call")
        spans = self.dialogue.image_spans(ids)
        positions, following = self.dialogue.layout.positions(len(ids), spans, grids)
        return Prompt(ids, positions, following, images, spans)

    def text(self, ids: Sequence[int]) -> str:
        decoded: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return decoded.removeprefix(self.dialogue.chat.before_text)

    def embed(self, prompt: Prompt, start: int, end: int) -> Tensor:
        """Return the embeddings of prompt tokens ``start`` to ``end``, with image features inserted.

        Shape ``(end - start, hidden)``, or wider with zeros for text (:meth:`ModelFamily.features`).
        """
        embeddings = self.embed_tokens(torch.from_numpy(prompt.ids[start:end].astype(np.int64)))
        if prompt.images:
            embeddings = torch.nn.functional.pad(embeddings, (0, prompt.images[0].features.shape[1] - embeddings.shape[1]))
            features, done = torch.cat([seen.features for seen in prompt.images]), 0
            for first, last in prompt.spans:
                low, high = max(first, start), min(last, end)
                if low < high:
                    embeddings[low - start : high - start] = features[done + low - first : done + high - first]
                done += last - first
        return embeddings

    def embed_tokens(self, ids: Tensor) -> Tensor:
        """Return the embeddings of ``ids``: any shape, with ``hidden`` appended."""
        embedded: Tensor = self.model.get_input_embeddings()(ids.to(self.device))
        return embedded

    def run(self, embeddings: Tensor, positions: Tensor, mask: Tensor, cache: KVCache, blocks: Tensor | None = None) -> Tensor:
        """Run the language model on embeddings ``(rows, n, hidden)``; returns hidden states of the same shape.

        ``positions``: ``(axes, rows, n)``. ``mask``: ``(rows, 1, n, cached + n)``, true where a token may attend. ``blocks``: see
        :meth:`~chiron.providers.local.families.family.ModelFamily.language_inputs`. New keys and values are added to ``cache``.
        """
        hidden: Tensor = self._language_model(
            **self.family.language_inputs(embeddings, mask, self.model.config.get_text_config(), blocks),
            position_ids=positions if self.axes > 1 else positions[0],
            use_cache=True,
            **{self._cache_argument: cache},
        ).last_hidden_state
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Return logits ``(rows, vocabulary)`` for hidden states ``(rows, hidden)``."""
        found: Tensor = self.model.lm_head(hidden)
        return found

    def forget(self) -> None:
        self._seen.clear()

    def encode(self, image: Image.Image, n_images: int) -> tuple[Tensor, Grid]:
        """Encode one of a call's ``n_images`` images. Returns features ``(tokens, hidden)`` and the image's grid."""
        layout = self.dialogue.layout
        grid = layout.grid(*image.size, n_images)
        inputs = {name: torch.from_numpy(value) for name, value in layout.model_inputs([layout.cut(image, n_images)], [grid]).items()}
        # Sizes and other integers keep their type.
        moved = {name: value.to(self.device, self.dtype if value.is_floating_point() else None) for name, value in inputs.items()}
        return self.family.features(self.model, moved), grid

    def _see(self, picture: ImagePart, n_images: int, pictures: PictureStore) -> EncodedImage:
        key = (picture.sha256, picture.max_side, self.dialogue.layout.sharing(n_images))
        seen = self._seen.get(key)
        if seen is None:
            features, grid = self.encode(pictures.image(picture), n_images)
            seen = EncodedImage(key, features, grid)
            self._seen.put(key, seen)
        return seen

    def _turn(self, message: Message) -> PlacedTurn | None:
        """Convert a message to a turn; ``None`` if it has neither images nor text."""
        texts = texts_between(message, self.image_separator)
        return PlacedTurn(message.role, texts) if len(texts) > 1 or texts[0].strip() else None


def _eos_ids(model: Any) -> set[int]:
    found: set[int] = set()
    for config in (model.config, model.config.get_text_config(), getattr(model, "generation_config", None)):
        ids = getattr(config, "eos_token_id", None)
        found.update(ids if isinstance(ids, list | tuple) else () if ids is None else (ids,))
    return found
