"""Generate replies to many prompts at once. Shared prefixes are computed once, and rows join and leave the batch at any time."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chiron.providers.local.backend import BytesLru, KVCache, Prompt, SeenKey, VLMBackend


def choose(logits: Tensor, temperatures: Sequence[float], chances: Sequence[float]) -> list[int | None]:
    """Choose a token for each row of ``logits`` (``(rows, vocabulary)``); ``None`` if a row contains non-finite numbers.

    At temperature 0, the most likely token is chosen (the first of equals). Otherwise it is sampled from softmax(logits / temperature): the
    inverse cumulative distribution at the row's chance in [0, 1), in float64. A row's token is thus independent of the rest of the batch.
    """
    finite: list[bool] = torch.isfinite(logits).all(dim=-1).tolist()
    chosen = logits.argmax(dim=-1)
    sampled = [row for row, temperature in enumerate(temperatures) if temperature > 0 and finite[row]]
    if sampled:
        device = logits.device
        scale = torch.tensor([temperatures[row] for row in sampled], dtype=torch.float64, device=device)
        chance = torch.tensor([chances[row] for row in sampled], dtype=torch.float64, device=device)
        rows = torch.tensor(sampled, device=device)
        sums = torch.softmax(logits[rows].double() / scale[:, None], dim=-1).cumsum(dim=-1)
        # Because of rounding, the last sum may differ from 1. Clamping keeps the index inside the vocabulary.
        found = torch.searchsorted(sums, chance[:, None] * sums[:, -1:], right=True)[:, 0].clamp_(max=logits.shape[-1] - 1)
        chosen[rows] = found
    tokens: list[int] = chosen.tolist()
    return [token if is_finite else None for token, is_finite in zip(tokens, finite, strict=True)]


_PREFILL_TOKENS = 16384
"""Maximum number of tokens, including padding, in one prefill. A larger prefill needs more memory but is not faster."""


@dataclass(frozen=True, slots=True, eq=False)
class _Prefix:
    ids: NDArray[np.int32]
    states: Tensor


class PrefixCache:
    """The most recent long prefix for each set of images (one for prompts without images).

    Attention at a token does not depend on later tokens, so the start of a stored prefix can also be used.
    """

    def __init__(self, most_bytes: int) -> None:
        self._kept: BytesLru[tuple[SeenKey, ...], _Prefix] = BytesLru(most_bytes, lambda prefix: prefix.states.nbytes)

    def longest(self, images: tuple[SeenKey, ...], ids: NDArray[np.int32]) -> Tensor | None:
        """Return keys and values ``(layers, 2, heads, n, channels)`` of the longest known prefix of ``ids``, with ``n`` tokens."""
        known = self._kept.get(images)
        n = 0 if known is None else common_length([known.ids, ids])
        return known.states[:, :, :, :n] if known is not None and n else None

    def keep(self, images: tuple[SeenKey, ...], ids: NDArray[np.int32], states: Tensor) -> None:
        """Store the keys and values of ``ids``, unless a stored sequence already starts with them."""
        known = self._kept.get(images)
        if known is None or common_length([known.ids, ids]) < len(ids):
            self._kept.put(images, _Prefix(ids, states))

    def forget(self) -> None:
        self._kept.clear()


def common_length(several: Sequence[NDArray[np.int32]]) -> int:
    """Return the number of equal tokens at the start of all sequences."""
    shortest = min(len(ids) for ids in several)
    first = several[0][:shortest]
    for ids in several[1:]:
        different = np.flatnonzero(first != ids[: len(first)])
        if len(different):
            first = first[: different[0]]
    return len(first)


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    prompt: Prompt
    temperature: float
    """0: always the most likely token."""
    max_tokens: int
    seed: str
    """Random seed: the same seed gives the same reply."""


@dataclass(frozen=True, slots=True)
class Completion:
    tokens: tuple[int, ...]
    """Generated tokens, without the stop token."""
    finish: Literal["stop", "length", "broken"]
    """``broken``: the model computed non-finite logits."""


@dataclass(slots=True)
class _Row:
    request: Request
    chance: Random
    tokens: list[int] = field(default_factory=list)


class Generation:
    """A batch of rows in progress. :meth:`admit` adds rows at any time, and :meth:`step` generates one token per row.

    A row's output does not depend on the others, except for rounding.
    """

    def __init__(self, backend: VLMBackend, prefixes: PrefixCache) -> None:
        """``prefixes`` may be shared with later instances."""
        self._backend = backend
        self._prefixes = prefixes
        self._rows: list[_Row] = []
        self._cache: KVCache | None = None

    @property
    def pending(self) -> list[Request]:
        return [row.request for row in self._rows]

    @torch.inference_mode()
    def admit(self, requests: Sequence[Request]) -> list[tuple[Request, Completion]]:
        """Read the prompts of these requests and generate the first token of each. Returns the requests that this completes."""
        if not requests:
            return []
        by_images: defaultdict[tuple[object, ...], list[Request]] = defaultdict(list)
        for request in requests:
            by_images[request.prompt.image_keys].append(request)
        groups = list(by_images.values())
        shared = self._shared_prefixes([[request.prompt for request in group] for group in groups])
        prefix_of = {id(request): states for group, states in zip(groups, shared, strict=True) for request in group}
        # Equal prompts (for example at several temperatures) are read once, and then copied to several rows.
        distinct: dict[tuple[object, ...], int] = {}
        prompts: list[Prompt] = []
        states: list[Tensor | None] = []
        of_request = []
        for request in requests:
            key = (request.prompt.image_keys, request.prompt.ids.tobytes())
            if key not in distinct:
                distinct[key] = len(prompts)
                prompts.append(request.prompt)
                states.append(prefix_of[id(request)])
            of_request.append(distinct[key])
        cache, last = self._read(prompts, states, [len(prompt) for prompt in prompts])
        cache.select(of_request)
        logits = self._backend.logits(last)[torch.tensor(of_request, device=last.device)]
        fresh = [_Row(request, Random(request.seed)) for request in requests]  # noqa: S311 - reproducible, not secret
        active, ended = _extend(fresh, logits, self._backend.stop_ids)
        if active:
            cache.select(active)
            if self._cache is None:
                self._cache = cache
            else:
                self._cache.join(cache)
            self._rows += [fresh[number] for number in active]
        return ended

    @torch.inference_mode()
    def step(self) -> list[tuple[Request, Completion]]:
        """Generate one token for every row. Returns the requests that this completes."""
        cache = self._cache
        if cache is None:
            return []
        backend, rows = self._backend, self._rows
        tokens = torch.tensor([[row.tokens[-1]] for row in rows])
        positions_of = [row.request.prompt.next_position + len(row.tokens) - 1 for row in rows]
        positions = torch.tensor(positions_of, device=backend.device).view(1, -1, 1).expand(backend.axes, -1, 1)
        mask = cache.open([1] * len(rows))
        hidden = backend.run(backend.embed_tokens(tokens), positions, mask, cache)
        active, ended = _extend(rows, backend.logits(hidden[:, -1]), backend.stop_ids)
        if ended:
            self._rows = [rows[number] for number in active]
            if active:
                cache.select(active)
            else:
                self._cache = None
        return ended

    def _shared_prefixes(self, groups: Sequence[Sequence[Prompt]]) -> list[Tensor | None]:
        """Compute the common prefix of each group of prompts. Returns keys and values, or ``None`` if a group has no common prefix."""
        lengths = []
        known: list[Tensor | None] = []
        for prompts in groups:
            # Each prompt keeps at least one token, which is needed to compute the first logits.
            shared = min(common_length([prompt.ids for prompt in prompts]), min(len(prompt) for prompt in prompts) - 1)
            lengths.append(shared)
            known.append(self._prefixes.longest(prompts[0].image_keys, prompts[0].ids[:shared]) if shared else None)
        for chunk in _chunks([length - _length(states) for length, states in zip(lengths, known, strict=True)]):
            prompts = [groups[number][0] for number in chunk]
            cache, _ = self._read(prompts, [known[number] for number in chunk], [lengths[number] for number in chunk])
            for row, number in enumerate(chunk):
                states = cache.row(row)
                known[number] = states
                self._prefixes.keep(prompts[row].image_keys, prompts[row].ids[: lengths[number]], states)
        return known

    def _read(self, prompts: Sequence[Prompt], known: Sequence[Tensor | None], ends: Sequence[int]) -> tuple[KVCache, Tensor]:
        """Read each prompt from its ``known`` prefix to its end. Returns the rows, and the last hidden states ``(rows, hidden)``."""
        backend = self._backend
        starts = [_length(states) for states in known]
        coming = [end - start for start, end in zip(starts, ends, strict=True)]
        cache = KVCache.of(backend, known, coming)
        longest = max(coming)
        pieces = [backend.embed(prompt, start, end) for prompt, start, end in zip(prompts, starts, ends, strict=True)]
        embeddings = pieces[0].new_zeros((len(pieces), longest, max(piece.shape[1] for piece in pieces)))
        positions_of = np.zeros((backend.axes, len(pieces), longest), np.int64)
        blocks = np.full((len(pieces), longest), -1, np.int64)
        for row, (prompt, piece) in enumerate(zip(prompts, pieces, strict=True)):
            embeddings[row, longest - len(piece) :, : piece.shape[1]] = piece
            positions_of[:, row, longest - len(piece) :] = prompt.positions[:, starts[row] : ends[row]]
            for number, (first, last) in enumerate(prompt.spans):
                # A known prefix never ends within an image: prompts with equal images have the same image tokens.
                blocks[row, max(first, starts[row]) + longest - ends[row] : max(last + longest - ends[row], 0)] = number
        mask = cache.open(coming)
        positions, images = (torch.from_numpy(of).to(backend.device) for of in (positions_of, blocks))
        hidden = backend.run(embeddings, positions, mask, cache, images if blocks.max() >= 0 else None)
        return cache, hidden[:, -1]


def _extend(rows: Sequence[_Row], logits: Tensor, stop_ids: frozenset[int]) -> tuple[list[int], list[tuple[Request, Completion]]]:
    """Choose a token for every row. Returns the indices of the rows that continue, and the completions of the others."""
    # Each row uses one random number per token, so that its reply does not depend on the batch.
    tokens = choose(logits, [row.request.temperature for row in rows], [row.chance.random() for row in rows])
    active, ended = [], []
    for number, (row, token) in enumerate(zip(rows, tokens, strict=True)):
        if token is None or token in stop_ids:
            ended.append((row.request, Completion(tuple(row.tokens), "broken" if token is None else "stop")))
            continue
        row.tokens.append(token)
        if len(row.tokens) == row.request.max_tokens:
            ended.append((row.request, Completion(tuple(row.tokens), "length")))
        else:
            active.append(number)
    return active, ended


def _length(states: Tensor | None) -> int:
    return 0 if states is None else states.shape[3]


def _chunks(coming: Sequence[int]) -> list[list[int]]:
    """Return chunks of indices with tokens to read. Long ones are grouped, and each chunk is limited including its padding."""
    order = sorted((number for number, count in enumerate(coming) if count), key=lambda number: -coming[number])
    chunks: list[list[int]] = []
    for number in order:
        if chunks and (len(chunks[-1]) + 1) * coming[chunks[-1][0]] <= _PREFILL_TOKENS:
            chunks[-1].append(number)
        else:
            chunks.append([number])
    return chunks
