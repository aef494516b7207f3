"""What the batch APIs of all providers have in common: each step of a batch survives an interruption, and no batch is created twice."""

import json
import math
import re
import urllib.parse
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import aiohttp

from chiron.client.batch_record import COMPLETED, DELETED, Batch, BatchStatus, missing_requests
from chiron.client.call import Call, ImagePart, Reply
from chiron.client.config import ImageLinks, ResolvedBatches
from chiron.client.failures import CallerFault, CallFailed, RateLimited, Transient, one_line
from chiron.io import writing
from chiron.providers.batch_images import ImageReference, LinkedImages, UploadedImages
from chiron.providers.openai_compatible import OpenAICompatible
from chiron.providers.response_parsing import describe_error
from chiron.providers.transport import read_bounded

TRANSFER_SECONDS = 3600.0
"""Time limit for the transfer of a whole file."""
_MAX_ANSWER = 16 * 2**20
_NOT_FOUND = 8
"""Questions in a row that do not find a batch before it may count as deleted, or as never created: two minutes with the default waits."""
_ID = re.compile(r"[\w.:-]{1,200}", re.ASCII)


class BatchFormat(ABC):
    """How the requests and results of one provider look, each as a line of JSON."""

    def __init__(self, provider: OpenAICompatible, settings: ResolvedBatches) -> None:
        """``provider``: the endpoint."""
        self.provider, self.settings, self.name = provider, settings, provider.name
        self.max_requests, self.max_bytes = settings.max_requests, int(settings.max_megabytes * 1e6)
        links = settings.images
        self.images = LinkedImages(links, provider.encoded) if isinstance(links, ImageLinks) else None
        self.uploads: UploadedImages | None = None
        self.saved_bytes = 0

    def open(self, folder: Path, model: str) -> None:
        if self.uploads is not None:
            self.uploads.open(folder, f"{model} {self.provider.config.base_url}")

    @property
    def image_record(self) -> Path | None:
        """The record of uploaded images, if requests refer to them."""
        return None if self.uploads is None else self.uploads.path

    async def reference(self, picture: ImagePart) -> ImageReference | None:
        """Return how requests refer to an image; ``None`` if they contain it."""
        images = self.images or self.uploads
        if images is None:
            return None
        found = await images.refer(picture)
        self.saved_bytes += found.size - len(found.target)
        return found

    @abstractmethod
    async def request(self, call: Call) -> bytes:
        """Return the line of a call in the file of requests."""

    @abstractmethod
    def head(self, result: Mapping[str, Any]) -> tuple[object, bool]:
        """Return the key in a line of the results, and whether the line is an answer."""

    @abstractmethod
    def reply(self, call: Call, result: Mapping[str, Any]) -> Reply:
        """Return the reply in a line of the results.

        Raises:
            CallFailed: the call got no answer.
        """

    def read(self, call: Call, result: bytes) -> Reply:
        if (value := _object(result)) is None:
            raise Transient(f"{self.name}: its line of the results is damaged", maybe_billed=True)
        return self.reply(call, value)

    def not_answered(self, call: Call, error: object, *, billed: bool) -> CallFailed:
        """Return the failure of a call that its batch did not answer."""
        origin = self.provider.origin_of(call)
        known = describe_error(error, origin.redact)
        head = f"{origin.name}: not answered in its batch{f' ({known.code})' if known.code else ''}"
        return Transient(f"{head}: {known.words}", public=f"{head}: {origin.shown(known.words)}", maybe_billed=billed)


class BatchApi(BatchFormat):
    """One provider's batch API. Subclasses say how its requests, addresses and answers look."""

    is_online = True
    unbilled: Collection[str] = ("expired", "cancelled")
    key_header: ClassVar[str | None] = None
    """Header that carries the key; ``None`` for that of single calls."""
    headers: Mapping[str, str] = MappingProxyType({})
    """Sent with every request, unless the configuration has headers of the same names."""
    image_hours: ClassVar[float] = math.inf
    """Age at which the provider may delete an uploaded image."""

    def __init__(self, provider: OpenAICompatible, settings: ResolvedBatches) -> None:
        """``provider``: the endpoint."""
        super().__init__(provider, settings)
        self.address = provider.config.base_url
        if settings.images == "file":
            self.uploads = UploadedImages(provider.encoded, self.upload_image, self.find_image, hours=self.image_hours)
        self._not_found: Counter[str] = Counter()
        """Questions in a row that did not find a batch, by its name."""
        self._expired: set[str] = set()
        """Names of the batches whose requests were uploaded again."""

    @abstractmethod
    async def upload(self, batch: Batch) -> str:
        """Upload the requests, and return their ID; empty if the batch contains them itself."""

    @abstractmethod
    async def find_upload(self, batch: Batch) -> str | None:
        """Look for requests whose upload was interrupted."""

    async def upload_image(self, name: str, media: str, data: bytes) -> str:
        """Upload an image, and return how requests refer to it.

        Raises:
            CallFailed: the provider does not take it.
        """
        raise NotImplementedError

    async def find_image(self, name: str) -> str | None:
        """Look for an image whose upload was interrupted; return how requests refer to it."""
        raise NotImplementedError

    def image_path(self, target: str) -> str:
        raise NotImplementedError

    async def discard_images(self) -> None:
        if self.uploads is not None:
            await self.uploads.discard(lambda target: self.delete(self.image_path(target)), wait=min(1.0, self.settings.poll))

    @abstractmethod
    async def create(self, batch: Batch) -> object:
        """Create the batch, and return its ID as the provider wrote it."""

    @abstractmethod
    async def find(self, batch: Batch) -> str | None:
        """Look for a batch whose creation was interrupted; ``None`` if the provider has none.

        Raises:
            CallerFault: it has one whose ID cannot be used.
        """

    @abstractmethod
    def path(self, batch: Batch) -> str:
        """Return the address of a batch."""

    @abstractmethod
    def status(self, state: Mapping[str, Any], total: int) -> BatchStatus:
        """Read the state of a batch."""

    @abstractmethod
    def results(self, batch: Batch, state: Mapping[str, Any]) -> Sequence[str]:
        """Return the addresses of the results of a batch that ended, checked by :meth:`known`; none if it has no results."""

    @abstractmethod
    def copies(self, batch: Batch, state: Mapping[str, Any]) -> Sequence[str]:
        """Return the addresses of what the provider has of a batch; ``state`` is empty if it was deleted."""

    @abstractmethod
    def listed(self) -> AsyncIterator[Mapping[str, Any]]:
        """Yield the batches that the provider lists, newest first, each with its ``id``."""

    async def submit(self, batch: Batch) -> None:
        """Upload the requests and create the batch, unless an earlier attempt did."""
        record = batch.record
        if record.batch_id is None and record.input_id is None:
            if record.uploading:
                # The answer was lost. Only the provider knows whether it has the file.
                record.input_id = await self.find_upload(batch)
            if record.input_id is None:
                record.uploading = True
                batch.save()
                record.input_id = await self._uploaded(batch)
            batch.save()
        if record.batch_id is None and self.may_exist(batch):
            record.batch_id = await self._looked_for(batch)
        if record.batch_id is None:
            record.creating = True
            batch.save()
            record.batch_id = self.known(await self._created(batch), batch)
        batch.save()

    async def _looked_for(self, batch: Batch) -> str | None:
        """Return the ID of a batch whose creation was interrupted; ``None`` only if it was missing from the provider's list for a while."""
        name = batch.record.name
        if (number := await self.find(batch)) is None:
            self._not_found[name] += 1
            if self._not_found[name] < _NOT_FOUND:
                raise Transient(f"{self.name}: the answer to a new batch was lost, and the batch is not listed yet")
        del self._not_found[name]
        return number

    async def _created(self, batch: Batch) -> object:
        record = batch.record
        try:
            return await self.create(batch)
        except (RateLimited, CallerFault) as failure:
            if failure.status is None or not 400 <= failure.status < 500 or failure.status == 409:
                raise  # it may have been created
            record.creating = False
            expired = isinstance(failure, CallerFault) and self.is_missing(failure) and await self.is_expired(batch)
            if expired and record.name not in self._expired:
                self._expired.add(record.name)
                record.input_id, record.uploading = None, False
            batch.save()
            if record.input_id is None:
                raise Transient(f"{self.name}: the uploaded requests have expired, and are uploaded again") from failure
            raise

    def may_exist(self, batch: Batch) -> bool:
        """Return whether the batch may have been created although its ID is unknown."""
        return batch.record.creating

    def identify(self, value: object) -> str | None:
        """Return an ID of the provider; ``None`` if it cannot be part of an address."""
        return identifier(value)

    def known(self, value: object, batch: Batch) -> str:
        """Return the provider's ID of a batch or of its results.

        Raises:
            CallerFault: it cannot be part of an address. A batch without an ID must not count as missing: it would be created again.
        """
        if (number := self.identify(value)) is not None:
            return number
        shown = "no ID" if value is None else f"an ID that chiron cannot use ({one_line(self.provider.origin.redact(repr(value)), 80)})"
        raise CallerFault(
            f"{self.name}: batch {batch.record.name} or its results have {shown}: check base_url and form. To give the batch up, cancel it"
            f" on the provider's page, and move batches/{batch.record.name}.json away; its calls are then sent and paid for again"
        )

    async def is_expired(self, batch: Batch) -> bool:
        """Return whether the provider has deleted the uploaded requests."""
        del batch
        return False

    async def _uploaded(self, batch: Batch) -> str:
        try:
            return await self.upload(batch)
        except FileNotFoundError as error:
            raise missing_requests(batch) from error
        except CallerFault as failure:
            # The message may quote a request.
            public = ": ".join(failure.public.split(": ", 2)[:2])
            raise CallerFault(str(failure), public=public, misconfigured=failure.misconfigured) from failure

    async def poll(self, batch: Batch) -> BatchStatus:
        total = len(batch.record.keys)
        try:
            state = await self.json("GET", self.path(batch))
        except CallerFault as failure:
            if not self.is_missing(failure):
                raise
            await self._doubt(batch)
            return BatchStatus(0, total, DELETED)
        del self._not_found[batch.record.name]
        return self.status(state, total)

    async def download(self, batch: Batch, to: Path) -> None:
        """Write the files of the results, one after the other."""
        with writing(to), _private(to).open("wb") as file:
            if batch.record.ended == DELETED:
                return
            state = await self.json("GET", self.path(batch))
            paths = self.results(batch, state)
            if not paths and batch.record.ended == COMPLETED:
                # An answer that names no results must not count as an empty result: the results would be deleted and paid for again.
                raise Transient(
                    f"{self.name}: batch {batch.record.batch_id} is completed, but its answer names no results; if the provider's page"
                    f" shows none either, move batches/{batch.record.name}.json away, and its calls are sent and paid for again"
                )
            for path in paths:
                async with self.requested("GET", path, seconds=TRANSFER_SECONDS) as response:
                    async for chunk in response.content.iter_any():
                        with writing(to):  # to the request, this error would be a broken connection
                            file.write(chunk)
                file.write(b"\n")

    def command(self, batch: Batch) -> str:
        """Return an empty string: the provider works by itself."""
        del batch
        return ""

    async def discard(self, batch: Batch) -> None:
        """Delete what the provider has of a batch: patient data."""
        state: Mapping[str, Any] = {}
        if batch.record.ended != DELETED and batch.record.batch_id is not None:
            try:
                state = await self.json("GET", self.path(batch))
            except CallerFault as failure:
                if not self.is_missing(failure):
                    raise
        for path in self.copies(batch, state):
            await self.delete(path)

    async def delete(self, path: str) -> None:
        """Delete something unless that was done."""
        try:
            await self.json("DELETE", path)
        except CallerFault as failure:
            if not self.is_missing(failure):
                raise

    def is_missing(self, failure: CallerFault) -> bool:
        """Return whether the provider does not have what it was asked for."""
        return failure.status == 404

    async def _doubt(self, batch: Batch) -> None:
        """Return only if a batch that was not found is deleted: it is missing for a while, and also in the provider's list.

        Raises:
            CallFailed: it may be found later, or the address is wrong.
        """
        name, number = self.name, batch.record.batch_id
        self._not_found[batch.record.name] += 1
        if self._not_found[batch.record.name] < _NOT_FOUND:
            raise Transient(f"{name}: batch {number} is not found (HTTP 404)")
        del self._not_found[batch.record.name]
        try:
            async for entry in self.listed():
                if entry.get("id") == number:
                    raise Transient(f"{name}: batch {number} is listed, but not found (HTTP 404)")
        except CallerFault as failure:
            if not self.is_missing(failure):
                raise
            raise CallerFault(
                f"{name}: neither batch {number} nor the list of batches is found (HTTP 404): correct base_url and the key; if the batch"
                f" was deleted, move batches/{batch.record.name}.json away, and its calls are sent and paid for again"
            ) from failure

    def requested(
        self, method: str, path: str, *, seconds: float | None = None, **sent: Any
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """Send a request with this API's headers; see :meth:`OpenAICompatible.requested`."""
        configured = {name.lower() for name in self.provider.config.headers}
        own = {name: value for name, value in self.headers.items() if name not in configured}
        headers = {**own, **sent.pop("headers", {})}
        return self.provider.requested(method, path, key_header=self.key_header, seconds=seconds, headers=headers, **sent)

    async def json(self, method: str, path: str, *, seconds: float | None = None, **sent: Any) -> dict[str, Any]:
        """Send a request, and return the JSON object in the answer.

        Raises:
            CallFailed: the provider does not answer, or with something else.
        """
        async with self.requested(method, path, seconds=seconds, **sent) as response:
            text = await read_bounded(response, _MAX_ANSWER)
        if (value := _object(text)) is None:
            # The query of an upload gives access to it.
            place = urllib.parse.urlsplit(path).path
            raise Transient(f"{self.name}: {method} {place} was answered with something that is not a JSON object")
        return value


def _object(text: str | bytes) -> dict[str, Any] | None:
    """Return a JSON object; ``None`` for anything else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _private(path: Path) -> Path:
    """Create a file for patient data unless it exists."""
    path.touch(mode=0o600)
    return path


def identifier(value: object) -> str | None:
    """Return an ID; ``None`` if it cannot be part of an address."""
    return value if isinstance(value, str) and _ID.fullmatch(value) else None


def counted(value: object) -> int:
    return value if isinstance(value, int) and value >= 0 else 0
