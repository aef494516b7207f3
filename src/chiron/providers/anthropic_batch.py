"""Anthropic's Message Batches: requests are part of the batch itself, and its messages have another form than OpenAI's."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp

from chiron.client.batch_record import DELETED, Batch, BatchStatus, missing_requests, read_open_batches
from chiron.client.call import Call, ImagePart, Message, Reply, TextPart, images_of
from chiron.client.config import ResolvedBatches
from chiron.client.failures import CallerFault, Transient
from chiron.providers.batch_api import TRANSFER_SECONDS, BatchApi, counted, identifier
from chiron.providers.batch_images import split_data_url
from chiron.providers.openai_compatible import HOLE, OpenAICompatible, filled
from chiron.providers.response_parsing import classify_status, read_body

_log = logging.getLogger(__name__)
_PAGE, _MAX_PAGES = 100, 100
_BEFORE, _AFTER = b'{"requests":[', b"]}"
_CHUNK = 2**20
_FILES = "files-api-2025-04-14"
"""Beta in which messages refer to files."""
_STATUS = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""HTTP status of each type of error, which the lines of a batch do not contain."""


class AnthropicBatches(BatchApi):
    """Message Batches below the same address as the OpenAI-compatible calls. A call's key is its ``custom_id``.

    A batch has no field for a name. After a creation whose answer was lost, the batches since then are looked through for these calls.
    """

    key_header = "x-api-key"

    def __init__(self, provider: OpenAICompatible, settings: ResolvedBatches) -> None:
        super().__init__(provider, settings)
        # Later versions of the API refuse a temperature.
        self.headers = {"anthropic-version": "2023-06-01", **({"anthropic-beta": _FILES} if self.uploads is not None else {})}

    async def request(self, call: Call) -> bytes:
        """Return a line: the key, and the parameters of a message."""
        turns = self.provider.turns(call.messages)
        config, parameters = self.provider.config, self.settings.parameters
        params: dict[str, Any] = {
            "model": config.model,
            "max_tokens": call.max_tokens,
            "messages": [{"role": turn.role, "content": _content(turn)} for turn in turns if turn.role != "system"],
            **(config.parameters if parameters is None else parameters),
        }
        if system := "\n\n".join(turn.text for turn in turns if turn.role == "system" and turn.text):
            params["system"] = system
        if config.temperature:
            params["temperature"] = min(1.0, call.temperature)  # as at the compatible address
        images = [await self._image(picture) for picture in images_of(turns)]
        return filled({"custom_id": call.key, "params": params}, images, f'"{HOLE}"')

    async def _image(self, picture: ImagePart) -> bytes:
        if (found := await self.reference(picture)) is not None:
            kind, name = ("file", "file_id") if self.uploads is not None else ("url", "url")
            return json.dumps({"type": kind, name: found.target}, separators=(",", ":")).encode()
        media, data = split_data_url(await self.provider.encoded(picture))
        return b'{"type":"base64","media_type":"' + media.encode() + b'","data":"' + data + b'"}'

    async def upload_image(self, name: str, media: str, data: bytes) -> str:
        form = aiohttp.FormData()
        form.add_field("file", data, filename=f"{name}.{media.rpartition('/')[2]}", content_type=media)
        if (number := identifier((await self.json("POST", "/files", data=form)).get("id"))) is None:
            raise Transient(f"{self.name}: the answer to an upload has no id")
        return number

    async def find_image(self, name: str) -> str | None:
        async for entry in self._pages("/files"):
            if str(entry.get("filename")).partition(".")[0] == name:
                return identifier(entry.get("id"))
        return None

    def image_path(self, target: str) -> str:
        return f"/files/{target}"

    def head(self, result: Mapping[str, Any]) -> tuple[object, bool]:
        outcome = result.get("result")
        return result.get("custom_id"), isinstance(outcome, dict) and outcome.get("type") == "succeeded"

    def reply(self, call: Call, result: Mapping[str, Any]) -> Reply:
        outcome = result.get("result")
        outcome = outcome if isinstance(outcome, dict) else {}
        message, origin = outcome.get("message"), self.provider.origin_of(call)
        if outcome.get("type") == "succeeded" and isinstance(message, dict):
            return read_body(_as_chat(message), json.dumps(message), 0.0, origin)
        answer = outcome.get("error")
        error = answer.get("error") if isinstance(answer, dict) else None
        kind = error.get("type") if isinstance(error, dict) else None
        if kind in _STATUS:
            raise classify_status(_STATUS[kind], {}, json.dumps(answer), origin)
        # Anthropic charges for no request that failed, was canceled, or expired.
        word = str(outcome.get("type"))
        raise self.not_answered(call, answer or {"code": f"batch_{word}", "message": word}, billed=False)

    async def upload(self, batch: Batch) -> str:
        """Return an empty string: the batch contains its requests."""
        del batch
        return ""

    async def find_upload(self, batch: Batch) -> str | None:
        return await self.upload(batch)

    async def create(self, batch: Batch) -> object:
        """Send the requests as one JSON object, from the disk."""
        record = batch.record
        if record.newest is None:
            record.newest = await anext((str(entry.get("id")) async for entry in self.listed()), "")
            batch.save()
        try:
            size = batch.requests.stat().st_size
        except FileNotFoundError as error:
            raise missing_requests(batch) from error
        length = len(_BEFORE) + size - 1 + len(_AFTER)
        headers = {"Content-Type": "application/json", "Content-Length": str(length)}
        content = _body(batch.requests, size)
        created = await self.json("POST", "/messages/batches", seconds=TRANSFER_SECONDS, data=content, headers=headers)
        return created.get("id")

    def may_exist(self, batch: Batch) -> bool:
        """Return whether the request was sent."""
        return super().may_exist(batch) and batch.record.newest is not None

    async def find(self, batch: Batch) -> str | None:
        """Look for the batch among those that were created since, by the calls in its results. This waits for the end of each."""
        record, candidates = batch.record, []
        async for entry in self.listed():
            if entry.get("id") == record.newest:
                break
            if sum(map(counted, (entry.get("request_counts") or {}).values())) == len(record.keys):
                candidates.append(entry)
        for entry in candidates:
            try:
                if await self._contains(entry, batch):
                    return self.known(entry.get("id"), batch)
            except CallerFault as failure:
                if not self.is_missing(failure):  # another batch, which was deleted meanwhile
                    raise
        return None

    async def _contains(self, entry: Mapping[str, Any], batch: Batch) -> bool:
        """Return whether a batch of the provider's list, which no other record has, contains the calls of ``batch``."""
        number, waits = self.known(entry.get("id"), batch), 0
        while number not in {other.name for other in read_open_batches(batch.folder.parent)}:
            if entry.get("processing_status") == "ended":
                return entry.get("results_url") is not None and await self._has_key(f"/messages/batches/{number}/results", batch)
            if waits == 1:  # most are known by now: they are other new batches of this process
                _log.warning("a new batch may be %s of the provider, as its answer was lost: this is known when that ends", number)
            await asyncio.sleep(self.settings.poll)
            entry, waits = await self.json("GET", f"/messages/batches/{number}"), waits + 1
        return False

    async def _has_key(self, results: str, batch: Batch) -> bool:
        """Return whether the first readable line of the results belongs to the batch."""
        async with self.requested("GET", results, seconds=TRANSFER_SECONDS) as response:
            async for line in response.content:
                try:
                    key, _ = self.head(json.loads(line))
                except (ValueError, AttributeError):
                    continue
                return key in batch.record.keys
        return False

    def path(self, batch: Batch) -> str:
        return f"/messages/batches/{batch.record.batch_id}"

    def status(self, state: Mapping[str, Any], total: int) -> BatchStatus:
        """Read the state of a batch. The provider counts requests only once all have ended."""
        counts = state.get("request_counts")
        numbers = {name: counted(value) for name, value in counts.items()} if isinstance(counts, dict) else {}
        done = sum(number for name, number in numbers.items() if name != "processing")
        if state.get("processing_status") != "ended":
            return BatchStatus(done, total)
        if state.get("results_url") is None:
            return BatchStatus(done, total, DELETED)  # 29 days old
        word = "cancelled" if numbers.get("canceled") else "expired" if numbers.get("expired") else "completed"
        return BatchStatus(done, total, word)

    def results(self, batch: Batch, state: Mapping[str, Any]) -> Sequence[str]:
        """Return the address of the results. It is not taken from the answer, which could name another host."""
        del state
        return [f"{self.path(batch)}/results"]

    def copies(self, batch: Batch, state: Mapping[str, Any]) -> Sequence[str]:
        """Return the address of the batch, which is deleted with its requests and results."""
        return [self.path(batch)] if state else []

    def listed(self) -> AsyncIterator[Mapping[str, Any]]:
        return self._pages("/messages/batches")

    async def _pages(self, path: str) -> AsyncIterator[Mapping[str, Any]]:
        params = {"limit": str(_PAGE)}
        for _ in range(_MAX_PAGES):
            page = await self.json("GET", path, params=params)
            entries = [entry for entry in page.get("data") or () if isinstance(entry, dict)]
            for entry in entries:
                yield entry
            if token := page.get("next_page"):  # of files, in newer versions of the API
                params["page"] = str(token)
                continue
            if not entries or not page.get("has_more"):
                return
            params["after_id"] = str(entries[-1].get("id"))


def _content(turn: Message) -> str | list[Any]:
    """Return the content of a message: plain text, or blocks. Empty blocks are refused by the provider."""
    if all(isinstance(part, TextPart) for part in turn.parts):
        return turn.text
    return [
        {"type": "text", "text": part.text} if isinstance(part, TextPart) else {"type": "image", "source": HOLE}
        for part in turn.parts
        if not isinstance(part, TextPart) or part.text
    ]


def _as_chat(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message in the form of OpenAI's chat completions."""
    usage = message.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    cached, written = (counted(usage.get(f"cache_{name}_input_tokens")) for name in ("read", "creation"))
    tokens: dict[str, Any] = {"prompt_tokens_details": {"cached_tokens": cached}}
    if "input_tokens" in usage and "output_tokens" in usage:
        tokens |= {"prompt_tokens": counted(usage["input_tokens"]) + cached + written, "completion_tokens": usage["output_tokens"]}
    content = {"role": "assistant", "content": message.get("content")}
    choice = {"index": 0, "message": content, "finish_reason": message.get("stop_reason")}
    return {"model": message.get("model"), "choices": [choice], "usage": tokens}


async def _body(requests: Path, size: int) -> AsyncIterator[bytes]:
    """Yield the requests of a file as one JSON object. The file's last line break is left out."""
    yield _BEFORE
    with requests.open("rb") as file:
        left = size - 1
        while left and (chunk := file.read(min(_CHUNK, left))):
            left -= len(chunk)
            yield chunk.replace(b"\n", b",")
    yield _AFTER
