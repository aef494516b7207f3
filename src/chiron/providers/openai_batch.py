"""Batches of requests in OpenAI's format: the batch API of an endpoint, or files that ``vllm run-batch`` reads and writes."""

import asyncio
import json
import re
import shlex
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp

from chiron.client.batch_record import DELETED, Batch, BatchStatus
from chiron.client.call import Call, Reply
from chiron.client.config import BatchSettings
from chiron.client.failures import CallerFault, CallFailed, Transient, one_line
from chiron.errors import DiskError
from chiron.io import unwritten
from chiron.providers.openai_compatible import OpenAICompatible
from chiron.providers.response_parsing import classify_status, describe_error, read_body
from chiron.providers.transport import read_bounded

_TRANSFER_SECONDS = 3600.0
"""Time limit for the transfer of a whole file."""
_MAX_ANSWER = 2**20
_MAX_LIST = 16 * 2**20
_PAGE, _MAX_PAGES = 100, 100
_ENDED = frozenset({"completed", "expired", "cancelled", "failed"})
_NOT_RUN = frozenset({"batch_expired", "batch_cancelled"})
"""Codes of requests that did not run before the end of their batch."""
_NOT_FOUND = 8
"""Questions in a row for a batch that are answered with 404 before it may count as deleted: two minutes with the default waits."""
_ID = re.compile(r"[\w.:-]{1,200}", re.ASCII)


class BatchLines:
    """Requests and results as lines of OpenAI's batch format. A call's key is its ``custom_id``."""

    def __init__(self, provider: OpenAICompatible, settings: BatchSettings) -> None:
        """``provider``: writes the requests."""
        self._provider, self._settings = provider, settings
        self.max_requests, self.max_bytes = settings.max_requests, settings.max_bytes

    async def request(self, call: Call) -> bytes:
        """Return a line: the key, and the request as it would be sent on its own."""
        head = json.dumps({"custom_id": call.key, "method": "POST", "url": self._settings.url}, separators=(",", ":"))
        return head[:-1].encode() + b',"body":' + await self._provider.body(call) + b"}"

    def read(self, call: Call, result: bytes) -> Reply:
        """Parse a line of the results."""
        origin = self._provider.origin_of(call)
        try:
            line = json.loads(result)
        except (ValueError, RecursionError):
            raise Transient(f"{origin.name}: its line of the results is damaged", maybe_billed=True) from None
        response, error = line.get("response"), line.get("error")
        body = response.get("body") if isinstance(response, dict) else None
        status = response.get("status_code", 200) if isinstance(response, dict) else None
        if status == 200 and not error:
            return read_body(body, json.dumps(body), 0.0, origin)
        if isinstance(status, int) and status != 200:
            return _raise(classify_status(status, {}, json.dumps(body or error), origin))
        known = describe_error(error, origin.redact)
        head = f"{origin.name}: not answered in its batch{f' ({known.code})' if known.code else ''}"
        raise Transient(f"{head}: {known.words}", public=f"{head}: {origin.shown(known.words)}", maybe_billed=known.code not in _NOT_RUN)


def _raise(failure: CallFailed) -> Reply:
    raise failure


class OpenAIBatches(BatchLines):
    """The batch API of OpenAI, which Azure and others share."""

    is_online = True

    def __init__(self, provider: OpenAICompatible, settings: BatchSettings) -> None:
        """``provider``: the endpoint."""
        super().__init__(provider, settings)
        self.address = provider.config.base_url
        self._not_found: Counter[str] = Counter()
        """Answers 404 in a row, by name of the batch."""

    async def submit(self, batch: Batch) -> None:
        """Upload the requests, and create the batch unless an earlier attempt did."""
        record = batch.record
        if record.input_id is None:
            record.input_id = await self._upload(batch)
            batch.save()
        if record.batch_id is None and record.creating:
            # The answer was lost. Only the provider knows whether it has created the batch.
            record.batch_id = await self._find(record.input_id)
        if record.batch_id is None:
            record.creating = True
            batch.save()
            order = {
                "input_file_id": record.input_id,
                "endpoint": self._settings.url,
                "completion_window": self._settings.window,
                "metadata": {"chiron": record.name},
            }
            created = await self._json("POST", "/batches", json=order)
            record.batch_id = _text(created.get("id"))
            if record.batch_id is None:
                raise Transient(f"{self._provider.name}: the answer to a new batch has no id")
        batch.save()

    async def poll(self, batch: Batch) -> BatchStatus:
        """Ask for the state of a batch."""
        total = len(batch.record.keys)
        try:
            state = await self._json("GET", f"/batches/{batch.record.batch_id}")
        except CallerFault as failure:
            if not self._is_missing(failure):
                raise
            await self._doubt(batch)
            return BatchStatus(0, total, DELETED)
        del self._not_found[batch.record.name]
        counts, word = state.get("request_counts"), str(state.get("status"))
        done = sum(_number(counts.get(name)) for name in ("completed", "failed")) if isinstance(counts, dict) else 0
        if word == "failed":
            code, full = _refusal(state.get("errors"))
            return BatchStatus(0, total, word, f"{code} (its dashboard shows more)", later=full)
        return BatchStatus(done, total, word if word in _ENDED else None)

    async def download(self, batch: Batch, to: Path) -> None:
        """Write the file of answers and the file of errors, one after the other."""
        try:
            with _private(to).open("wb") as file:
                if batch.record.ended == DELETED:
                    return
                state = await self._json("GET", f"/batches/{batch.record.batch_id}")
                for name in ("output_file_id", "error_file_id"):
                    if (number := _text(state.get(name))) is not None:
                        async with self._provider.requested("GET", f"/files/{number}/content", seconds=_TRANSFER_SECONDS) as response:
                            async for chunk in response.content.iter_any():
                                try:
                                    file.write(chunk)
                                except OSError as error:  # to the request, it would be a broken connection
                                    raise unwritten(to, error) from error
                        file.write(b"\n")
        except OSError as error:
            raise unwritten(to, error) from error

    def command(self, batch: Batch) -> str:
        """Return an empty string: the provider works by itself."""
        del batch
        return ""

    async def discard(self, batch: Batch) -> None:
        """Delete the files at the provider: they contain patient data."""
        files = [batch.record.input_id]
        if batch.record.ended != DELETED:
            state = await self._json("GET", f"/batches/{batch.record.batch_id}")
            files += [_text(state.get(name)) for name in ("output_file_id", "error_file_id")]
        for number in files:
            if number is not None:
                await self._delete(number)

    async def _delete(self, file: str) -> None:
        """Delete a file unless that was done."""
        try:
            await self._json("DELETE", f"/files/{file}")
        except CallerFault as failure:
            if not self._is_missing(failure):
                raise

    async def _upload(self, batch: Batch) -> str:
        try:
            with batch.requests.open("rb") as file:
                form = aiohttp.FormData()
                form.add_field("purpose", "batch")
                form.add_field("file", file, filename=f"{batch.record.name}.jsonl", content_type="application/jsonl")
                sent = await self._json("POST", "/files", seconds=_TRANSFER_SECONDS, data=form)
        except FileNotFoundError as error:
            raise DiskError(
                f"{batch.requests} is missing, and its requests were not sent yet: restore it, or delete {batch.record.name}.json next to"
                " it; then run the same command again"
            ) from error
        except CallerFault as failure:
            # The message may quote a request.
            public = ": ".join(failure.public.split(": ", 2)[:2])
            raise CallerFault(str(failure), public=public, misconfigured=failure.misconfigured) from failure
        if (number := _text(sent.get("id"))) is None:
            raise Transient(f"{self._provider.name}: the answer to an upload has no id")
        return number

    def _is_missing(self, failure: CallerFault) -> bool:
        return failure.public.startswith(f"{self._provider.name}: HTTP 404")

    async def _doubt(self, batch: Batch) -> None:
        """Return only if a batch that was not found is deleted: it is missing for a while, and also in the provider's list.

        Raises:
            CallFailed: it may be found later, or the address is wrong.
        """
        name, number = self._provider.name, batch.record.batch_id
        self._not_found[batch.record.name] += 1
        if self._not_found[batch.record.name] < _NOT_FOUND:
            raise Transient(f"{name}: batch {number} is not found (HTTP 404)")
        del self._not_found[batch.record.name]
        try:
            async for entry in self._listed():
                if entry.get("id") == number:
                    raise Transient(f"{name}: batch {number} is listed, but not found (HTTP 404)")
        except CallerFault as failure:
            if not self._is_missing(failure):
                raise
            raise CallerFault(
                f"{name}: neither batch {number} nor the list of batches is found (HTTP 404): correct base_url and the key; if the batch"
                f" was deleted, move batches/{batch.record.name}.json away, and its calls are sent and paid for again"
            ) from failure

    async def _find(self, input_id: str) -> str | None:
        """Look for the batch with these requests."""
        async for entry in self._listed():
            if entry.get("input_file_id") == input_id and entry.get("status") != "failed":
                return _text(entry.get("id"))
        return None

    async def _listed(self) -> AsyncIterator[Mapping[str, Any]]:
        """Yield the batches that the provider lists, newest first."""
        params = {"limit": str(_PAGE)}
        for _ in range(_MAX_PAGES):
            page = await self._json("GET", "/batches", params=params)
            entries = [entry for entry in page.get("data") or () if isinstance(entry, dict)]
            for entry in entries:
                yield entry
            if not entries or not page.get("has_more"):
                return
            params["after"] = str(entries[-1].get("id"))

    async def _json(self, method: str, path: str, *, seconds: float | None = None, **sent: Any) -> Mapping[str, Any]:
        async with self._provider.requested(method, path, seconds=seconds, **sent) as response:
            text = await read_bounded(response, _MAX_LIST if path == "/batches" else _MAX_ANSWER)
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise Transient(f"{self._provider.name}: {method} {path.split('/')[1]} was answered with something that is not a JSON object")
        return value


class VllmFiles(BatchLines):
    """Files for ``vllm run-batch``, which the user runs: ``NAME.input.jsonl`` is answered in ``NAME.output.jsonl``."""

    is_online = False

    def __init__(self, provider: OpenAICompatible, settings: BatchSettings) -> None:
        """``settings.files``: the folder."""
        super().__init__(provider, settings)
        self.address = settings.files or ""
        self._folder = Path(self.address)

    async def submit(self, batch: Batch) -> None:
        """Write the file of requests."""
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
        return f"vllm run-batch -i {begin} -o {part} --model {shlex.quote(self._provider.config.model)} && mv {part} {end}"

    async def poll(self, batch: Batch) -> BatchStatus:
        """Look for the results."""
        total = len(batch.record.keys)
        if self._output(batch).is_file():
            return BatchStatus(total, total, "completed")
        try:
            with (self._folder / f"{batch.record.name}.part").open("rb") as file:
                return BatchStatus(sum(1 for _ in file), total)
        except OSError:
            return BatchStatus(0, total)  # not started

    async def download(self, batch: Batch, to: Path) -> None:
        """Copy the results."""
        await asyncio.to_thread(_copy, self._output(batch), to)

    async def discard(self, batch: Batch) -> None:
        """Keep the user's files."""

    def _output(self, batch: Batch) -> Path:
        return self._folder / f"{batch.record.name}.output.jsonl"


def _private(path: Path) -> Path:
    """Create a file for patient data unless it exists."""
    path.touch(mode=0o600)
    return path


def _copy(source: Path, target: Path) -> None:
    """Copy a file under a temporary name, so that the target is complete once it exists.

    Raises:
        DiskError: the target cannot be written.
    """
    part = target.with_name(f".{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, _private(part))
        part.replace(target)
    except OSError as error:
        raise unwritten(target, error) from error


def _refusal(errors: object) -> tuple[str, bool]:
    """Return the first code of a refused batch, and whether the provider's queue is full. Messages may quote the requests."""
    data = errors.get("data") if isinstance(errors, dict) else None
    codes = [one_line(str(entry.get("code")), 60) for entry in data or () if isinstance(entry, dict)]
    code = next(iter(codes), "no reason given")
    return code, code in {"token_limit_exceeded", "request_limit_exceeded"}


def _text(value: object) -> str | None:
    """Return an ID; ``None`` if it cannot be part of an address."""
    return value if isinstance(value, str) and _ID.fullmatch(value) else None


def _number(value: object) -> int:
    return value if isinstance(value, int) and value >= 0 else 0
