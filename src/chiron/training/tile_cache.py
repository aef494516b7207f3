"""Decoded images on disk, shared by epochs, resumed runs and processes. Training is the same with and without it."""

import hashlib
import io
import json
import logging
import shutil
import tempfile
import threading
import time
import zlib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Final

import numpy as np
from PIL import features

from chiron.errors import InputError
from chiron.io import write_bytes
from chiron.providers.local.tiling import Grid, ImageLayout, Tiles, Tiling

_log = logging.getLogger(__name__)

RULES: Final = 1
"""Version of the code that makes pixels: ``upright`` with what it calls, and ``cut`` of each layout. Raise it if they change pixels."""
_SUFFIX = ".tiles"
_LEFT = 3600.0
"""Age in seconds after which a temporary file counts as left by a killed process."""
_RESERVE = 10 * 2**30
"""Bytes of the disk that the cache leaves free for checkpoints, or a tenth of the disk if that is less."""


class TileCache:
    """Pixels of images in files, named by a hash of the image and of everything that decides its pixels.

    Files are written under a temporary name and renamed, so a file that is there is complete, also if processes write the same one or are
    killed. Each starts with a checksum of the rest, which is an array in NumPy's format. If nothing more can be written, training
    continues, and images that are not in the cache are decoded each time.
    """

    def __init__(self, folder: Path, layout: ImageLayout, limit: int, *, writers: int = 1) -> None:
        """Create the folder if it is missing.

        Args:
            folder: where the files are.
            layout: how the model sees images.
            limit: maximum size of the folder in bytes.
            writers: number of processes of the training. Each writes an equal share of what is free, so they need not communicate. If every
                node has a folder of its own, it is filled only to the shares of the node's processes.

        Raises:
            InputError: The folder cannot be created or written.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise InputError(
                f"tile_cache {folder} cannot be written ({error.strerror}): choose another folder, or remove the key"
            ) from error
        self._folder, self._layout, self._limit, self._writers = folder, layout, limit, writers
        self._lock = threading.Lock()
        self._left: int | None = None
        """Bytes that this process may still write; None until the first write."""
        self._ended = False

    def tiles(self, image: bytes, grid: Grid, n_images: int, make: Callable[[], Tiles]) -> Tiles:
        """Return the tiles of an image: those in the cache, or what ``make`` returns.

        Args:
            image: content of the image file.
            grid: grid of its tiles. An image that no longer has it is not found.
            n_images: number of images in its row.
            make: decodes the image. Its errors are passed on.
        """
        path = self._path(image, grid, n_images)
        found = self._read(path)
        if found is None:
            found = make()
            if not self._ended:
                self._write(path, found)
        return found

    def _path(self, image: bytes, grid: Grid, n_images: int) -> Path:
        pixels = hashlib.sha256(image).hexdigest()
        name = hashlib.sha256(json.dumps([pixels, grid, *_settings(self._layout, n_images)], sort_keys=True).encode()).hexdigest()
        return self._folder / name[:2] / f"{name}{_SUFFIX}"

    def _read(self, path: Path) -> "Tiles | None":
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            _log.warning("%s cannot be read (%s): its image is decoded again", path, error.strerror)
            return None
        # A file can be damaged although it was renamed when complete: after a power failure, or by the disk.
        if zlib.crc32(memoryview(content)[4:]).to_bytes(4, "little") != content[:4]:
            _log.warning("%s is damaged: its image is decoded again", path)
            return None
        found: Tiles = np.load(io.BytesIO(content[4:]), allow_pickle=False)
        return found

    def _write(self, path: Path, tiles: Tiles) -> None:
        file = io.BytesIO()
        np.save(file, tiles, allow_pickle=False)
        content = file.getbuffer()
        try:
            refused = self._refused(len(content) + 4)
            if refused:
                self._end(*refused)
                return
            path.parent.mkdir(exist_ok=True)
            write_bytes(path, zlib.crc32(content).to_bytes(4, "little"), content)
        except OSError as error:
            self._end(f"cannot be written ({error.strerror or error})", "free space on its disk")

    def _refused(self, size: int) -> tuple[str, str] | None:
        """Count so many bytes as written, or return why they may not be, and how to fix it."""
        disk = shutil.disk_usage(self._folder)
        if disk.free - size < min(_RESERVE, disk.total // 10):
            return f"stops growing, because its disk has only {disk.free / 2**30:.3g} GiB free", "free space on its disk"
        with self._lock:
            if self._left is None:
                self._left = (self._limit - _used(self._folder)) // self._writers
            if size > self._left:
                full = f"has reached {self._limit / 2**30:.3g} GiB"
                if self._writers > 1:
                    full = f"has taken this process's share of {self._limit / 2**30:.3g} GiB (one of {self._writers} processes)"
                return full, "raise tile_cache_gib"
            self._left -= size
        return None

    def _end(self, why: str, fix: str) -> None:
        """Write no more, and say so once."""
        with self._lock:
            ended, self._ended = self._ended, True
        if not ended:
            told = "tile_cache %s %s: training continues, and images that are not in it are decoded each time; %s to cache them too"
            _log.warning(told, self._folder, why, fix)


def _settings(layout: ImageLayout, n_images: int) -> list[object]:
    """Everything except the image that decides its pixels."""
    own = layout.thumbnail if isinstance(layout, Tiling) else None  # not among the processor's settings
    libraries = [version(name) for name in ("pillow", "numpy", "transformers")]
    codecs = [features.version(name) for name in ("jpg", "libjpeg_turbo", "libtiff", "webp")]
    return [RULES, type(layout).__name__, layout.processor_settings(), own, layout.sharing(n_images), libraries, codecs]


def _used(folder: Path) -> int:
    """Size in bytes of a cache's files. Temporary files that killed processes left are removed."""
    used = 0
    for path in folder.glob("??/*"):
        try:
            about = path.stat()
            if path.name.startswith(".") and time.time() - about.st_mtime > _LEFT:
                path.unlink()
            else:
                used += about.st_size
        except FileNotFoundError:  # another process has just renamed it
            continue
    return used
