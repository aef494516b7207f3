"""Every image is checked inside its fence before anything is paid for."""

from pathlib import Path

import pytest
from PIL import Image

from chiron.cases.images import ImageFolder, ImageProblem
from tests.support.cases import write_png


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_a_good_image_is_known_by_its_hash(tmp_path: Path) -> None:
    write_png(tmp_path / "a" / "0.png", size=(40, 20))
    image = ImageFolder(tmp_path).check("a/0.png")
    assert (image.width, image.height) == (40, 20)
    assert len(image.sha256) == 64


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("missing.png", None, "missing"),
        ("empty.png", b"", "empty"),
        ("text.png", b"this is no image at all", "not an image"),
        ("vector.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
        ("huge.png", png_header(30_000, 30_000), "megapixels"),
        ("large.png", png_header(9_000, 9_000), "megapixels"),
        ("hollow.png", png_header(64, 64), "damaged"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, name: str, content: bytes | None, words: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageProblem, match=words) as caught:
        ImageFolder(tmp_path).check(name)
    assert name in str(caught.value)


def test_a_truncated_image_is_found(tmp_path: Path) -> None:
    path = tmp_path / "cut.jpeg"
    Image.effect_noise((200, 200), 50).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ImageProblem, match="damaged"):
        ImageFolder(tmp_path).check("cut.jpeg")


@pytest.mark.parametrize("name", ["../secret.png", "a/../../secret.png", "/etc/passwd", "..\\secret.png", "a\x00.png"])
def test_nothing_outside_the_folder_is_reached(tmp_path: Path, name: str) -> None:
    write_png(tmp_path / "secret.png")
    (tmp_path / "images" / "a").mkdir(parents=True)
    with pytest.raises(ImageProblem, match=r"leaves the image folder|has a backslash|NUL"):
        ImageFolder(tmp_path / "images").check(name)


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    write_png(tmp_path / "secret.png")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(ImageProblem, match="link out"):
        ImageFolder(tmp_path / "images").check("link.png")


def test_a_link_inside_the_folder_is_followed(tmp_path: Path) -> None:
    write_png(tmp_path / "real.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "real.png")
    assert ImageFolder(tmp_path).check("link.png").width == 32


def test_a_folder_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    with pytest.raises(ImageProblem, match="not a file"):
        ImageFolder(tmp_path).check("a.png")
