"""Batches of requests in OpenAI's format: the batch API of an endpoint, or files that ``vllm run-batch`` reads and writes."""

import asyncio
import json
import logging
import shlex
import shutil
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp

from chiron.client.batch_record import Batch, BatchStatus
from chiron.client.call import Call, ImagePart, Reply
from chiron.client.config import ResolvedBatches
from chiron.client.failures import CallerFault, Transient, one_line
from chiron.io import writing
from chiron.providers.batch_api import TRANSFER_SECONDS, BatchApi, BatchFormat, counted, identifier
from chiron.providers.openai_compatible import OpenAICompatible
from chiron.providers.response_parsing import classify_status, read_body

_log = logging.getLogger(__name__)
_PAGE, _MAX_PAGES = 100, 100
_ENDED = frozenset({"completed", "expired", "cancelled", "failed"})
_NOT_RUN = frozenset({"batch_expired", "batch_cancelled"})
"""Codes of requests that did not run before the end of their batch."""


class OpenAILines(BatchFormat):
    """Requests and results as lines of OpenAI's batch format. A call's key is its ``custom_id``."""

    async def request(self, call: Call) -> bytes:
        """Return a line: the key, and the request as it would be sent on its own."""
        head = json.dumps({"custom_id": call.key, "method": "POST", "url": self.settings.url}, separators=(",", ":"))
        return head[:-1].encode() + b',"body":' + await self.provider.body(call, image=self._url) + b"}"

    async def _url(self, picture: ImagePart) -> bytes:
        """Return the URL of an image: a link, or its bytes."""
        link = await self.reference(picture)
        return await self.provider.encoded(picture) if link is None else link.target.encode()

    def head(self, result: Mapping[str, Any]) -> tuple[object, bool]:
        response = result.get("response")
        answered = isinstance(response, dict) and response.get("status_code", 200) == 200 and isinstance(response.get("body"), dict)
        return result.get("custom_id"), answered

    def reply(self, call: Call, result: Mapping[str, Any]) -> Reply:
        origin = self.provider.origin_of(call)
        response, error = result.get("response"), result.get("error")
        body = response.get("body") if isinstance(response, dict) else None
        status = response.get("status_code", 200) if isinstance(response, dict) else None
        if status == 200 and not error:
            return read_body(body, json.dumps(body), 0.0, origin)
        if isinstance(status, int) and status != 200:
            raise classify_status(status, {}, json.dumps(body or error), origin)
        code = error.get("code") if isinstance(error, dict) else None
        raise self.not_answered(call, error, billed=code not in _NOT_RUN)


class OpenAIBatches(OpenAILines, BatchApi):
    """The batch API of OpenAI, which Azure and others share."""

    async def upload(self, batch: Batch) -> str:
        with batch.requests.open("rb") as file:
            form = aiohttp.FormData()
            form.add_field("purpose", "batch")
            form.add_field("file", file, filename=_file_name(batch), content_type="application/jsonl")
            sent = await self.json("POST", "/files", seconds=TRANSFER_SECONDS, data=form)
        if (number := identifier(sent.get("id"))) is None:
            raise Transient(f"{self.name}: the answer to an upload has no id")
        return number

    async def find_upload(self, batch: Batch) -> str | None:
        """Look for a complete file with the name of the requests."""
        size = batch.requests.stat().st_size if batch.requests.exists() else None
        try:
            async for entry in self._pages("/files", purpose="batch"):
                if entry.get("filename") == _file_name(batch) and (size is None or entry.get("bytes") in {None, size}):
                    return identifier(entry.get("id"))
        except CallerFault as failure:
            _log.warning(
                "the upload of batch %s was interrupted, and the provider does not list its files (%s): delete a file of the name %s on its"
                " page; the requests are uploaded again",
                batch.record.name,
                failure.public,
                _file_name(batch),
            )
        return None

    async def create(self, batch: Batch) -> object:
        order = {
            "input_file_id": batch.record.input_id,
            "endpoint": self.settings.url,
            "completion_window": self.settings.window,
            "metadata": {"chiron": batch.record.name},
        }
        return (await self.json("POST", "/batches", json=order)).get("id")

    async def find(self, batch: Batch) -> str | None:
        async for entry in self.listed():
            if entry.get("input_file_id") == batch.record.input_id and entry.get("status") != "failed":
                return self.known(entry.get("id"), batch)
        return None

    def path(self, batch: Batch) -> str:
        return f"/batches/{batch.record.batch_id}"

    def status(self, state: Mapping[str, Any], total: int) -> BatchStatus:
        counts, word = state.get("request_counts"), str(state.get("status"))
        done = sum(counted(counts.get(name)) for name in ("completed", "failed")) if isinstance(counts, dict) else 0
        if word == "failed":
            code, full = _refusal(state.get("errors"))
            return BatchStatus(0, total, word, f"{code} (its dashboard shows more)", later=full)
        return BatchStatus(done, total, word if word in _ENDED else None)

    def results(self, batch: Batch, state: Mapping[str, Any]) -> Sequence[str]:
        """Return the addresses of the files of answers and of errors."""
        numbers = (state.get(name) for name in ("output_file_id", "error_file_id"))
        return [f"/files/{self.known(number, batch)}/content" for number in numbers if number]

    def copies(self, batch: Batch, state: Mapping[str, Any]) -> Sequence[str]:
        """Return the addresses of the three files."""
        names = (batch.record.input_id, *(identifier(state.get(name)) for name in ("output_file_id", "error_file_id")))
        return [f"/files/{name}" for name in names if name is not None]

    def listed(self) -> AsyncIterator[Mapping[str, Any]]:
        return self._pages("/batches")

    async def _pages(self, path: str, **params: str) -> AsyncIterator[Mapping[str, Any]]:
        params["limit"] = str(_PAGE)
        for _ in range(_MAX_PAGES):
            page = await self.json("GET", path, params=params)
            entries = [entry for entry in page.get("data") or () if isinstance(entry, dict)]
            for entry in entries:
                yield entry
            if not entries or not page.get("has_more"):
                return
            params["after"] = str(entries[-1].get("id"))


def _file_name(batch: Batch) -> str:
    return f"{batch.record.name}.jsonl"


class VllmFiles(OpenAILines):
    """Files for ``vllm run-batch``, which the user runs: ``NAME.input.jsonl`` is answered in ``NAME.output.jsonl``."""

    is_online = False
    unbilled: Collection[str] = ()

    def __init__(self, provider: OpenAICompatible, settings: ResolvedBatches) -> None:
        """``settings.files``: the folder."""
        super().__init__(provider, settings)
        self.address = settings.files or ""
        self._folder = Path(self.address)

    async def submit(self, batch: Batch) -> None:
        record = batch.record
        if record.batch_id is not None:
            return
        target = self._folder / f"{record.name}.input.jsonl"
        await asyncio.to_thread(_copy, batch.requests, target)
        record.batch_id = record.name
        batch.save()

    def command(self, batch: Batch) -> str:
        """Return the shell command that answers a batch. The file of results gets its name only when it is complete."""
        begin, end, part = (
            shlex.quote(str(self._folder / f"{batch.record.name}.{name}")) for name in ("input.jsonl", "output.jsonl", "part")
        )
        config = self.provider.config
        # vLLM 0.31 and later refuses requests with these arguments otherwise.
        trust = " --trust-request-mm-kwargs" if config.serves or {"mm_processor_kwargs", "media_io_kwargs"} & set(config.parameters) else ""
        return f"vllm run-batch -i {begin} -o {part} --model {shlex.quote(config.model)}{trust} && mv {part} {end}"

    async def poll(self, batch: Batch) -> BatchStatus:
        total = len(batch.record.keys)
        if self._output(batch).is_file():
            return BatchStatus(total, total, "completed")
        try:
            with (self._folder / f"{batch.record.name}.part").open("rb") as file:
                return BatchStatus(sum(1 for _ in file), total)
        except OSError:
            return BatchStatus(0, total)  # not started

    async def download(self, batch: Batch, to: Path) -> None:
        await asyncio.to_thread(_copy, self._output(batch), to)

    async def discard(self, batch: Batch) -> None:
        """Keep the user's files."""

    async def discard_images(self) -> None:
        """Keep the user's files."""

    def _output(self, batch: Batch) -> Path:
        return self._folder / f"{batch.record.name}.output.jsonl"


def _copy(source: Path, target: Path) -> None:
    """Copy a file under a temporary name, so that the target is complete once it exists.

    Raises:
        DiskError: the target cannot be written.
    """
    part = target.with_name(f".{target.name}.part")
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        part.touch(mode=0o600)
        shutil.copyfile(source, part)
        part.replace(target)


def _refusal(errors: object) -> tuple[str, bool]:
    """Return the first code of a refused batch, and whether the provider's queue is full. Messages may quote the requests."""
    data = errors.get("data") if isinstance(errors, dict) else None
    codes = [one_line(str(entry.get("code")), 60) for entry in data or () if isinstance(entry, dict)]
    code = next(iter(codes), "no reason given")
    return code, code in {"token_limit_exceeded", "request_limit_exceeded"}
