"""Every image is checked inside its fence before anything is paid for."""

import io
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from chiron.cases.images import FORMATS, ImageFolder, ImageProblem, Keep
from chiron.client.call import ImagePart
from chiron.client.images import PictureStore
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


def test_a_linked_folder_is_followed_only_inside_the_folder(tmp_path: Path) -> None:
    write_png(tmp_path / "elsewhere" / "deep" / "x.png")
    write_png(tmp_path / "images" / "real" / "deep" / "x.png")
    (tmp_path / "images" / "out").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "images" / "in").symlink_to(tmp_path / "images" / "real")
    folder = ImageFolder(tmp_path / "images")
    with pytest.raises(ImageProblem, match="link out"):
        folder.check("out/deep/x.png")
    assert folder.check("in/deep/x.png").path == folder.check("./real/deep//x.png").path


def test_a_name_that_is_too_long_is_a_missing_image(tmp_path: Path) -> None:
    with pytest.raises(ImageProblem):
        ImageFolder(tmp_path).check("a" * 5000 + "/x.png")


def test_a_link_inside_the_folder_is_followed(tmp_path: Path) -> None:
    write_png(tmp_path / "real.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "real.png")
    assert ImageFolder(tmp_path).check("link.png").width == 32


def test_a_folder_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    with pytest.raises(ImageProblem, match="not a file"):
        ImageFolder(tmp_path).check("a.png")


def encoded(kind: str, mode: str) -> bytes:
    """A small image with noise, so that its compressed pixels are most of the file."""
    noise = Image.effect_noise((48, 40), 90)
    image = Image.merge("RGB", [noise, noise.rotate(90, expand=False), noise.rotate(180)]) if mode == "RGB" else noise.convert(mode)
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


IMAGES = [(kind, mode, encoded(kind, mode)) for kind in FORMATS for mode in ("L", "RGB")]
IMAGES.append(("PNG", "P", encoded("PNG", "P")))


def problem(folder: ImageFolder, name: str, keep: Keep | None = None) -> str | None:
    try:
        folder.check(name, keep)
    except ImageProblem as found:
        return str(found)
    return None


@pytest.mark.parametrize(("kind", "data"), [pytest.param(kind, data, id=f"{kind}-{mode}") for kind, mode, data in IMAGES])
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chosen=st.data())
def test_a_file_that_is_sent_unchanged_is_refused_for_the_same_damage(
    tmp_path: Path, kind: str, data: bytes, chosen: st.DataObject
) -> None:
    damaged = bytearray(data)
    for place, bits in chosen.draw(st.dictionaries(st.integers(0, len(data) - 1), st.integers(1, 255), max_size=8)).items():
        damaged[place] ^= bits
    (tmp_path / "a").write_bytes(damaged[: chosen.draw(st.just(len(data)) | st.integers(1, len(data)))])
    folder = ImageFolder(tmp_path)
    assert problem(folder, "a", PictureStore().keep) == problem(folder, "a"), kind


def test_the_pixels_of_a_png_with_valid_checksums_are_left_to_the_endpoint(tmp_path: Path) -> None:
    (tmp_path / "hollow.png").write_bytes(png_header(64, 64))
    store, folder = PictureStore(), ImageFolder(tmp_path)
    image = folder.check("hollow.png", store.keep)
    assert store.ready(ImagePart(image.sha256, 64)) is not None
    assert "damaged" in (problem(folder, "hollow.png") or ""), "where the pixels are used, they are decoded"
