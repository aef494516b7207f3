"""Images of batches that requests refer to, instead of repeating their bytes: files at the provider, or links to a folder of the user."""

import asyncio
import base64
import hashlib
import json
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from chiron.client.batch_record import IMAGES
from chiron.client.call import ImagePart
from chiron.client.config import ImageLinks
from chiron.errors import InputError
from chiron.io import unwritten

_DELETED_AT_ONCE = 16
_ENDING = {"image/jpeg": ".jpg", "image/png": ".png"}
Encode = Callable[[ImagePart], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class ImageReference:
    """How requests refer to an image."""

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
    """Seconds since the epoch."""


class ImageFolder:
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
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                if not path.exists():
                    part = path.with_name(f".{path.name}.part")
                    part.write_bytes(base64.b64decode(data))
                    part.replace(path)
            except OSError as error:
                raise unwritten(path, error) from error
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
        self._path: Path | None = None
        self._token = ""
        self._uploads: dict[str, _Upload] = {}
        self._old: list[str] = []

    def open(self, folder: Path, owner: str) -> None:
        """Read the record of earlier processes.

        Args:
            folder: folder of the batches.
            owner: names the model and its address.

        Raises:
            InputError: the record cannot be read.
        """
        self._path = folder / IMAGES / f"{hashlib.sha256(owner.encode()).hexdigest()[:12]}.jsonl"
        try:
            lines = self._path.read_text("utf-8").splitlines()
        except FileNotFoundError:
            lines = []
        except (OSError, ValueError) as error:
            raise InputError(f"{self._path} cannot be read ({error}): restore it, or delete the images on the provider's page") from error
        for line in lines:
            try:
                self._take(_Upload(**json.loads(line)))
            except (ValueError, TypeError):
                continue  # cut off by the end of a process; an upload has another line before it
        self._token = next(iter(self._uploads), secrets.token_hex(4)).split("-")[0]

    async def refer(self, picture: ImagePart) -> ImageReference:
        """Return the ID of an image, which is uploaded unless that was done.

        Raises:
            CallFailed: the image is unusable, or the provider does not take it.
            DiskError: the record cannot be written.
        """
        name = key = f"{self._token}-{picture.sha256[:20]}-{picture.max_side}"
        known = self._uploads.get(key)
        if known is not None and known.target is not None and time.time() - known.at < self._seconds:
            return ImageReference(known.target, known.media, known.size)
        url = await self._encode(picture)
        media, data = split_data_url(url)
        target = None
        if known is not None and known.target is None:
            # The answer was lost. Only the provider knows whether it has the file.
            target = await self._find(name := known.name)
        elif known is not None:
            name = f"{key}-{secrets.token_hex(2)}"
        if target is None:
            self._note(_Upload(key, name))
            target = await self._upload(name, media, base64.b64decode(data))
        self._note(_Upload(key, name, target, media, len(url), time.time()))
        return ImageReference(target, media, len(url))

    def _take(self, upload: _Upload) -> None:
        before = self._uploads.get(upload.key)
        if before is not None and before.target is not None and before.name != upload.name:
            self._old.append(before.target)
        self._uploads[upload.key] = upload

    def _note(self, upload: _Upload) -> None:
        self._take(upload)
        assert self._path is not None  # noqa: S101 - opened before the first call
        try:
            for folder in (self._path.parent.parent, self._path.parent):
                folder.mkdir(mode=0o700, exist_ok=True)
            self._path.touch(mode=0o600)
            with self._path.open("a", encoding="utf-8") as file:
                file.write("\n" + json.dumps(asdict(upload)))  # the line before may have been cut off
        except OSError as error:
            raise unwritten(self._path, error) from error

    async def discard(self, delete: Callable[[str], Awaitable[None]]) -> None:
        """Delete all images at the provider, and then the record.

        Raises:
            CallFailed: the provider does not delete them.
        """
        some = asyncio.Semaphore(_DELETED_AT_ONCE)

        async def end(target: str | None, name: str) -> None:
            async with some:
                if (found := target or await self._find(name)) is not None:
                    await delete(found)

        every = [*((upload.target, upload.name) for upload in self._uploads.values()), *((target, "") for target in self._old)]
        await asyncio.gather(*(end(*one) for one in every))
        self._uploads.clear()
        self._old.clear()
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            if self._path.parent.is_dir() and not any(self._path.parent.iterdir()):
                self._path.parent.rmdir()


def split_data_url(url: bytes) -> tuple[str, bytes]:
    """Return media type and base64 data of a ``data:`` URL."""
    head, data = url.split(b",", 1)
    return head.removeprefix(b"data:").removesuffix(b";base64").decode("ascii"), data
