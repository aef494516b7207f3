"""Images as endpoints take them."""

import base64
import io
import warnings
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from chiron.cases.images import ImageFolder
from chiron.client.call import ImagePart
from chiron.client.failures import CallerFault
from chiron.client.images import PictureStore, encode_data_url, upright_size
from tests.support.cases import write_png


def decode(url: bytes) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(url.split(b",", 1)[1])))


def test_what_fits_is_sent_as_it_is(tmp_path: Path) -> None:
    path = write_png(tmp_path / "a.png")
    assert base64.b64decode(encode_data_url(path, 64).split(b",", 1)[1]) == path.read_bytes()


def test_what_is_too_large_is_shrunk_in_its_own_kind(tmp_path: Path) -> None:
    Image.effect_noise((300, 150), 40).save(tmp_path / "a.jpg", "JPEG")
    url = encode_data_url(tmp_path / "a.jpg", 100)
    assert url.startswith(b"data:image/jpeg;")
    assert decode(url).size == (100, 50)


@pytest.mark.parametrize("mode", ["P", "RGBA", "LA", "CMYK", "1", "I;16", "F", "I"])
@pytest.mark.parametrize("side", [16, 64])
def test_every_mode_of_pixels_arrives(tmp_path: Path, mode: str, side: int) -> None:
    image = Image.new("I;16", (32, 32), 3000) if mode == "I;16" else Image.new("L", (32, 32), 90).convert(mode)
    image.save(tmp_path / "a.tiff")
    assert max(decode(encode_data_url(tmp_path / "a.tiff", side)).size) <= side


def test_sixteen_bits_keep_their_contrast(tmp_path: Path) -> None:
    ramp = np.linspace(0, 4095, 64 * 64).reshape(64, 64).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    pixels = np.asarray(decode(encode_data_url(tmp_path / "a.png", 64)))
    assert pixels.dtype == np.uint8
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert len(np.unique(pixels)) > 200


def stored(store: PictureStore, path: Path) -> ImagePart:
    digest = sha256(path.read_bytes()).hexdigest()
    store.add(digest, path)
    return ImagePart(digest, 64)


def test_the_cache_stays_within_its_bounds(tmp_path: Path) -> None:
    store = PictureStore(cache_bytes=4000)
    for n in range(20):
        picture = stored(store, write_png(tmp_path / f"{n}.png", seed=n))
        first = store.data_url(picture)
        assert store.data_url(picture) is first
    assert store._cached <= 4000


def test_what_a_case_holds_is_encoded_once_and_let_go(tmp_path: Path) -> None:
    store = PictureStore(cache_bytes=1)
    picture = stored(store, write_png(tmp_path / "a.png"))
    store.hold([picture])
    store.hold([picture])
    first = store.data_url(picture)
    (tmp_path / "a.png").unlink()
    store.release([picture])
    assert store.data_url(picture) is first
    store.release([picture])
    with pytest.raises(CallerFault, match="no longer"):
        store.data_url(picture)


def test_a_file_that_went_away_or_changed_fails_its_call_alone(tmp_path: Path) -> None:
    store = PictureStore()
    store.add("a" * 64, tmp_path / "gone.png")
    with pytest.raises(CallerFault, match="no longer"):
        store.data_url(ImagePart("a" * 64, 64))
    with pytest.raises(CallerFault, match="no image"):
        store.data_url(ImagePart("b" * 64, 64))
    picture = stored(store, write_png(tmp_path / "a.png"))
    write_png(tmp_path / "a.png", seed=9)
    with pytest.raises(CallerFault, match="was changed"):
        store.data_url(picture)


@pytest.mark.parametrize(("kind", "side"), [("JPEG", 64), ("JPEG", 24), ("PNG", 64), ("TIFF", 64)])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_lying_on_its_side_is_set_upright(tmp_path: Path, kind: str, side: int, orientation: int) -> None:
    pixels = np.zeros((40, 60), np.uint8)
    pixels[:20, :30] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.img"
    Image.fromarray(pixels).save(path, kind, exif=exif)
    url = encode_data_url(path, side, sha256=sha256(path.read_bytes()).hexdigest())
    plain = Image.fromarray(pixels)
    plain.getexif()[0x0112] = orientation
    upright = ImageOps.exif_transpose(plain)
    upright.thumbnail((side, side))
    sent = decode(url)
    assert sent.getexif().get(0x0112, 1) == 1
    assert sent.size == upright.size
    assert np.abs(np.asarray(sent.convert("L"), float) - np.asarray(upright, float)).mean() < 6


def test_a_png_may_say_in_other_words_how_it_lies(tmp_path: Path) -> None:
    xmp = '<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    exif = Image.Exif()
    exif[0x0112] = 6
    raw = exif.tobytes()
    profile = f"\nexif\n{len(raw):8}\n{raw.hex()}\n"
    for name, words in (("XML:com.adobe.xmp", xmp), ("Raw profile type exif", profile)):
        info = PngInfo()
        info.add_itxt(name, words)
        Image.new("L", (30, 20)).save(tmp_path / "a.png", pnginfo=info)
        assert upright_size(tmp_path / "a.png") == decode(encode_data_url(tmp_path / "a.png", 64)).size == (20, 30)


def test_notes_on_an_image_that_cannot_be_read_do_not_turn_it(tmp_path: Path) -> None:
    dice = np.random.default_rng(3)
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = exif.tobytes()
    for n in range(200):
        broken = bytearray(whole)
        for place in dice.integers(6, len(broken), 3):
            broken[place] = dice.integers(256)
        Image.new("L", (30, 20)).save(tmp_path / f"{n}.jpg", exif=bytes(broken))
        url = encode_data_url(tmp_path / f"{n}.jpg", 64)
        with warnings.catch_warnings(action="ignore"):
            assert set(decode(url).size) == {20, 30}


def bytes_in_memory(store: PictureStore) -> int:
    return store._held_now + store._cached + store._checked_now


def test_what_is_held_stays_within_its_bounds(tmp_path: Path) -> None:
    store = PictureStore(held_bytes=4000, cache_bytes=3000)
    pictures = [stored(store, write_png(tmp_path / f"{n}.png", seed=n)) for n in range(20)]
    store.hold(pictures)
    store.hold(pictures)
    assert all(store.data_url(p).startswith(b"data:image/png") for p in pictures)
    assert 2000 < bytes_in_memory(store) <= 7000
    store.release(pictures)
    store.release(pictures)
    store.release(pictures)
    assert bytes_in_memory(store) <= 3000


def test_where_one_image_fails_none_of_its_case_is_held(tmp_path: Path) -> None:
    store = PictureStore(cache_bytes=1)
    good = stored(store, write_png(tmp_path / "a.png"))
    store.add("a" * 64, tmp_path / "gone.png")
    with pytest.raises(CallerFault):
        store.hold([good, ImagePart("a" * 64, 64)])
    assert bytes_in_memory(store) == 0


def checked(store: PictureStore, path: Path, side: int = 1000) -> ImagePart:
    image = ImageFolder(path.parent).check(path.name, store.keep)
    store.add(image.sha256, image.path)
    return ImagePart(image.sha256, side)


def write_kind(folder: Path, kind: str) -> Path:
    path = folder / ("a.jpg" if kind == "rotated" else "a.bmp" if kind == "another format" else "a.png")
    image = Image.effect_noise((800, 500), 80)
    if kind == "wide grays":
        image = Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20))
    if kind == "rotated":
        exif = Image.Exif()
        exif[0x0112] = 6
        image.save(path, exif=exif)
    else:
        (image if kind in {"large", "wide grays"} else image.crop((0, 0, 40, 30))).save(path)
    return path


@pytest.mark.parametrize("side", [1000, 16])
@pytest.mark.parametrize("kind", ["small", "large", "wide grays", "rotated", "another format"])
def test_a_checked_file_is_sent_as_it_was_checked_without_reading_it_again(tmp_path: Path, kind: str, side: int) -> None:
    store, path = PictureStore(), write_kind(tmp_path, kind)
    picture = checked(store, path, side)
    expected = encode_data_url(path, side)
    path.unlink()
    at_once = store.ready(picture)
    assert at_once == (expected if (kind, side) == ("small", 1000) else None), "only a small file is encoded in the event loop"
    assert store.data_url(picture) == expected


def test_checked_files_stay_within_their_bounds_and_are_forgotten_once_they_are_encoded(tmp_path: Path) -> None:
    store = PictureStore(checked_bytes=5000, cache_bytes=1)
    pictures = [checked(store, write_png(tmp_path / f"{n}.png", seed=n)) for n in range(20)]
    assert 2000 < bytes_in_memory(store) <= 5000
    assert all(store.data_url(p).startswith(b"data:image/png") for p in pictures), "those without room are read from disk"
    assert bytes_in_memory(store) < 2500
