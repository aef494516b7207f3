"""Images of batches that requests refer to, instead of repeating their bytes: files at the provider, or links to a folder of the user."""

import asyncio
import base64
import hashlib
import json
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from chiron.client.batch_record import IMAGES
from chiron.client.call import ImagePart
from chiron.client.config import ImageLinks
from chiron.client.failures import CallerFault, CallFailed
from chiron.errors import InputError
from chiron.io import writing

_DELETED_AT_ONCE = 16
_DELETIONS = 3
"""Attempts to delete an image in one process."""
_NEW = 3600.0
"""Age in seconds below which an uploaded image cannot have expired."""
_ENDING = {"image/jpeg": ".jpg", "image/png": ".png"}
Encode = Callable[[ImagePart], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class ImageReference:
    target: str
    """Its URL, or its ID at the provider."""
    media: str
    """Media type."""
    size: int
    """Length of its ``data:`` URL in bytes."""


@dataclass(frozen=True, slots=True)
class _Upload:
    """Line of the record of uploads. It is written before an upload, and again with the ID after it."""

    key: str
    """Names the image."""
    name: str
    """Name of the file at the provider: the key, and more if it was uploaded before."""
    target: str | None = None
    media: str = ""
    size: int = 0
    at: float = 0.0
    """When the upload began, in seconds since the epoch."""


class LinkedImages:
    """Images written to a folder that the user publishes, each once. The names contain the hash of the file and cannot be guessed."""

    def __init__(self, links: ImageLinks, encode: Encode) -> None:
        """``encode``: returns an image as a ``data:`` URL."""
        self._folder, self._url, self._encode = Path(links.folder), links.url.rstrip("/"), encode
        self._known: dict[ImagePart, ImageReference] = {}

    async def refer(self, picture: ImagePart) -> ImageReference:
        """Return the link to an image.

        Raises:
            CallerFault: the image is unusable.
            DiskError: the folder cannot be written.
        """
        if (known := self._known.get(picture)) is None:
            url = await self._encode(picture)
            media, data = split_data_url(url)
            path = self._folder / f"{picture.sha256}-{picture.max_side}{_ENDING.get(media, '')}"
            with writing(path):
                self._folder.mkdir(parents=True, exist_ok=True)
                if not path.exists():
                    part = path.with_name(f".{path.name}.part")
                    part.write_bytes(base64.b64decode(data))
                    part.replace(path)
            known = self._known[picture] = ImageReference(f"{self._url}/{path.name}", media, len(url))
        return known


class UploadedImages:
    """Images uploaded to the provider, each once per run. A record next to the batches names them until they are deleted."""

    def __init__(
        self,
        encode: Encode,
        upload: Callable[[str, str, bytes], Awaitable[str]],
        find: Callable[[str], Awaitable[str | None]],
        *,
        hours: float,
    ) -> None:
        """Set how images are uploaded.

        Args:
            encode: returns an image as a ``data:`` URL.
            upload: uploads a file (name, media type, bytes), and returns its ID.
            find: returns the ID of a file by its name, if the provider has it.
            hours: age at which an uploaded image is uploaded again, because the provider deletes it.
        """
        self._encode, self._upload, self._find, self._seconds = encode, upload, find, 3600 * hours
        self.path: Path | None = None
        """The record of the uploads, once it is read."""
        self._owner = self._token = ""
        self._uploads: dict[str, _Upload] = {}
        """The newest upload of each image, by key."""
        self._old: dict[str, str | None] = {}
        """Older uploads: IDs by name."""

    def open(self, folder: Path, owner: str) -> None:
        """Read the record of earlier processes.

        Args:
            folder: folder of the batches.
            owner: names the model and its address.

        Raises:
            InputError: the record cannot be read.
        """
        self._owner, self.path = owner, folder / IMAGES / f"{hashlib.sha256(owner.encode()).hexdigest()[:12]}.jsonl"
        try:
            lines = self.path.read_text("utf-8").splitlines()
        except FileNotFoundError:
            lines = []
        except (OSError, ValueError) as error:
            raise InputError(f"{self.path} cannot be read ({error}): restore it, or delete the images on the provider's page") from error
        for line in lines:
            try:
                value = json.loads(line)
                if "deleted" in value:
                    self._drop(value["deleted"])
                elif "owner" not in value:
                    self._take(_Upload(**value))
            except (ValueError, TypeError):
                continue  # cut off by the end of a process; an upload has another line before it
        self._token = next(iter(self._uploads), secrets.token_hex(4)).split("-")[0]

    async def refer(self, picture: ImagePart) -> ImageReference:
        """Return the ID of an image, which is uploaded unless that was done.

        Raises:
            CallFailed: the image is unusable, or the provider does not take it.
            DiskError: the record cannot be written.
        """
        key = self._key(picture)
        known = self._uploads.get(key)
        if known is not None and known.target is not None and self._is_fresh(known):
            return ImageReference(known.target, known.media, known.size)
        url = await self._encode(picture)
        media, data = split_data_url(url)
        if known is not None and known.target is None and (target := await self._find(known.name)) is not None:
            # The answer was lost, and the provider has the file.
            known = replace(known, target=target, media=media, size=len(url))
            self._note(known)
            if self._is_fresh(known):
                return ImageReference(target, media, len(url))
        name = key if known is None else known.name if known.target is None else f"{key}-{secrets.token_hex(2)}"
        upload = _Upload(key, name, at=time.time())
        self._note(upload)
        target = await self._upload(upload.name, media, base64.b64decode(data))
        self._note(replace(upload, target=target, media=media, size=len(url)))
        return ImageReference(target, media, len(url))

    def forget(self, picture: ImagePart) -> None:
        """Upload an image again when it is next needed: the provider no longer has it. A new upload cannot have expired, and is kept."""
        known = self._uploads.get(self._key(picture))
        if known is not None and known.target is not None and time.time() - known.at > _NEW:
            self._uploads[known.key] = replace(known, at=0.0)

    def _key(self, picture: ImagePart) -> str:
        return f"{self._token}-{picture.sha256[:20]}-{picture.max_side}"

    def _is_fresh(self, upload: _Upload) -> bool:
        return time.time() - upload.at < self._seconds

    def _take(self, upload: _Upload) -> None:
        before = self._uploads.get(upload.key)
        if before is not None and before.name != upload.name:
            self._old[before.name] = before.target
        self._uploads[upload.key] = upload

    def _drop(self, name: str) -> None:
        self._old.pop(name, None)
        self._uploads = {key: upload for key, upload in self._uploads.items() if upload.name != name}

    def _note(self, upload: _Upload) -> None:
        self._take(upload)
        self._append(asdict(upload))

    def _append(self, line: dict[str, object]) -> None:
        assert self.path is not None  # noqa: S101 - opened before the first call
        with writing(self.path):
            for folder in (self.path.parent.parent, self.path.parent):
                folder.mkdir(mode=0o700, exist_ok=True)
            is_new = not self.path.exists()
            self.path.touch(mode=0o600)
            with self.path.open("a", encoding="utf-8") as file:
                if is_new:
                    file.write(json.dumps({"owner": self._owner}))
                file.write("\n" + json.dumps(line))  # the line before may have been cut off

    async def discard(self, delete: Callable[[str], Awaitable[None]], *, wait: float) -> None:
        """Delete all images at the provider, and then the record. Each deletion is recorded, so that the next process continues.

        Args:
            delete: deletes an image by its ID, unless that was done.
            wait: seconds before images whose deletion failed are tried again; doubled once.

        Raises:
            CallFailed: the provider does not delete some of them; the others are deleted.
        """
        left = {**self._old, **{upload.name: upload.target for upload in self._uploads.values()}}
        some = asyncio.Semaphore(_DELETED_AT_ONCE)
        failures: list[CallFailed] = []
        for number in range(_DELETIONS):
            await asyncio.sleep(wait * number)
            # All end before an error is raised: the provider is closed after it.
            ended = await asyncio.gather(
                *(self._delete(name, target, delete, some) for name, target in left.items()), return_exceptions=True
            )
            failed = [error for error in ended if error is not None]
            failures = [error for error in failed if isinstance(error, CallFailed)]
            if len(failures) < len(failed):
                raise next(error for error in failed if not isinstance(error, CallFailed))
            left = {name: target for (name, target), error in zip(left.items(), ended, strict=True) if error is not None}
            if all(isinstance(failure, CallerFault) for failure in failures):
                break
        if failures:
            raise failures[0]
        if self.path is not None:
            self.path.unlink(missing_ok=True)
            if self.path.parent.is_dir() and not any(self.path.parent.iterdir()):
                self.path.parent.rmdir()

    async def _delete(self, name: str, target: str | None, delete: Callable[[str], Awaitable[None]], some: asyncio.Semaphore) -> None:
        async with some:
            if (found := target or await self._find(name)) is not None:
                await delete(found)
        self._append({"deleted": name})
        self._drop(name)


def split_data_url(url: bytes) -> tuple[str, bytes]:
    """Return media type and base64 data of a ``data:`` URL."""
    head, data = url.split(b",", 1)
    return head.removeprefix(b"data:").removesuffix(b";base64").decode("ascii"), data
