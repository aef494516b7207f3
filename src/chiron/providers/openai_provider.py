"""The provider ``openai``: endpoints that share a limiter, and their check before a run."""

import json
import math
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from chiron.client.attempts import RetryPolicy
from chiron.client.batch import BatchQueue
from chiron.client.batch_collector import BatchTimes
from chiron.client.call import Call
from chiron.client.config import BatchForm, OpenAIModel
from chiron.client.failures import CallFailed, one_line
from chiron.client.limiter import Limiter
from chiron.client.provider import BuildContext, Endpoint, Finding, Piece, ProviderType
from chiron.errors import InputError
from chiron.providers.anthropic_batch import AnthropicBatches
from chiron.providers.batch_api import BatchApi
from chiron.providers.gemini_batch import GeminiBatches
from chiron.providers.openai_batch import OpenAIBatches, VllmFiles
from chiron.providers.openai_compatible import OpenAICompatible
from chiron.providers.streaming import stream

_APIS: Mapping[BatchForm, type[BatchApi]] = {"openai": OpenAIBatches, "anthropic": AnthropicBatches, "gemini": GeminiBatches}
_NO_LIMIT = 10**9
"""Concurrent calls of a model that is asked through batches: they only wait."""


class OpenAIProvider(ProviderType[OpenAIModel]):
    config = OpenAIModel

    def build(self, name: str, config: OpenAIModel, context: BuildContext) -> Endpoint:
        return self.build_all({name: config}, context)[name]

    def build_all(self, models: Mapping[str, OpenAIModel], context: BuildContext) -> dict[str, Endpoint]:
        """Create all endpoints. Entries with the same address, model and key share a limiter with the lowest of their limits."""
        sharing: defaultdict[tuple[str, str, str | None], list[OpenAIModel]] = defaultdict(list)
        for config in models.values():
            sharing[_server(config)].append(config)
        limiters = {
            server: Limiter(
                min(config.concurrency for config in configs),
                min((config.requests_per_minute for config in configs if config.requests_per_minute is not None), default=None),
            )
            for server, configs in sharing.items()
        }
        return {
            name: _endpoint(OpenAICompatible(name, config, context.pictures, need_key=context.need_keys), limiters[_server(config)])
            for name, config in models.items()
        }

    async def check(self, name: str, config: OpenAIModel, endpoint: Endpoint) -> AsyncIterator[Finding]:
        provider = endpoint.provider
        assert isinstance(provider, OpenAICompatible)  # noqa: S101 - build made it
        if config.batches is not None and config.batches.files is not None:
            yield Finding(name, "batch", ok=None, detail=f"is asked through files in {config.batches.files}, which vllm run-batch answers")
            return
        if config.api_key_env:
            yield Finding(name, "key", ok=True, detail=f"{config.api_key_env} is set")
        try:
            status, text = await provider.get("/models")
        except CallFailed as failure:
            yield Finding(name, "endpoint", ok=False, detail=failure.public)
            return
        if status == 404 and await _is_above_api(provider):
            right = f"{config.base_url.rstrip('/')}/v1"
            detail = f"{config.base_url} is not the address of the API, {right} is: add /v1 to base_url"
            yield Finding(name, "endpoint", ok=False, detail=detail)
        elif status in {401, 403}:
            yield Finding(name, "endpoint", ok=False, detail=f"{config.base_url} refuses the key (HTTP {status})")
        else:
            yield Finding(name, "endpoint", ok=True, detail=f"{config.base_url} answers")
            for finding in _listed(name, config, text):
                yield finding

    async def stream(self, endpoint: Endpoint, call: Call) -> AsyncIterator[Piece]:
        assert isinstance(endpoint.provider, OpenAICompatible)  # noqa: S101 - build made it
        async for piece in stream(endpoint.provider, call, endpoint.retry):
            yield piece


def _endpoint(provider: OpenAICompatible, limiter: Limiter) -> Endpoint:
    config = provider.config
    price, image_tokens = config.call_price, config.image_tokens
    if (settings := config.batches) is None:
        retry = RetryPolicy(attempts=config.attempts, deadline=config.deadline, outage=config.outage)
        return Endpoint(provider, limiter, retry, price, image_tokens)
    service = VllmFiles(provider, settings) if settings.files is not None else _APIS[settings.form](provider, settings)
    queue = BatchQueue(provider.name, service, BatchTimes(settings.quiet, settings.poll, outage=settings.outage))
    # The provider works on a batch for hours. A failed call is part of the next batch, so it does not wait either.
    retry = RetryPolicy(attempts=settings.attempts, first_wait=0.0, deadline=math.inf, outage=settings.outage)
    return Endpoint(provider, Limiter(_NO_LIMIT), retry, price, image_tokens, queue)


def _server(config: OpenAIModel) -> tuple[str, str, str | None]:
    return config.base_url.rstrip("/"), config.model, config.api_key_env


def _serving_note(config: OpenAIModel, listed: Mapping[str, Any]) -> str:
    """Return a note if an endpoint serves an InternVL checkpoint without a matching ``serves`` entry, else an empty string.

    ``listed``: the model as listed by the endpoint; vLLM gives its folder in ``root``.
    """
    from chiron.providers.local.checkpoint import FORMAT_FILE, read_format

    place = str(listed.get("root") or listed.get("id") or config.model)
    folder = Path(place)
    try:
        known = read_format(folder) if place.isprintable() and (folder / FORMAT_FILE).is_file() else None
    except (InputError, OSError, ValueError):
        known = None
    wanted = "" if known is None else f"serves: {{max_tiles: {known.max_tiles}, max_tiles_per: {known.max_tiles_per}}}"
    if config.serves is None and known is not None:
        return f"it serves a checkpoint that chiron trained, and cuts several images differently from training: add {wanted}"
    if config.serves is None and any(name in f"{place} {config.model}".lower() for name in ("internvl", "chiron")):
        return "it seems to serve InternVL; if 'chiron train' made the checkpoint, add serves: {max_tiles: ...} as its model card says"
    configured = config.serves and (config.serves.max_tiles, config.serves.max_tiles_per)
    if known is not None and configured != (known.max_tiles, known.max_tiles_per):
        return f"the checkpoint was trained otherwise than serves says: write {wanted}"
    return ""


def _listed(name: str, config: OpenAIModel, text: str) -> list[Finding]:
    """Look for the model in the endpoint's list of models."""
    try:
        entries = json.loads(text)["data"]
        listed = [one_line(str(entry["id"]), 100) for entry in entries]
    except (ValueError, KeyError, TypeError):
        return [Finding(name, "listed", ok=None, detail="it does not list its models")]
    findings = []
    own: Mapping[str, Any] = next((entry for entry in entries if str(entry["id"]) == config.model), {})
    if note := _serving_note(config, own):
        findings.append(Finding(name, "tiles", ok=None, detail=note))
    if any(entry == config.model or entry.endswith(f"/{config.model}") for entry in listed):
        return [*findings, Finding(name, "listed", ok=True, detail=config.model)]
    several = ", ".join(listed[:5]) + (", ..." if len(listed) > 5 else "")
    return [*findings, Finding(name, "listed", ok=None, detail=f"{config.model} is not listed; listed: {several or 'nothing'}")]


async def _is_above_api(provider: OpenAICompatible) -> bool:
    """Return whether the API's address is that of the provider with ``/v1`` at the end."""
    try:
        status, text = await provider.get("/v1/models")
        return status == 200 and isinstance(json.loads(text)["data"], list)
    except (CallFailed, ValueError, KeyError, TypeError):
        return False
