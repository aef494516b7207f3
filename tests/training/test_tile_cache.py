"""Decoded images on disk: training with them is the same, whatever happens to the files, the disk or other processes."""

import errno
import hashlib
import io
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from chiron.cases.images import ImageFolder
from chiron.client.images import upright
from chiron.errors import InputError
from chiron.providers.local.tiling import Tiling
from chiron.training.batches import Decoder
from chiron.training.encoding import Encoded, encode_all
from chiron.training.metrics import read_metrics
from chiron.training.recipe import Recipe
from chiron.training.rows import read_rows
from chiron.training.session import prepare, train
from chiron.training.tile_cache import RULES, TileCache
from tests.training.tiny import tiny_encoder, tiny_model, tiny_tiling, tiny_tokenizer, write_rows

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

MIB = 2**20


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_rows(folder / "data", 9, ("one", "text", "several"))
    tiny_model().save_pretrained(folder / "base")
    tiny_tokenizer().save_pretrained(folder / "base")
    return folder


def recipe_of(world: Path, **changes: Any) -> Recipe:
    stage = {"name": "cot", "data": "rows.jsonl", "epochs": 2, "batch": {"rows": 3}, "learning_rate": 1e-2, "held_out": "rows.jsonl"}
    values: dict[str, Any] = {
        "name": "tiny", "base": str(world / "base"), "adapter": {"rank": 4, "dropout": 0.1}, "images": {"tile": 32},
        "max_seq_length": 512, "precision": "fp32", "checkpoint_every": 2, "stages": [stage],
    }  # fmt: skip
    return Recipe.model_validate({**values, **changes})


def run(world: Path, out: Path, **changes: Any) -> tuple[list[Any], dict[str, torch.Tensor]]:
    train(prepare(recipe_of(world, **changes), world / "data"), out)
    losses = [line.get("loss", line.get("held_out_loss")) for line in read_metrics(out / "metrics.jsonl")]
    return losses, load_file(out / "model" / "model.safetensors")


def equal(one: Any, other: Any) -> bool:
    return one[0] == other[0] and all(torch.equal(one[1][name], weight) for name, weight in other[1].items())


@pytest.fixture(scope="module")
def plain(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return run(world, tmp_path_factory.mktemp("plain"))


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def rows(world: Path) -> list[Encoded]:
    return encode_all(read_rows(world / "data" / "rows.jsonl"), ImageFolder(world / "data" / "images"), tiny_encoder(), limit=1000)


def decoded(world: Path, rows: list[Encoded], cache: TileCache | None) -> list[bytes]:
    with Decoder(ImageFolder(world / "data" / "images"), tiny_tiling(), 2, cache=cache) as decoder:
        return [tiles[key].tobytes() for _, tiles in decoder.ahead([[[row]] for row in rows]) for key in sorted(tiles)]


def no_decoding(*_: object) -> None:
    raise AssertionError("an image was decoded")


def test_losses_and_weights_are_the_same_to_the_bit_and_later_epochs_decode_nothing(
    world: Path, plain: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[object] = []

    def decode(image: Image.Image) -> Image.Image:
        opened.append(image)
        return upright(image)

    monkeypatch.setattr("chiron.training.batches.upright", decode)
    assert equal(run(world, tmp_path / "first", tile_cache=str(tmp_path / "tiles")), plain)
    images = {path.name for path in files(tmp_path / "tiles")}
    assert len(opened) == len(images) > 6
    monkeypatch.setattr("chiron.training.batches.upright", no_decoding)
    assert equal(run(world, tmp_path / "second", tile_cache=str(tmp_path / "tiles")), plain)
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in files(tmp_path / "tiles"))


def test_a_run_may_be_resumed_with_another_cache_or_none(world: Path, plain: Any, tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def kill(line: Any) -> None:
        if getattr(line, "total_steps", 0) == 3:
            raise Killed

    with pytest.raises(Killed):
        train(prepare(recipe_of(world, tile_cache=str(tmp_path / "tiles")), world / "data"), tmp_path / "out", watch=kill)
    assert equal(run(world, tmp_path / "out"), plain)


@pytest.mark.parametrize("damage", ["cut", "empty", "zeros", "one bit"])
def test_a_damaged_file_is_made_again_with_a_warning(
    world: Path, rows: list[Encoded], tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    wanted = decoded(world, rows, None)
    assert decoded(world, rows, TileCache(tmp_path, tiny_tiling(), MIB)) == wanted
    whole = {path: path.read_bytes() for path in files(tmp_path)}
    path, content = next(iter(whole.items()))
    flipped = content[:-1] + bytes([content[-1] ^ 1])
    path.write_bytes({"cut": content[:100], "empty": b"", "zeros": bytes(len(content)), "one bit": flipped}[damage])
    assert decoded(world, rows, TileCache(tmp_path, tiny_tiling(), 2 * MIB)) == wanted
    assert [record.getMessage() for record in caplog.records] == [f"{path} is damaged: its image is decoded again"]
    assert {path: path.read_bytes() for path in files(tmp_path)} == whole


WRITER = """
import sys
from pathlib import Path
from chiron.cases.images import ImageFolder
from chiron.training.batches import Decoder
from chiron.training.encoding import encode_all
from chiron.training.rows import read_rows
from chiron.training.tile_cache import TileCache
from tests.training.tiny import tiny_encoder, tiny_tiling
import os, signal

data, folder, kill = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "kill"
rows = encode_all(read_rows(data / "rows.jsonl"), ImageFolder(data / "images"), tiny_encoder(), limit=1000)
cache = TileCache(folder, tiny_tiling(), 2**20, writers=2)
if kill:
    def die(handle, mode, **_):
        os.write(handle, b"half of")
        os.kill(os.getpid(), signal.SIGKILL)
    os.fdopen = die
print("ready", flush=True)
sys.stdin.readline()
with Decoder(ImageFolder(data / "images"), tiny_tiling(), 2, cache=cache) as decoder:
    for _ in decoder.ahead([[[row]] for row in rows]):
        pass
"""


def start(world: Path, folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root / "src"), str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-c", WRITER, str(world / "data"), str(folder), *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path})


def test_processes_that_write_at_once_leave_whole_files(
    world: Path, rows: list[Encoded], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processes = [start(world, tmp_path, "go") for _ in range(2)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    wanted = decoded(world, rows, None)
    monkeypatch.setattr("chiron.training.batches.upright", no_decoding)
    assert decoded(world, rows, TileCache(tmp_path, tiny_tiling(), MIB)) == wanted


def test_a_kill_in_the_midst_of_a_file_leaves_nothing_that_is_read(world: Path, rows: list[Encoded], tmp_path: Path) -> None:
    process = start(world, tmp_path, "kill")
    process.communicate("go\n")
    assert process.returncode == -signal.SIGKILL
    left = files(tmp_path)
    assert left
    assert all(path.name.startswith(".") for path in left)
    for path in left:
        os.utime(path, (0, 0))  # of long ago
    assert decoded(world, rows, TileCache(tmp_path, tiny_tiling(), MIB)) == decoded(world, rows, None)
    assert not set(left) & set(files(tmp_path))


def test_the_folder_stays_within_its_size_and_training_goes_on(
    world: Path, plain: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    limit = 30_000
    found = run(world, tmp_path / "out", tile_cache=str(tmp_path / "tiles"), tile_cache_gib=limit / 2**30)
    assert equal(found, plain)
    assert 0 < sum(path.stat().st_size for path in files(tmp_path / "tiles")) <= limit
    (told,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "has reached 2.79e-05 GiB" in told
    assert "raise tile_cache_gib" in told


def test_several_processes_share_what_is_free(world: Path, rows: list[Encoded], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        decoded(world, rows, TileCache(tmp_path, tiny_tiling(), 50_000, writers=3))
    assert 0 < sum(path.stat().st_size for path in files(tmp_path)) <= 50_000
    assert "has taken this process's share of 4.66e-05 GiB (one of 3 processes)" in caplog.records[0].getMessage()


Usage = namedtuple("Usage", "total used free")  # noqa: PYI024 - as shutil's


@pytest.mark.parametrize("problem", ["full", "nearly full"])
def test_a_full_disk_is_said_once_and_training_goes_on(
    world: Path, plain: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, problem: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if problem == "full":
        monkeypatch.setattr("pathlib.Path.replace", full)
        (tmp_path / "tiles").mkdir()
        cache = TileCache(tmp_path / "tiles", tiny_tiling(), MIB)
        rows = encode_all(read_rows(world / "data" / "rows.jsonl"), ImageFolder(world / "data" / "images"), tiny_encoder(), limit=1000)
        assert decoded(world, rows, cache) == decoded(world, rows, None)
        words = "cannot be written (No space left on device)"
    else:
        monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(100 * 2**30, 91 * 2**30, 9 * 2**30))
        assert equal(run(world, tmp_path / "out", tile_cache=str(tmp_path / "tiles")), plain)
        words = "its disk has only 9 GiB free"
    (told,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert words in told
    assert "training continues" in told
    assert "free space on its disk" in told
    assert not files(tmp_path / "tiles")


def test_other_pixels_have_another_file(world: Path, rows: list[Encoded], tmp_path: Path) -> None:
    image = (world / "data" / "images" / rows[0].images[0]).read_bytes()
    tiling = tiny_tiling()
    made: list[int] = []

    def ask(tiling: Any, content: bytes = image, grid: tuple[int, int] = (1, 1), n_images: int = 1) -> None:
        def make() -> Any:
            made.append(1)
            return torch.zeros(1, 2).numpy()

        TileCache(tmp_path, tiling, MIB).tiles(content, grid, n_images, make)

    for given in (
        {}, {"grid": (1, 2)}, {"n_images": 6}, {"content": image + b"."}, {"tiling": type(tiling)(tile=32, thumbnail=False)},
        {"tiling": type(tiling)(tile=16)},
    ):  # fmt: skip
        before = len(made)
        ask(**{"tiling": tiling, **given})  # type: ignore[arg-type]
        ask(**{"tiling": tiling, **given})  # type: ignore[arg-type]
        assert len(made) == before + 1


def _image(mode: str, orientation: int | None, size: tuple[int, int]) -> Image.Image:
    """Return an image whose file needs no lossy decoder, so that its pixels depend on our code and Pillow alone."""
    width, height = size
    across, down = np.meshgrid(np.arange(width), np.arange(height))
    pixels: dict[str, Any] = {
        "I;16": (across * 37 + down * 91 + 700).astype(np.uint16),
        "RGB": np.stack([across, down, across ^ down], 2).astype(np.uint8),
    }
    note = Image.Exif()
    if orientation is not None:
        note[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(pixels[mode]).save(file, "PNG", exif=note)
    return Image.open(file)


PIXELS = {
    ("RGB", 6, (90, 40)): "cf5b642c2bb58489",
    ("I;16", None, (50, 70)): "ccaec4219606914f",
    ("I;16", None, (1500, 700)): "e6701b958b987522",
}


@pytest.mark.parametrize("image", PIXELS)
def test_pixels_are_those_of_the_rules_in_the_key(image: tuple[str, int | None, tuple[int, int]]) -> None:
    """Otherwise a cache of an earlier version would return pixels that this version does not make."""
    with _image(*image) as opened:
        pixels = Tiling(tile=32, max_tiles=6).cut(upright(opened), 1)
    found = hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).hexdigest()[:16]
    assert found == PIXELS[image], "pixels changed: raise RULES in tile_cache.py (not if only Pillow changed) and write the new hashes here"


def test_other_rules_have_another_file(world: Path, rows: list[Encoded], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = decoded(world, rows, TileCache(tmp_path, tiny_tiling(), MIB))
    before = files(tmp_path)
    monkeypatch.setattr("chiron.training.tile_cache.RULES", RULES + 1)
    assert decoded(world, rows, TileCache(tmp_path, tiny_tiling(), 2 * MIB)) == wanted
    assert len(files(tmp_path)) == 2 * len(before)


def test_an_image_that_was_replaced_is_not_taken_from_the_cache(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "data", tmp_path / "data")
    rows = encode_all(read_rows(tmp_path / "data" / "rows.jsonl"), ImageFolder(tmp_path / "data" / "images"), tiny_encoder(), limit=1000)
    decoded(tmp_path, rows, TileCache(tmp_path / "tiles", tiny_tiling(), MIB))
    Image.new("RGB", (300, 20)).save(tmp_path / "data" / "images" / rows[0].images[0])
    with pytest.raises(InputError, match="has changed since training began"):
        decoded(tmp_path, rows, TileCache(tmp_path / "tiles", tiny_tiling(), MIB))


def test_a_folder_that_cannot_be_written_is_an_error_before_training(world: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"tile_cache .*file cannot be written \(.*\): choose another folder, or remove the key"):
        run(world, tmp_path / "out", tile_cache=str(tmp_path / "file"))
    assert not (tmp_path / "out").exists()
