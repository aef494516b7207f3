"""Hold data of millions of rows in little memory: in a temporary file, or as digests."""

import hashlib
import os
import tempfile
from array import array
from contextlib import suppress
from pathlib import Path

from chiron.io import writing


class SpoolFile:
    """Anonymous temporary file for data that would not fit into memory. Nothing is left of it, even if the process is killed."""

    def __init__(self, folder: Path | None = None) -> None:
        """Create the file in ``folder``; by default in the system's temporary folder.

        Raises:
            DiskError: it cannot be created.
        """
        self._folder = folder or Path(tempfile.gettempdir())
        with writing(self._folder):
            self.file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by ``close``
        self.size = 0
        """Number of bytes appended."""
        self._flushed = 0

    def append(self, data: bytes) -> None:
        """Append to the file.

        Raises:
            DiskError: the disk is full.
        """
        with writing(self._folder):
            self.file.write(data)
        self.size += len(data)

    def flush(self) -> None:
        """Make everything readable for maps of the file. Raises as :meth:`append`."""
        if self._flushed < self.size:
            with writing(self._folder):
                self.file.flush()
            self._flushed = self.size

    def read(self, offset: int, size: int) -> bytes:
        """Read ``size`` bytes from ``offset``. Raises as :meth:`append`."""
        self.flush()
        return os.pread(self.file.fileno(), size, offset)

    def close(self) -> None:
        """Close and delete the file, without an error if its last bytes do not fit on the disk."""
        with suppress(OSError):
            self.file.close()


class TextNumbers:
    """Map from texts to integers that holds a 128-bit digest of each text: about 40 bytes a text, where a dictionary needs 200."""

    def __init__(self) -> None:
        self._digests = bytearray()
        self._values = array("q")
        self._slots = array("I", bytes(4 * 1024))
        """Hash table with linear probing: index of a digest plus 1, or 0. At most half full."""

    def setdefault(self, text: str, value: int) -> int:
        """Return the value of a text; ``value`` becomes its value if it has none."""
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        slots, last = self._slots, len(self._slots) - 1
        at = int.from_bytes(digest[:8], "little") & last
        while entry := slots[at]:
            if self._digests[16 * entry - 16 : 16 * entry] == digest:
                return self._values[entry - 1]
            at = (at + 1) & last
        self._digests += digest
        self._values.append(value)
        slots[at] = len(self._values)
        if 2 * len(self._values) > len(slots):
            self._grow()
        return value

    def _grow(self) -> None:
        size = 2 * len(self._slots)
        self._slots = slots = array("I", bytes(4 * size))
        for entry in range(1, len(self._values) + 1):
            at = int.from_bytes(self._digests[16 * entry - 16 : 16 * entry - 8], "little") & (size - 1)
            while slots[at]:
                at = (at + 1) & (size - 1)
            slots[at] = entry
