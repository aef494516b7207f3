"""Images lose what stands beside their pixels, and nothing that is seen."""

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps, PngImagePlugin

from chiron.cases.reader import read_cases
from chiron.importing.drafts import LeaveOut
from chiron.importing.image_metadata import without_metadata
from chiron.importing.importer import import_cases
from tests.support.cases import write_cases

WORDS = "Oakshott Jane 1950-01-02"


def picture(mode: str = "RGB") -> Image.Image:
    values = np.random.default_rng(0).integers(0, 255, (12, 20, 3), np.uint8)
    return Image.fromarray(values).convert(mode)


def exif(turned: int) -> Image.Exif:
    about = Image.Exif()
    about[0x010E], about[0x9C9D], about[0x0112] = WORDS, WORDS, turned
    return about


def saved(kind: str, image: Image.Image | None = None, **options: Any) -> bytes:
    buffer = io.BytesIO()
    (image or picture()).save(buffer, kind, **options)
    return buffer.getvalue()


def png_text() -> PngImagePlugin.PngInfo:
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", WORDS)
    text.add_itxt("Other", WORDS)
    return text


def seen(data: bytes) -> Any:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(ImageOps.exif_transpose(image))


CARRYING = {
    "jpeg": saved("JPEG", exif=exif(6), comment=WORDS.encode(), icc_profile=b"profile"),
    "progressive": saved("JPEG", exif=exif(1), progressive=True),
    "cmyk": saved("JPEG", picture("CMYK"), exif=exif(1)),
    "after the end": saved("JPEG") + WORDS.encode(),
    "png": saved("PNG", exif=exif(8), pnginfo=png_text(), icc_profile=b"profile"),
    "palette": saved("PNG", picture("P"), pnginfo=png_text(), transparency=3),
    "webp": saved("WEBP", exif=exif(3), xmp=WORDS.encode(), lossless=True),
    "webp, lossy": saved("WEBP", exif=exif(1)),
    "gif": saved("GIF", picture("P"), comment=WORDS.encode()),
    "tiff": saved("TIFF", exif=exif(6), icc_profile=b"profile"),
    "tiff of 16 bits": saved("TIFF", Image.fromarray(np.arange(240, dtype=np.uint16).reshape(12, 20)), description=WORDS),
    "mpo": saved("MPO", exif=exif(1), save_all=True, append_images=[picture()]),
}


@pytest.mark.parametrize("name", CARRYING)
def test_what_stands_beside_the_pixels_goes_and_what_is_seen_stays(name: str) -> None:
    data = CARRYING[name]
    bare = without_metadata(data)
    assert bare != data
    assert not any(word.encode(code) in bare for word in WORDS.split() for code in ("ascii", "utf-16-le"))
    assert (seen(bare) == seen(data)).all()
    with Image.open(io.BytesIO(bare)) as image:
        assert set(image.getexif()) <= {0x0112} or image.format == "TIFF"
        assert image.info.get("icc_profile") == (b"profile" if name in {"jpeg", "png", "tiff"} else None)
    assert without_metadata(bare) is bare


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_file_that_carries_nothing_stays_byte_for_byte(kind: str) -> None:
    data = saved(kind)
    assert without_metadata(data) is data


@given(st.sampled_from(sorted(CARRYING)), st.integers(0, 4000), st.integers(0, 255))
def test_damaged_files_are_refused_or_read_and_break_nothing(name: str, at: int, value: int) -> None:
    data = bytearray(CARRYING[name])
    data[16 + at % (len(data) - 16)] = value
    try:
        with Image.open(io.BytesIO(bytes(data))) as image:
            image.load()
    except Exception:  # noqa: BLE001 - such a file is refused before
        return
    with contextlib.suppress(LeaveOut):
        assert without_metadata(bytes(data))


def test_imported_images_lose_it_and_that_is_said(tmp_path: Path) -> None:
    source = write_cases(tmp_path / "s", 2)
    before = tmp_path / "s" / "images" / "case-00000" / "0.png"
    before.write_bytes(CARRYING["png"])
    summary = import_cases(source, tmp_path / "out")
    assert summary.notes["images whose EXIF data or other metadata was removed"] == 1
    assert b"Oakshott" not in (tmp_path / "out" / "images" / "case-00000" / "0.png").read_bytes()
    assert all(b"Oakshott" not in p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file())
    assert len(list(read_cases(tmp_path / "out" / "cases.jsonl"))) == 2
