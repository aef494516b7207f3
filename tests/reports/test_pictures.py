import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from chiron.cases.images import ImageFolder
from chiron.reports.thumbnails import MAX_IMAGES, Thumbnail, thumbnails
from tests.support.cases import write_png


def one(root: Path, name: str) -> Thumbnail:
    return thumbnails(ImageFolder(root), [name])[0]


def pixels(thumbnail: Thumbnail) -> Image.Image:
    head, data = thumbnail.url.split(",", 1)
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"])
def test_every_kind_of_pixels(tmp_path: Path, mode: str) -> None:
    ramp = np.linspace(0, 4095, 64 * 64).reshape(64, 64)
    if mode in {"I;16", "I", "F"}:
        kinds = {"I;16": np.uint16, "I": np.int32, "F": np.float32}
        image = Image.fromarray(ramp.astype(kinds[mode]))
    else:
        image = Image.fromarray((ramp / 16).astype(np.uint8)).convert(mode)
    image.save(tmp_path / "a.tiff")
    thumbnail = one(tmp_path, "a.tiff")
    assert thumbnail.problem == ""
    grey = np.asarray(pixels(thumbnail).convert("L"))
    assert grey.min() < 30
    assert grey.max() > 220


def test_large_images_shrink_and_keep_their_shape(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", size=(1000, 500))
    thumbnail = one(tmp_path, "a.png")
    assert (thumbnail.width, thumbnail.height) == (320, 160) == pixels(thumbnail).size


def test_what_came_with_the_file_stays_behind(tmp_path: Path) -> None:
    notes = PngInfo()
    notes.add_text("Comment", "PATIENT NAME")
    Image.new("L", (8, 8)).save(tmp_path / "a.png", pnginfo=notes)
    exif = Image.Exif()
    exif[0x010E] = "PATIENT NAME"
    Image.new("RGB", (8, 8)).save(tmp_path / "b.jpg", exif=exif, comment=b"PATIENT NAME")
    for name in ("a.png", "b.jpg"):
        assert b"PATIENT" not in base64.b64decode(one(tmp_path, name).url.split(",", 1)[1])


def test_an_image_on_its_side_is_put_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "a.jpg", exif=exif)
    assert pixels(one(tmp_path, "a.jpg")).size == (20, 40)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("none.png", "missing"),
        ("../x.png", "leaves the image folder"),
        ("/etc/hostname", "leaves the image folder"),
        ("text.png", "not an image"),
        ("cut.png", "truncated or damaged"),
        ("folder", "not a file"),
        ("", "not a file"),
        ("a\x00b", "NUL"),
        ("\ud800", "cannot be shown"),
        ("n" * 5000, "cannot be read"),
    ],
)
def test_what_cannot_be_shown_says_why(tmp_path: Path, name: str, problem: str) -> None:
    root = tmp_path / "images"
    (root / "folder").mkdir(parents=True)
    write_png(tmp_path / "x.png")
    write_png(root / "good.png")
    (root / "text.png").write_text("no image")
    (root / "cut.png").write_bytes((root / "good.png").read_bytes()[:200])
    thumbnail = one(root, name)
    assert thumbnail.url == ""
    assert problem in thumbnail.problem


def test_a_whole_series_is_not_shown(tmp_path: Path) -> None:
    assert len(thumbnails(None, ["a.png"] * 100)) == MAX_IMAGES
