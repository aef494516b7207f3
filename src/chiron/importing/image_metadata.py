"""Remove metadata (EXIF, comments, XMP, thumbnails) from image files without changing the pixels.

JPEG, PNG, WebP and GIF are filtered segment by segment and not re-encoded. A TIFF with metadata is rewritten losslessly. BMP cannot hold
text. Orientation and color profile are kept, since the image would look different without them.
"""

import io
import struct
import warnings
import zlib
from collections.abc import Iterator

from PIL import Image

from chiron.cases.images import MAX_BYTES
from chiron.importing.source import LeaveOut, Why

_ORIENTATION = 0x0112
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_CHUNKS = frozenset(b"IHDR PLTE IDAT IEND tRNS cHRM gAMA iCCP sBIT sRGB bKGD hIST pHYs sPLT cICP mDCV cLLI acTL fcTL fdAT".split())
_WEBP_CHUNKS = frozenset((b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF", b"ICCP"))
_GIF_APPLICATIONS = (b"NETSCAPE2.0", b"ANIMEXTS1.0")
_TIFF_TAGS = frozenset(
    int(tag)
    for tag in (
        "254 255 256 257 258 259 262 263 266 273 274 277 278 279 280 281 282 283 284 286 287 290 291 292 293 296 301 317 318 319 320 321"
        " 322 323 324 325 332 334 336 338 339 340 341 347 512 513 514 515 517 518 519 520 521 529 530 531 532 34675"
    ).split()
)
"""Tags that describe how pixels are stored and displayed."""


def without_metadata(data: bytes) -> bytes:
    """Return an image file with only its pixels, colors and orientation; return ``data`` itself if it has no metadata.

    Args:
        data: valid image in any format of :mod:`chiron.cases.images`.

    Raises:
        LeaveOut: the file's structure cannot be parsed, so its metadata is unknown.
    """
    try:
        if data.startswith(b"\xff\xd8"):
            parts = _jpeg(data)
        elif data.startswith(_PNG):
            parts = _png(data)
        elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp(data)
        elif data.startswith((b"GIF87a", b"GIF89a")):
            parts = _gif(data)
        elif data[:4] in {b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"}:
            return _tiff(data)
        else:
            return data
        bare = b"".join(parts)
    except (IndexError, SyntaxError, struct.error, ValueError) as error:  # Pillow raises SyntaxError for a damaged EXIF header
        if isinstance(error, LeaveOut):
            raise
        raise LeaveOut(Why.IDENTIFYING, "its metadata cannot be removed: save the image again as PNG") from error
    return data if bare == data else bare


def _turned(data: bytes) -> int:
    """Return the EXIF orientation, from 1 (upright) to 8."""
    # Pillow warns about odd metadata, which is removed anyway.
    with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data)) as image:
        value = image.getexif().get(_ORIENTATION, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _exif(turned: int) -> bytes:
    """Return EXIF data that contains only the orientation."""
    return b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, _ORIENTATION, 3, 1, turned, 0, 0)


def _jpeg(data: bytes) -> Iterator[bytes]:
    yield data[:2]
    carried = b"Exif\0\0" in data or b"http://ns.adobe.com/" in data
    turned = _turned(data) if carried else 1
    if turned != 1:
        exif = b"Exif\0\0" + _exif(turned)
        yield b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    at = 2
    while at < len(data):
        if data[at] != 0xFF:
            raise ValueError("no marker where one must be")
        while data[at + 1] == 0xFF:  # fill bytes
            at += 1
        marker = data[at + 1]
        if marker == 0xD9:
            yield b"\xff\xd9"
            return
        if marker == 0x01 or 0xD0 <= marker <= 0xD7:
            yield data[at : at + 2]
            at += 2
            continue
        (length,) = struct.unpack_from(">H", data, at + 2)
        end = at + 2 + length
        if length < 2 or end > len(data):
            raise ValueError("a segment that does not end")
        yield from _jpeg_segment(marker, data[at:end])
        at = end
        if marker == 0xDA:
            at = _end_of_scan(data, end)
            yield data[end:at]


def _jpeg_segment(marker: int, segment: bytes) -> Iterator[bytes]:
    body = segment[4:]
    if marker == 0xE0 and body.startswith(b"JFIF\0") and len(body) >= 14:
        # Drop the thumbnail and its size, since it may show parts that were cropped later.
        yield b"\xff\xe0\x00\x10" + body[:12] + b"\0\0"
        return
    colours = (marker == 0xE2 and body.startswith(b"ICC_PROFILE\0")) or (marker == 0xEE and body.startswith(b"Adobe"))
    if colours or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
        yield segment


def _end_of_scan(data: bytes, at: int) -> int:
    """Return the end of a scan's pixels: the next marker that is neither a stuffed byte nor a restart."""
    while (at := data.find(b"\xff", at)) != -1 and at + 1 < len(data):
        following = data[at + 1]
        if following not in {0, 0xFF} and not 0xD0 <= following <= 0xD7:
            return at
        at += 1 if following == 0xFF else 2
    return len(data)


def _png(data: bytes) -> Iterator[bytes]:
    yield _PNG
    turned = _turned(data) if b"eXIf" in data or b"exif" in data or b"XML:com.adobe.xmp" in data else 1
    at = len(_PNG)
    while at < len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data):
            raise ValueError("a chunk that does not end")
        if name == b"IDAT" and turned != 1:
            exif = b"eXIf" + _exif(turned)
            yield struct.pack(">I", len(exif) - 4) + exif + struct.pack(">I", zlib.crc32(exif))
            turned = 1
        if name in _PNG_CHUNKS:
            yield data[at:end]
        if name == b"IEND":
            return
        at = end


def _webp(data: bytes) -> bytes:
    turned = _turned(data) if b"EXIF" in data or b"XMP " in data else 1
    kept: list[tuple[bytes, bytes]] = []
    at, whole = 12, min(len(data), 8 + struct.unpack_from("<I", data, 4)[0])
    beside = whole < len(data)
    while at + 8 <= whole:
        name, length = struct.unpack_from("<4sI", data, at)
        body = data[at + 8 : at + 8 + length]
        if len(body) < length:
            raise ValueError("a chunk that does not end")
        if name in _WEBP_CHUNKS:
            kept.append((name, body))
        else:
            beside = True
        at += 8 + length + length % 2
    if not beside:
        return data
    extended = bool(kept) and kept[0][0] == b"VP8X"
    if extended:
        # Bits 3 and 2 of the flags announce EXIF and XMP.
        kept[0] = (b"VP8X", bytes([(kept[0][1][0] & ~0x0C) | (0x08 if turned != 1 else 0)]) + kept[0][1][1:])
        if turned != 1:
            kept.append((b"EXIF", _exif(turned)))
    chunks = b"".join(name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2) for name, body in kept)
    bare = b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WEBP" + chunks
    return data if bare == data else bare


def _gif(data: bytes) -> Iterator[bytes]:
    at = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    yield data[:at]
    while at < len(data):
        begin, kind = at, data[at]
        if kind == 0x3B:
            yield b"\x3b"
            return
        if kind == 0x2C:
            at += 10 + (3 << (data[at + 9] & 7) + 1 if data[at + 9] & 0x80 else 0) + 1
            at = _end_of_blocks(data, at)
            yield data[begin:at]
        elif kind == 0x21:
            label, application = data[at + 1], data[at + 3 : at + 14]
            at = _end_of_blocks(data, at + 2)
            if label == 0xF9 or (label == 0xFF and application in _GIF_APPLICATIONS):
                yield data[begin:at]
        else:
            raise ValueError("a block of no known kind")


def _end_of_blocks(data: bytes, at: int) -> int:
    while data[at]:
        at += data[at] + 1
    return at + 1


def _tiff(data: bytes) -> bytes:
    try:
        # Pillow warns about odd metadata, which is removed anyway.
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data), formats=["TIFF"]) as image:
            if set(image.getexif()) <= _TIFF_TAGS and getattr(image, "n_frames", 1) == 1:
                return data
            image.load()  # applies the orientation
            profile = image.info.get("icc_profile")
            bare = image.copy()
            bare.info = {}
            buffer = io.BytesIO()
            bare.save(buffer, "TIFF", compression="tiff_deflate", **({"icc_profile": profile} if profile else {}))
    except Exception as error:
        # Pillow cannot write every TIFF variant that it reads, and raises many exception types for them.
        raise ValueError("cannot be written again") from error
    if buffer.tell() > MAX_BYTES:
        raise LeaveOut(Why.IDENTIFYING, f"without its metadata it has more than {MAX_BYTES // 2**20} MiB: save it again as PNG")
    return buffer.getvalue()
