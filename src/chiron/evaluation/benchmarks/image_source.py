"""Images of a benchmark from any source: a folder, a zip read in place, or bytes inside the records."""

import hashlib
import lzma
import os
import zipfile
import zlib
from collections.abc import Sequence
from functools import cache as remember
from pathlib import Path, PurePosixPath
from threading import Lock

from chiron.cases.images import MAX_BYTES, ImageFile, ImageFolder, ImageProblem, Keep
from chiron.errors import InputError
from chiron.io import unwritten, write_bytes

FOLDERS = ("images", "imgs", "figures")
"""Folders in which published data keep images, next to the records or inside a zip."""
_ENDINGS = {
    b"\x89PNG": ".png",
    b"\xff\xd8\xff": ".jpg",
    b"GIF8": ".gif",
    b"RIFF": ".webp",
    b"BM": ".bmp",
    b"II*\x00": ".tif",
    b"MM\x00*": ".tif",
}

_DAMAGED = (OSError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError)
"""Errors that a damaged archive raises; :mod:`zipfile` passes on those of its decompressors."""


class ImageSource:
    """Finds an image by the name in a record. Images from a zip or a record are written to the cache once."""

    def __init__(self, folder: Path, archives: Sequence[Path], cache: Path) -> None:
        """Open the images in ``folder``, where the records are. ``archives`` are opened only if the image folder is missing.

        Raises:
            InputError: an archive is damaged.
        """
        self._cache, self._folder, self._lock = cache, folder, Lock()
        self._checked: dict[str, ImageFile | ImageProblem] = {}
        loose = any(os.path.isdir(folder / name) for name in FOLDERS)
        self._zips = [] if loose else [_open_zip(path) for path in archives]
        self._members = {info.filename: (number, info) for number, z in enumerate(self._zips) for info in z.infolist() if not info.is_dir()}
        self._kept = False
        self._open_folder = remember(ImageFolder)  # resolves its path once, not for each image

    @property
    def root(self) -> Path:
        """The folder that image names are relative to."""
        return self._cache if self._kept or self._zips else self._folder

    def locate(self, name: str) -> str:
        """Return the image name relative to :attr:`root`. A name that is not found is returned unchanged and fails when it is checked."""
        for candidate in (name, *(f"{folder}/{name}" for folder in FOLDERS)):
            if candidate in self._members or (not self._zips and os.path.isfile(self._folder / candidate)):
                return candidate
        return name

    def has(self, name: str) -> bool:
        """Whether an image of that name exists."""
        return name in self._members or os.path.isfile(self.root / name)

    def keep(self, data: bytes) -> str:
        """Write an image from a record to the cache and return its name, made from its hash.

        Raises:
            DiskError: the cache cannot be written.
        """
        self._kept = True
        ending = next((e for start, e in _ENDINGS.items() if data.startswith(start)), ".img")
        name = hashlib.sha256(data).hexdigest() + ending
        if not os.path.isfile(self._cache / name):
            _write(self._cache / name, data)
        return name

    def check(self, name: str, keep: Keep | None = None) -> ImageFile:
        """Find and check an image; the result is cached. Slow, so call it in a thread.

        Args:
            name: name of the image.
            keep: called with the file's content if it is read now.

        Raises:
            ImageProblem: the image cannot be used; see :meth:`chiron.cases.images.ImageFolder.check`.
        """
        known = self._checked.get(name)
        if known is None:
            known = self._checked[name] = self._look_at(name, keep)
        if isinstance(known, ImageProblem):
            raise known.with_traceback(None)
        return known

    def _look_at(self, name: str, keep: Keep | None) -> ImageFile | ImageProblem:
        try:
            if name in self._members:
                self._extract(name)
            elif self._zips:
                zips = ", ".join(sorted({str(zip_.filename) for zip_ in self._zips}))
                return ImageProblem(f"image '{name}' is missing: it is not in {zips}")
            return self._open_folder(self.root).check(name, keep)
        except ImageProblem as problem:
            return problem

    def _extract(self, name: str) -> None:
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts or "\\" in name or "\x00" in name:
            raise ImageProblem(f"image '{name}' would be unpacked outside its folder")
        number, info = self._members[name]
        if info.file_size > MAX_BYTES:
            raise ImageProblem(f"image '{name}' has {info.file_size / 2**20:.0f} MiB, more than {MAX_BYTES // 2**20}: shrink it")
        target = self._cache / name
        if _has_checksum(target, info.CRC):
            return
        try:
            with self._lock, self._zips[number].open(info) as member:
                data = member.read(MAX_BYTES + 1)
        except (*_DAMAGED, RuntimeError, NotImplementedError) as error:
            raise ImageProblem(f"image '{name}' cannot be unpacked ({error}): download the zip again") from error
        if len(data) > MAX_BYTES:
            raise ImageProblem(f"image '{name}' has more than {MAX_BYTES // 2**20} MiB: shrink it")
        _write(target, data)


def _has_checksum(file: Path, checksum: int) -> bool:
    """Whether a file can be read and has this CRC-32. The zip may have been replaced since an earlier run unpacked the file."""
    try:
        return zlib.crc32(file.read_bytes()) == checksum
    except OSError:
        return False


def cache_folder(data: Path, run: Path, benchmark: str) -> Path:
    """Choose the cache folder: next to the data, shared by all runs, or in the run directory if the data folder is read-only."""
    cache = data / ".chiron"
    return (cache if os.access(cache if cache.exists() else data, os.W_OK) else run / "images") / benchmark


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (*_DAMAGED, NotImplementedError) as error:
        raise InputError(f"{path} cannot be read as a zip ({error}): download it again") from error


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, data)
    except OSError as error:
        raise unwritten(path, error) from error
