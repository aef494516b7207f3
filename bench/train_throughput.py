"""Tokens a second of a LoRA training on one device: padded batches as the authors' loader makes them, against this trainer's packed lines.

Random weights at the sizes of InternVL3-2B and -8B and a made-up mixture of lengths. Without a GPU everything is tiny: it shows that the
script runs and that both ways compute the same loss, not what a GPU would do.
"""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bench.table import heading, table
from chiron.providers.local.families.internvl import INTERNVL
from chiron.providers.local.tiling import TileKey, Tiles
from chiron.training.batches import collate
from chiron.training.model import Loss, add_adapter
from chiron.training.packing import bins, order
from chiron.training.recipe import Adapter
from chiron.training.rows import IGNORED, Encoded, trained_tokens

Batches = Sequence[Sequence[Encoded]]
Losses = Callable[[nn.Module, Sequence[Encoded]], Tensor]
BATCH = 4
"""Rows of a padded batch."""
WARM_UP = 2
"""Batches before the clock starts."""


@dataclass(frozen=True)
class Size:
    """One model, and how much of it is measured."""

    name: str
    config: dict[str, Any]
    text: int
    """Tokens of text in the middle row; a quarter has less than half or more than twice of it."""
    sequence: int
    rows: int
    seconds: float
    """Of measuring, for each way."""


def full_size(name: str, hidden: int, mlp: int, heads: int, kv: int) -> Size:
    """InternVL3 as published."""
    vision = {
        "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096, "image_size": [448, 448],
        "patch_size": [14, 14], "attention_bias": True,
    }  # fmt: skip
    text = {
        "model_type": "qwen2", "vocab_size": 151674, "hidden_size": hidden, "intermediate_size": mlp, "num_hidden_layers": 28,
        "num_attention_heads": heads, "num_key_value_heads": kv, "max_position_embeddings": 32768, "tie_word_embeddings": False,
        "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e6},
    }  # fmt: skip
    config = {"vision_config": vision, "text_config": text, "image_token_id": 151667, "tie_word_embeddings": False}
    return Size(name, config, 384, 8192, 512, 60.0)


FULL = (full_size("InternVL3-2B", 1536, 8960, 12, 2), full_size("InternVL3-8B", 3584, 18944, 28, 4))
TINY = Size(
    "tiny",
    {
        "vision_config": {
            "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128, "image_size": [32, 32],
            "patch_size": [4, 4], "attention_bias": True,
        },
        "text_config": {
            "model_type": "qwen2", "vocab_size": 512, "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096, "tie_word_embeddings": False,
        },
        "image_token_id": 500, "image_seq_length": 16, "tie_word_embeddings": False,
    },
    24, 512, 128, 8.0,
)  # fmt: skip


def make_model(size: Size, device: torch.device) -> nn.Module:
    """With a fresh LoRA as the recipes have it, without dropout; base weights in bf16 on a GPU."""
    from transformers import InternVLConfig, InternVLForConditionalGeneration

    torch.manual_seed(0)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    with device:
        model = InternVLForConditionalGeneration._from_config(  # type: ignore[no-untyped-call]  # noqa: SLF001 - as chiron.training.model
            InternVLConfig(**size.config), dtype=dtype, attn_implementation="sdpa"
        )
    return add_adapter(model, Adapter(dropout=0.0)).train()


def mixture(size: Size, a_tile: int) -> list[Encoded]:
    """A third each of text, one image, several images; 1, 3 or 7 tiles; a third of the text is learned."""
    dice = np.random.default_rng(0)
    image_token = size.config["image_token_id"]
    rows = []
    for number in range(size.rows):
        tiles = int(dice.choice([1, 3, 7])) if number % 3 else 0
        text = max(6, int(size.text * np.exp(dice.normal(0, 1.0))))
        text = min(text, size.sequence - tiles * a_tile)
        words = dice.integers(3, 400, size=text, dtype=np.int32)
        ids: NDArray[np.int32] = np.concatenate([words[:2], np.full(tiles * a_tile, image_token, np.int32), words[2:]])
        labels = np.full_like(ids, IGNORED)
        labels[-(text // 3) :] = ids[-(text // 3) :]
        images = (f"image-{number}",) if tiles else ()
        rows.append(Encoded(f"row-{number}", ids, labels, images, (tiles,) if tiles else ()))
    return rows


def padded_batches(rows: list[Encoded], a_tile: int) -> Batches:
    """Shuffled, and sorted within fifty batches by what the authors' loader takes for a length.

    It counts the same number of image tokens for every row, so text alone decides.
    """
    shuffled = order(len(rows), seed=0, epoch=0)
    span = 50 * BATCH
    batches = []
    for start in range(0, len(shuffled), span):
        members = sorted(shuffled[start : start + span], key=lambda i: len(rows[i].input_ids) - sum(rows[i].tile_counts) * a_tile)
        batches += [[rows[i] for i in members[at : at + BATCH]] for at in range(0, len(members), BATCH)]
    return [batches[i] for i in order(len(batches), seed=1, epoch=0)]


def padded_loss(pixels: Callable[[TileKey], Tiles], side: int) -> Losses:
    """Rows beside each other, padding masked, logits everywhere; a batch of text alone runs a blank tile."""

    def loss(model: nn.Module, rows: Sequence[Encoded]) -> Tensor:
        device = next(model.parameters()).device
        batch = collate([[row] for row in rows], pixels, length=None, pad_id=0).to(device)
        lengths = torch.tensor([len(row.input_ids) for row in rows], device=device)
        mask = torch.arange(batch.input_ids.shape[1], device=device)[None] < lengths[:, None]
        inner: Any = model.get_base_model()  # type: ignore[operator]
        logits = inner(input_ids=batch.input_ids, attention_mask=mask.long(), pixel_values=batch.pixel_values, use_cache=False).logits
        targets = batch.labels[:, 1:].reshape(-1)
        summed = nn.functional.cross_entropy(
            logits[:, :-1].reshape(len(targets), -1).float(), targets, ignore_index=IGNORED, reduction="sum"
        )
        if batch.pixel_values is None:
            blank = torch.zeros(1, 3, side, side, device=device)
            summed = summed + 0.0 * inner.model.vision_tower(blank).last_hidden_state.float().sum()
        return summed

    return loss


def packed_loss(pixels: Callable[[TileKey], Tiles]) -> Losses:
    """As the trainer does it."""

    def loss(model: nn.Module, rows: Sequence[Encoded]) -> Tensor:
        batch = collate([rows], pixels, length=None, pad_id=0).to(next(model.parameters()).device)
        summed: Tensor = Loss(model)(batch.input_ids, batch.position_ids, batch.labels, batch.pixel_values)
        return summed

    return loss


@dataclass(frozen=True)
class Found:
    """What one way did."""

    tokens_a_second: float
    """Real ones."""
    flops_a_second: float
    """Useful ones."""
    gib: float
    used: float
    """Share of positions that held a token."""
    loss: float
    """A trained token, over all rows, before training."""


def measure(model: nn.Module, size: Size, batches: Batches, losses: Losses, *, padded: bool) -> Found:
    """Optimizer steps of one batch each, over and over, for the time given; then, the steps undone, the loss."""
    device = next(model.parameters()).device
    began_with = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    with torch.no_grad(), _autocast(device):
        summed = sum(float(losses(model, batch)) for batch in batches)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=4e-5)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    tokens, flops, began = 0, 0.0, 0.0
    for number, batch in enumerate(_forever(batches)):
        if number == WARM_UP:
            began = _now(device)
            tokens, flops = 0, 0.0
        with _autocast(device):
            loss = losses(model, batch) / max(1, sum(trained_tokens(r) for r in batch))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        tokens += sum(len(r.input_ids) for r in batch)
        flops += useful(model, batch)
        if number > WARM_UP and _now(device) - began > size.seconds:
            break
    took = _now(device) - began
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.requires_grad:
                p.copy_(began_with[name])
    gib = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0
    real = sum(len(r.input_ids) for batch in batches for r in batch)
    positions = sum(_positions(batch, padded=padded) for batch in batches)
    return Found(tokens / took, flops / took, gib, real / positions, summed / sum(trained_tokens(r) for batch in batches for r in batch))


def useful(model: nn.Module, rows: Sequence[Encoded]) -> float:
    """Operations that the adapter's gradients need: tower forward, language model there and back, head on learned tokens."""
    inner: Any = model.get_base_model()  # type: ignore[operator]
    language = sum(p.numel() for name, p in inner.model.language_model.layers.named_parameters() if "lora_" not in name)
    tower = sum(p.numel() for p in inner.model.vision_tower.parameters())
    text = inner.config.text_config
    a_tile = 2 * tower * (4 * INTERNVL.tokens_per_tile(inner.config) + 1)
    tiles = sum(sum(row.tile_counts) for row in rows)
    head = 4 * text.vocab_size * text.hidden_size * sum(trained_tokens(row) for row in rows)
    return float(4 * language * sum(len(row.input_ids) for row in rows) + tiles * a_tile + head)


def matmul_peak(device: torch.device) -> float:
    """Operations a second of large matrix products: bf16 on a GPU, fp32 on a CPU."""
    side, dtype = (8192, torch.bfloat16) if device.type == "cuda" else (1024, torch.float32)
    one = torch.randn(side, side, device=device, dtype=dtype)
    for _ in range(3):
        one @ one
    began, count = _now(device), 0
    while _now(device) - began < 1.0:
        for _ in range(5):
            one @ one
        count += 5
    return count * 2 * side**3 / (_now(device) - began)


def main() -> None:
    """Print the tables."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    heading("Training throughput")
    if device.type == "cpu":
        print("No GPU here: a tiny model in fp32, to see that both ways run and agree. Its figures say nothing of a GPU.\n")
    peak = matmul_peak(device)
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"matmul peak, measured: {peak / 1e12:.3g} TFLOP/s ({where}); TRL is not measured here\n")
    rows_of_table: list[list[object]] = []
    for size in FULL if device.type == "cuda" else (TINY,):
        rows_of_table += compare(size, device, peak)
        gc.collect()
        torch.cuda.empty_cache()
    table(["model", "way", "real tokens/s", "useful FLOPs, share of peak", "peak GiB", "positions in use", "loss before"], rows_of_table)


def compare(size: Size, device: torch.device, peak: float) -> list[list[object]]:
    """A row each for padded and packed, and one with their ratio."""
    model = make_model(size, device)
    inner: Any = model.get_base_model()  # type: ignore[operator]
    a_tile = INTERNVL.tokens_per_tile(inner.config)
    rows = mixture(size, a_tile)
    side = size.config["vision_config"]["image_size"][0]
    noise = np.random.default_rng(1).integers(0, 255, size=(7, side, side, 3), dtype=np.uint8)

    def pixels(key: TileKey) -> Tiles:
        return noise[: key[1]]

    packed = [[rows[i] for i in line] for line in bins([len(r.input_ids) for r in rows], size.sequence, seed=0, epoch=0)]
    ways = {
        "padded": measure(model, size, padded_batches(rows, a_tile), padded_loss(pixels, side), padded=True),
        "packed": measure(model, size, packed, packed_loss(pixels), padded=False),
    }
    told: list[list[object]] = [
        [size.name, way, round(f.tokens_a_second), f"{f.flops_a_second / peak:.1%}", f.gib or "-", f"{f.used:.1%}", f"{f.loss:.5f}"]
        for way, f in ways.items()
    ]
    ratio = ways["packed"].tokens_a_second / ways["padded"].tokens_a_second
    return [*told, [size.name, "packed / padded", f"{ratio:.2f}", "", "", "", f"{ways['packed'].loss - ways['padded'].loss:+.1e}"]]


def _positions(batch: Sequence[Encoded], *, padded: bool) -> int:
    lengths = [len(row.input_ids) for row in batch]
    wide = max(lengths) if padded else sum(lengths)
    return -(-wide // 8) * 8 * (len(batch) if padded else 1)


def _forever(batches: Batches) -> Iterator[Sequence[Encoded]]:
    while True:
        yield from batches


def _autocast(device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
