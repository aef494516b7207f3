"""A packed line is its samples and nothing between them."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from chiron.cases.images import ImageFolder
from chiron.providers.local.tiling import TileKey, Tiles, normalise
from chiron.training.batches import Decoder, PackedBatch, collate
from chiron.training.encoding import IGNORED, Encoded, encode_all
from chiron.training.packing import pack
from chiron.training.rows import read_rows
from tests.training.tiny import model_inputs, tiny_encoder, tiny_model, tiny_tiling, tiny_tokenizer, write_rows

ENCODER = tiny_encoder()
PAD = int(tiny_tokenizer().pad_token_id)
ATTENTIONS = ["sdpa", "eager"]


class Data(NamedTuple):
    rows: list[Encoded]
    folder: Path
    pixels: Mapping[TileKey, Tiles]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """Nine rows: three of text, three with one image, three with several."""
    folder = tmp_path_factory.mktemp("data")
    rows = encode_all(read_rows(write_rows(folder, 9)), ImageFolder(folder / "images"), ENCODER, limit=1000)
    with Decoder(ImageFolder(folder / "images"), tiny_tiling(), 2) as decoder:
        [(_, pixels)] = decoder.ahead([[rows]])
    return Data(rows, folder, pixels)


def packed(data: Data, capacity: int = 900) -> PackedBatch:
    lines = [[data.rows[i] for i in line] for line in pack([len(row.input_ids) for row in data.rows], capacity)]
    assert len(lines) > 1
    assert max(len(line) for line in lines) > 2
    return collate(lines, data.pixels, length=None, pad_id=PAD)


def summed_loss(logits: Tensor, labels: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="sum")


def alone(model: Any, row: Encoded, folder: Path) -> Tensor:
    """Logits of one row as anybody would compute them: no packing, no positions, images cut here and now."""
    tiles = [tiny_tiling().cut(Image.open(folder / "images" / image), len(row.images)) for image in row.images]
    pixels = torch.from_numpy(normalise(np.concatenate(tiles))) if tiles else None
    logits: Tensor = model(input_ids=torch.from_numpy(row.input_ids.astype(np.int64))[None], pixel_values=pixels).logits
    return logits


@pytest.mark.slow
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_packed_losses_and_gradients_are_those_of_single_rows(data: Data, attention: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # All in double precision, so that rounding leaves no difference. Transformers computes the softmax of eager attention in single.
    softmax = torch.nn.functional.softmax
    monkeypatch.setattr(torch.nn.functional, "softmax", lambda scores, dim, **_: softmax(scores, dim))
    model = tiny_model(attention=attention).double()
    batch = packed(data)
    loss = summed_loss(model(**model_inputs(batch)).logits, batch.labels)
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    total = torch.zeros((), dtype=torch.float64)
    for row in data.rows:
        one = summed_loss(alone(model, row, data.folder), torch.from_numpy(row.labels.astype(np.int64))[None])
        one.backward()  # type: ignore[no-untyped-call]
        total += one.detach()
    torch.testing.assert_close(loss.detach(), total, rtol=1e-9, atol=0)
    assert int((batch.labels != IGNORED).sum()) == sum(int((row.labels != IGNORED).sum()) for row in data.rows)
    assert any("vision_tower" in name for name in gradients)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(gradients.pop(name), parameter.grad, rtol=1e-9, atol=1e-12)
    assert not gradients


@pytest.mark.slow
@pytest.mark.parametrize("attention", ATTENTIONS)
@torch.no_grad()
def test_every_sample_of_a_line_has_the_logits_it_has_alone(data: Data, attention: str) -> None:
    """Images of several rows in one line included: tiles are in the order of their tokens."""
    model = tiny_model(attention=attention)
    lines = [data.rows[:5], data.rows[5:]]
    logits = model(**model_inputs(collate(lines, data.pixels, length=None, pad_id=PAD))).logits
    for number, line in enumerate(lines):
        at = 0
        for row in line:
            here = logits[number, at : at + len(row.input_ids)]
            torch.testing.assert_close(here, alone(model, row, data.folder)[0], rtol=0, atol=2e-5)
            at += len(row.input_ids)


@pytest.mark.slow
@pytest.mark.parametrize("attention", ATTENTIONS)
@torch.no_grad()
def test_samples_of_a_line_do_not_see_each_other(data: Data, attention: str) -> None:
    model = tiny_model(attention=attention)
    first, second, third = (data.rows[i] for i in (0, 1, 3))
    letters = np.where(first.input_ids == int(first.input_ids[5]), first.input_ids + 1, first.input_ids)
    other = replace(first, input_ids=letters[::-1].copy())
    size = len(first.input_ids)

    def logits(sample: Encoded, **changes: object) -> Tensor:
        batch = collate([[sample, second, third], [third, sample]], data.pixels, length=None, pad_id=PAD)
        result: Tensor = model(**{**model_inputs(batch), **changes}).logits
        return result

    before, after = logits(first), logits(other)
    assert (before[0, :size] - after[0, :size]).abs().max() > 0.1
    used = size + len(second.input_ids) + len(third.input_ids)
    torch.testing.assert_close(before[0, size:used], after[0, size:used], rtol=0, atol=1e-5)
    start = len(third.input_ids)
    torch.testing.assert_close(before[1, :start], after[1, :start], rtol=0, atol=1e-5)
    # What would leak, so that this test is known to see it: a mask of ones, and the cache that is transformers' default.
    ones = torch.ones(before.shape[:2], dtype=torch.long)
    for leak in ({"attention_mask": ones}, {"use_cache": True}):
        leaked = (logits(first, **leak) - logits(other, **leak))[0, size:used].abs().max()
        assert leaked > 0.01


@torch.no_grad()
def test_padding_is_seen_by_nobody(data: Data) -> None:
    model = tiny_model()
    lines = [data.rows[:2], data.rows[2:3]]
    short = collate(lines, data.pixels, length=None, pad_id=PAD)
    long = collate(lines, data.pixels, length=short.input_ids.shape[1] + 64, pad_id=7)
    for number, line in enumerate(lines):
        used = sum(len(row.input_ids) for row in line)
        a, b = (model(**model_inputs(batch)).logits[number, :used] for batch in (short, long))
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_a_batch_says_what_it_holds(data: Data) -> None:
    lines = [[data.rows[1], data.rows[0]], [data.rows[2]]]
    batch = collate(lines, data.pixels.__getitem__, length=None, pad_id=PAD)
    used = [sum(len(row.input_ids) for row in line) for line in lines]
    width = batch.input_ids.shape[1]
    assert width % 8 == 0
    assert 0 <= width - max(used) < 8
    assert batch.input_ids.dtype == batch.labels.dtype == batch.position_ids.dtype == torch.int64
    for number, line in enumerate(lines):
        assert batch.input_ids[number, : used[number]].tolist() == [token for row in line for token in row.input_ids.tolist()]
        assert batch.labels[number, : used[number]].tolist() == [label for row in line for label in row.labels.tolist()]
    sizes = [len(row.input_ids) for row in lines[0]]
    expected = [i for size in (*sizes, width - used[0]) for i in range(size)]
    assert batch.position_ids[0].tolist() == expected
    assert (batch.input_ids[0, used[0] :] == PAD).all()
    assert (batch.labels[0, used[0] :] == IGNORED).all()
    assert batch.pixel_values is not None
    assert batch.pixel_values.dtype == torch.float32
    assert batch.pixel_values.shape == (sum(sum(row.tile_counts) for row in data.rows[:3]), 3, 32, 32)
    assert int((batch.input_ids == ENCODER.image_ids[1]).sum()) == 4 * len(batch.pixel_values)
    inputs = model_inputs(batch.to("meta"))
    assert inputs["attention_mask"] is None
    assert inputs["use_cache"] is False
    assert inputs["pixel_values"].device.type == inputs["input_ids"].device.type == "meta"


def test_text_has_no_pixels(data: Data) -> None:
    text = [row for row in data.rows if not row.images]

    def never(key: TileKey) -> Tiles:
        raise AssertionError(key)

    batch = collate([text], never, length=None, pad_id=PAD)
    assert batch.pixel_values is None
    with torch.no_grad():
        model = tiny_model()
        model.model.vision_tower.forward = never
        assert model(**model_inputs(batch), labels=batch.labels).loss.isfinite()
    assert batch.to("meta").pixel_values is None


def test_what_is_crooked_is_refused(data: Data) -> None:
    row = data.rows[1]
    with pytest.raises(ValueError, match="a line of"):
        collate([[row]], data.pixels, length=8, pad_id=PAD)
    learned = replace(row, labels=row.input_ids)
    with pytest.raises(ValueError, match=f"row '{row.id}': its first token has a label"):
        collate([[row, learned]], data.pixels, length=None, pad_id=PAD)
    with pytest.raises(ValueError, match=f"row '{row.id}': image .* tiles, but was encoded with"):
        collate([[row]], lambda key: np.zeros((key[1] + 1, 32, 32, 3), np.uint8), length=None, pad_id=PAD)
    assert row.tile_keys() == [(row.images[0], row.tile_counts[0])]
