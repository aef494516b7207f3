"""Images are ready when their batch is due, and no earlier than memory allows."""

import base64
import io
import json
import threading
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from chiron.cases.images import ImageFolder
from chiron.client.call import ImagePart
from chiron.client.images import PictureStore
from chiron.errors import InputError
from chiron.providers.local.tiling import Tiles
from chiron.training.batches import AHEAD, Decoder
from chiron.training.encoding import Encoded, encode_all
from chiron.training.rows import read_rows
from tests.support.waiting import wait_until
from tests.training.tiny import tiny_encoder, tiny_tiling, write_rows


class Data(NamedTuple):
    rows: list[Encoded]
    images: Path

    @property
    def folder(self) -> ImageFolder:
        return ImageFolder(self.images)


@pytest.fixture
def data(tmp_path: Path) -> Data:
    rows = encode_all(read_rows(write_rows(tmp_path, 12)), ImageFolder(tmp_path / "images"), tiny_encoder(), limit=1000)
    return Data(rows, tmp_path / "images")


def decoders() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("decoder")]


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_batches_come_in_order_with_their_tiles(data: Data, workers: int) -> None:
    batches = [[data.rows[i : i + 2], data.rows[i + 2 : i + 3]] for i in range(0, 12, 3)]
    with Decoder(data.folder, tiny_tiling(), workers) as decoder:
        seen = list(decoder.ahead(iter(batches)))
    assert [lines for lines, _ in seen] == batches
    for lines, tiles in seen:
        keys = {(image, count) for line in lines for row in line for image, count in zip(row.images, row.tile_counts, strict=True)}
        assert set(tiles) == keys
        for row in (row for line in lines for row in line):
            for image, count in zip(row.images, row.tile_counts, strict=True):
                expected = tiny_tiling().cut(Image.open(data.images / image), len(row.images))
                np.testing.assert_array_equal(tiles[image, count], expected)
    assert not decoders()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_trained_on_as_it_is_sent(tmp_path: Path, kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "images" / "a.img"
    path.parent.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (3, 7, 3), dtype=np.uint8).repeat(20, 0).repeat(20, 1)
    Image.fromarray(pixels).save(path, kind, exif=exif)
    say = [{"role": "user", "content": "<image>"}, {"role": "assistant", "content": "A."}]
    (tmp_path / "rows.jsonl").write_text(json.dumps({"id": "r", "images": ["a.img"], "messages": say}))
    [row] = encode_all(read_rows(tmp_path / "rows.jsonl"), ImageFolder(path.parent), tiny_encoder(), limit=1000)
    with Decoder(ImageFolder(path.parent), tiny_tiling(), 1) as decoder:
        [(_, tiles)] = decoder.ahead([[[row]]])
    [trained] = tiles.values()
    store, picture = PictureStore(), ImagePart(sha256(path.read_bytes()).hexdigest(), 2000)
    store.add(picture.sha256, path)
    seen = store.image(picture)
    assert seen.size == ((140, 60) if orientation < 5 else (60, 140))
    np.testing.assert_array_equal(trained, tiny_tiling().cut(seen, 1))
    with Image.open(io.BytesIO(base64.b64decode(store.data_url(picture).split(b",")[1]))) as sent:
        assert sent.size == seen.size
        apart = np.abs(tiny_tiling().cut(sent, 1).astype(float) - trained).mean()
    assert apart <= (8 if kind == "JPEG" else 0)  # a JPEG that is turned is written anew


def test_no_more_is_read_ahead_than_agreed(data: Data) -> None:
    read = 0

    def batches() -> Iterator[list[list[Encoded]]]:
        nonlocal read
        for row in data.rows:
            read += 1
            yield [[row]]

    with Decoder(data.folder, tiny_tiling(), 2) as decoder:
        for number, _ in enumerate(decoder.ahead(batches()), start=1):
            assert read == min(12, number + AHEAD)


def test_work_is_done_ahead(data: Data) -> None:
    """While the first batch is in use, the images of the next are decoded."""
    done: list[str] = []

    class Watched(Decoder):
        def _decode(self, key: tuple[str, int], sample: Encoded) -> Tiles:
            tiles = super()._decode(key, sample)
            done.append(sample.id)
            return tiles

    rows = [row for row in data.rows if row.images]
    with Watched(data.folder, tiny_tiling(), 1) as decoder:
        ahead = decoder.ahead([[[row]] for row in rows])
        next(ahead)
        wait_until(lambda: rows[2].id in done)
        assert rows[2].id in done
        assert rows[3].id not in done


def test_text_starts_no_threads(data: Data) -> None:
    text = [row for row in data.rows if not row.images]
    with Decoder(data.folder, tiny_tiling(), 2) as decoder:
        assert list(decoder.ahead([[text]])) == [([text], {})]
        assert not decoders()


def test_an_image_shown_twice_is_decoded_once(data: Data) -> None:
    row = next(row for row in data.rows if row.images)
    with Decoder(data.folder, tiny_tiling(), 1) as decoder:
        [(_, tiles)] = decoder.ahead([[[row, row], [row]]])
    assert len(tiles) == len(row.images)


def test_an_image_gone_bad_names_its_row_when_its_batch_is_due(data: Data) -> None:
    rows = [row for row in data.rows if row.images]
    bad = data.images / rows[1].images[0]
    with Decoder(data.folder, tiny_tiling(), 2) as decoder:
        for damage, why in (
            (bad.read_bytes()[:90], "can no longer be read"),
            (b"nonsense", "can no longer be read"),
            (None, "can no longer be read"),
        ):
            bad.unlink(missing_ok=True)
            if damage is not None:
                bad.write_bytes(damage)
            ahead = decoder.ahead([[[row]] for row in rows])
            assert next(ahead)[0] == [[rows[0]]]
            with pytest.raises(InputError, match=f"row '{rows[1].id}': image '{rows[1].images[0]}' {why}"):
                next(ahead)
        Image.new("RGB", (300, 20)).save(bad)
        with pytest.raises(InputError, match=f"row '{rows[1].id}'.*changed since training began"):
            list(decoder.ahead([[[rows[1]]]]))
    assert not decoders()


def test_names_stay_inside_the_fence(data: Data, tmp_path: Path) -> None:
    row = next(row for row in data.rows if len(row.images) == 1)
    Image.new("RGB", (32, 32)).save(tmp_path / "secret.png")
    (data.images / "link.png").symlink_to(tmp_path / "secret.png")
    for name in ("../secret.png", str(tmp_path / "secret.png"), "link.png"):
        escaped = Encoded(row.id, row.input_ids, row.labels, (name,), (1,))
        with Decoder(data.folder, tiny_tiling(), 1) as decoder, pytest.raises(InputError, match="image folder"):
            list(decoder.ahead([[[escaped]]]))


def test_it_closes_in_the_middle(data: Data) -> None:
    rows = [row for row in data.rows if row.images]
    with Decoder(data.folder, tiny_tiling(), 2) as decoder:
        next(decoder.ahead([[[row]] for row in rows]))
        assert decoders()
    assert not decoders()
    with pytest.raises(RuntimeError, match="after shutdown"):
        next(decoder.ahead([[[rows[0]]]]))
