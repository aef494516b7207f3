"""Gemini's Batch API: files of requests in Gemini's own form, next to the OpenAI-compatible address of single calls.

Google's OpenAI-compatible address creates and lists batches too, but neither uploads nor downloads their files.
"""

import json
import re
import urllib.parse
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Any

from chiron.client.batch_record import Batch, BatchStatus
from chiron.client.call import Call, ImagePart, Message, Reply, TextPart, images_of
from chiron.client.config import ResolvedBatches
from chiron.client.failures import CallerFault, Transient, one_line
from chiron.providers.batch_api import TRANSFER_SECONDS, BatchApi, counted
from chiron.providers.batch_images import split_data_url
from chiron.providers.openai_compatible import HOLE, OpenAICompatible, filled
from chiron.providers.response_parsing import classify_status, describe_error, read_body

_PAGE, _MAX_PAGES = 100, 100
_ENDED = {
    "SUCCEEDED": "completed",
    "PARTIALLY_SUCCEEDED": "completed",
    "EXPIRED": "expired",
    "CANCELLED": "cancelled",
    "FAILED": "failed",
}
"""Our word for the end of a batch, by the provider's."""
_STATUS = {3: 400, 5: 404, 7: 403, 8: 429, 9: 400, 11: 400, 16: 401, 4: 504, 13: 500, 14: 503}
"""HTTP status of each gRPC code, which the lines of the results contain."""
_FILE = re.compile(r"\bfiles?\b", re.IGNORECASE)
_REFUSED = frozenset({3, 5, 7})
"""gRPC codes of a batch that Google does not run: invalid argument, not found, permission denied."""


class GeminiBatches(BatchApi):
    """Batches of Google's Gemini API. A call's key is the ``key`` of its line; names of files are our own."""

    unbilled: Collection[str] = ()  # Google does not promise it
    key_header = "x-goog-api-key"
    image_hours = 20.0  # Google deletes files after 48 hours, and a batch may run for 24

    def __init__(self, provider: OpenAICompatible, settings: ResolvedBatches) -> None:
        """``provider``: the endpoint, whose address may end with ``/openai``."""
        super().__init__(provider, settings)
        self._base = provider.config.base_url.rstrip("/").removesuffix("/openai")

    async def request(self, call: Call) -> bytes:
        """Return a line: the key, and a request for ``generateContent``."""
        turns = self.provider.turns(call.messages)
        config = self.provider.config
        own = dict(self.settings.parameters or {})
        generation = {"maxOutputTokens": call.max_tokens, **({"temperature": call.temperature} if config.temperature else {})}
        request: dict[str, Any] = {
            "contents": [_content(turn) for turn in turns if turn.role != "system"],
            **own,
            "generationConfig": {**generation, **own.get("generationConfig", {})},
        }
        if system := [part for turn in turns if turn.role == "system" for part in _content(turn)["parts"]]:
            request["systemInstruction"] = {"parts": system}
        images = [await self._image(picture) for picture in images_of(turns)]
        return filled({"key": call.key, "request": request}, images, f'"{HOLE}"')

    async def _image(self, picture: ImagePart) -> bytes:
        if (found := await self.reference(picture)) is not None:
            part = {"fileData": {"mimeType": found.media, "fileUri": found.target}}
            return json.dumps(part, separators=(",", ":")).encode()
        media, data = split_data_url(await self.provider.encoded(picture))
        return b'{"inlineData":{"mimeType":"' + media.encode() + b'","data":"' + data + b'"}}'

    async def upload_image(self, name: str, media: str, data: bytes) -> str:
        return str((await self.send_file(name, media, len(data), data)).get("uri"))

    async def find_image(self, name: str) -> str | None:
        file = await self._file(name)
        return None if file is None else str(file.get("uri"))

    def image_path(self, target: str) -> str:
        return f"{self._base}/files/{target.rpartition('/')[2]}"

    def head(self, result: Mapping[str, Any]) -> tuple[object, bool]:
        return result.get("key"), isinstance(result.get("response"), dict)

    def reply(self, call: Call, result: Mapping[str, Any]) -> Reply:
        response, error, origin = result.get("response"), result.get("error") or result.get("status"), self.provider.origin_of(call)
        if isinstance(response, dict):
            return read_body(_as_chat(response), json.dumps(response), 0.0, origin)
        code = error.get("code") if isinstance(error, dict) else None
        if self.uploads is not None and code in {5, 7} and _FILE.search(str(error)):
            # Google deleted an image while the batch ran. It is uploaded again for the next one.
            for picture in images_of(call.messages):
                self.uploads.forget(picture)
            raise self.not_answered(call, error, billed=False)
        if code in _STATUS:
            raise classify_status(_STATUS[code], {}, json.dumps({"error": error}), origin)
        raise self.not_answered(call, error, billed=True)

    async def upload(self, batch: Batch) -> str:
        """Upload the requests under a name of our own, with Google's resumable protocol."""
        with batch.requests.open("rb") as file:
            size = batch.requests.stat().st_size
            return (await self.send_file(_file_name(batch), "application/jsonl", size, file))["name"]

    async def send_file(self, name: str, media: str, size: int, content: Any) -> dict[str, str]:
        """Upload a file.

        Args:
            name: its name below ``files/``, unique at the provider; at most 40 lower-case letters, digits and hyphens.
            media: its media type.
            size: its size in bytes.
            content: bytes, or an open file.

        Returns:
            The provider's description of the file.

        Raises:
            CallFailed: the provider does not take it.
        """
        start = {
            "X-Goog-Upload-Protocol": "resumable",
            "X-Goog-Upload-Command": "start",
            "X-Goog-Upload-Header-Content-Length": str(size),
            "X-Goog-Upload-Header-Content-Type": media,
        }
        about = {"file": {"name": f"files/{name}", "displayName": name, "mimeType": media, "sizeBytes": size}}
        base = urllib.parse.urlsplit(self._base)
        address = base._replace(path=f"/upload{base.path}/files").geturl()
        async with self.requested("POST", address, json=about, headers=start) as response:
            target = urllib.parse.urlsplit(response.headers.get("X-Goog-Upload-URL", ""))
        if not target.query:
            raise Transient(f"{self.name}: the answer to an upload has no address for the file")
        # The key is sent to the configured host only, even if the answer names another one.
        target = target._replace(scheme=base.scheme, netloc=base.netloc)
        send = {"X-Goog-Upload-Command": "upload, finalize", "X-Goog-Upload-Offset": "0", "Content-Length": str(size)}
        sent = await self.json("POST", target.geturl(), seconds=TRANSFER_SECONDS, data=content, headers=send)
        file = sent.get("file")
        if not isinstance(file, dict) or file.get("name") != f"files/{name}":
            raise Transient(f"{self.name}: the answer to an upload does not name the file")
        return file

    async def find_upload(self, batch: Batch) -> str | None:
        file = await self._file(_file_name(batch))
        return None if file is None else str(file["name"])

    async def _file(self, name: str) -> Mapping[str, Any] | None:
        """Return the provider's description of a file with one of our names, if it has it."""
        try:
            file = await self.json("GET", f"{self._base}/files/{name}")
        except CallerFault as failure:
            if not self.is_missing(failure):
                raise
            return None
        return file if file.get("name") == f"files/{name}" else None

    def is_missing(self, failure: CallerFault) -> bool:
        """Return whether the provider does not have what it was asked for. Of files, it says that they may not be seen."""
        return failure.status in {403, 404}

    def identify(self, value: object) -> str | None:
        """Return the name of a file or batch; ``None`` if it cannot be part of an address."""
        parts = value.split("/") if isinstance(value, str) else []
        sound = len(parts) == 2 and parts[0] in {"files", "batches"} and parts[1].replace("-", "").replace("_", "").isalnum()
        return str(value) if sound and str(value).isascii() else None

    async def is_expired(self, batch: Batch) -> bool:
        """Return whether the file of requests is gone, which Google deletes after 48 hours."""
        return await self._file(str(batch.record.input_id).removeprefix("files/")) is None

    async def create(self, batch: Batch) -> object:
        order = {"batch": {"displayName": batch.record.name, "inputConfig": {"fileName": batch.record.input_id}}}
        model = self.provider.config.model.removeprefix("models/")
        return (await self.json("POST", f"{self._base}/models/{model}:batchGenerateContent", json=order)).get("name")

    async def find(self, batch: Batch) -> str | None:
        """Look for the batch with our own name."""
        async for entry in self.listed():
            if _metadata(entry).get("displayName") == batch.record.name and self.status(entry, 0).refused is None:
                return self.known(entry.get("id"), batch)
        return None

    def path(self, batch: Batch) -> str:
        return f"{self._base}/{batch.record.batch_id}"

    def status(self, state: Mapping[str, Any], total: int) -> BatchStatus:
        about = _metadata(state)
        stats = about.get("batchStats")
        word = _ENDED.get(str(about.get("state")).removeprefix("BATCH_STATE_").removeprefix("JOB_STATE_"))
        stats = stats if isinstance(stats, dict) else {}
        # Google writes 64-bit numbers as strings.
        numbers = [str(stats.get(f"{name}RequestCount", "0")) for name in ("successful", "failed")]
        answered, failed = (int(number) if number.isdecimal() else 0 for number in numbers)
        error = state.get("error")
        if word == "failed" and not answered and isinstance(error, dict) and error.get("code") in _REFUSED:
            code = describe_error(error, self.provider.origin.redact).code or "no reason given"
            return BatchStatus(0, total, word, f"{one_line(code, 60)} (AI Studio shows more)")
        return BatchStatus(answered + failed, total, word)

    def results(self, batch: Batch, state: Mapping[str, Any]) -> Sequence[str]:
        """Return the address of the results; none for a batch that expired or was cancelled."""
        name = _results_file(state)
        return [f"{self._base}/{self.known(name, batch)}:download?alt=media"] if name else []

    def copies(self, batch: Batch, state: Mapping[str, Any]) -> Sequence[str]:
        """Return the addresses of the requests, the results, and the batch itself."""
        names = [batch.record.input_id, self.identify(_results_file(state)), batch.record.batch_id if state else None]
        return [f"{self._base}/{name}" for name in names if name]

    async def listed(self) -> AsyncIterator[Mapping[str, Any]]:
        params = {"pageSize": str(_PAGE)}
        for _ in range(_MAX_PAGES):
            page = await self.json("GET", f"{self._base}/batches", params=params)
            for entry in page.get("operations") or ():
                if isinstance(entry, dict):
                    yield {**entry, "id": entry.get("name")}
            if not (token := page.get("nextPageToken")):
                return
            params["pageToken"] = str(token)


def _file_name(batch: Batch) -> str:
    return f"chiron-{batch.record.name}"


def _metadata(state: Mapping[str, Any]) -> Mapping[str, Any]:
    about = state.get("metadata")
    return about if isinstance(about, dict) else {}


def _results_file(state: Mapping[str, Any]) -> object:
    """Return the name of the results, which an operation has in its metadata, in its response, or in both; ``None`` without results."""
    response = state.get("response")
    nested = response.get("output") if isinstance(response, dict) else None
    places = (_metadata(state).get("output"), response, nested)
    return next((name for place in places if isinstance(place, dict) and (name := place.get("responsesFile"))), None)


def _content(turn: Message) -> dict[str, Any]:
    parts = [{"text": part.text} if isinstance(part, TextPart) else HOLE for part in turn.parts]
    return {"role": {"assistant": "model"}.get(turn.role, turn.role), "parts": parts}


def _as_chat(response: Mapping[str, Any]) -> dict[str, Any]:
    """Return a response in the form of OpenAI's chat completions."""
    usage = response.get("usageMetadata")
    usage = usage if isinstance(usage, dict) else {}
    tokens: dict[str, Any] = {"prompt_tokens_details": {"cached_tokens": counted(usage.get("cachedContentTokenCount"))}}
    if "promptTokenCount" in usage:
        output = counted(usage.get("candidatesTokenCount")) + counted(usage.get("thoughtsTokenCount"))
        tokens |= {"prompt_tokens": usage["promptTokenCount"], "completion_tokens": output, "total_tokens": usage.get("totalTokenCount")}
    candidates, feedback = response.get("candidates"), response.get("promptFeedback")
    candidate = candidates[0] if isinstance(candidates, list) and candidates and isinstance(candidates[0], dict) else {}
    content = candidate.get("content")
    parts = content.get("parts") if isinstance(content, dict) else None
    blocks = [{"type": "thinking" if part.get("thought") else "text", **part} for part in parts or () if isinstance(part, dict)]
    finish = candidate.get("finishReason")
    if not candidate and isinstance(feedback, dict) and feedback.get("blockReason"):
        finish = "content_filter"  # the prompt was refused
    choice = {"index": 0, "message": {"role": "assistant", "content": blocks}, "finish_reason": finish}
    return {"model": response.get("modelVersion"), "choices": [choice] if finish or blocks else [], "usage": tokens}
