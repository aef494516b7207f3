"""Tokens a second of a LoRA training on one device: padded batches as the authors' loader makes them, against this trainer's packed lines.

Random weights at the sizes of InternVL3-2B and -8B and a made-up mixture of lengths. Without a GPU, see :mod:`bench.train_families`.
"""

import gc
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bench.table import heading, table
from chiron.providers.local.families.family import ModelFamily
from chiron.providers.local.families.internvl import INTERNVL
from chiron.providers.local.tiling import ImageLayout, TileKey, Tiles, Tiling
from chiron.training.attention import use_attention
from chiron.training.batches import collate
from chiron.training.encoding import IGNORED, Encoded, trained_tokens
from chiron.training.estimate import matmul_peak
from chiron.training.known_bases import KNOWN_BASES
from chiron.training.loop import memory_gib
from chiron.training.model import Loss, add_adapter, compile_layers, language_layers, plain, recompute, recompute_only
from chiron.training.packing import bins, order
from chiron.training.recipe import Adapter, Attention, Recipe
from chiron.training.resources import Operations, predict_memory

Batches = Sequence[Sequence[Encoded]]
Inputs = dict[str, Tensor]
Losses = Callable[[nn.Module, Sequence[Encoded]], Tensor]
ADAPTER = {"language": 2, "attention": 3, "head": 2, "vision": 1}
"""Passes that training an adapter of the language model needs (:func:`~chiron.training.resources.passes_of`)."""
BATCH = 4
"""Rows of a padded batch."""
WARM_UP = 4
"""Batches before the clock starts. Compiled code is made in them."""


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


def _published(name: str) -> Size:
    config = {**KNOWN_BASES[f"OpenGVLab/{name}-hf"], "image_token_id": 151667}
    return Size(name, config, text=384, sequence=8192, rows=512, seconds=60.0)


FULL = (_published("InternVL3-2B"), _published("InternVL3-8B"))


def make_model(size: Size, device: torch.device) -> nn.Module:
    """With a fresh LoRA as the recipes have it, without dropout; base weights in bf16."""
    from transformers import InternVLConfig, InternVLForConditionalGeneration

    torch.manual_seed(0)
    with device:
        model = InternVLForConditionalGeneration._from_config(  # type: ignore[no-untyped-call]  # noqa: SLF001 - as chiron.training.model
            InternVLConfig(**size.config), dtype=torch.bfloat16, attn_implementation="sdpa"
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
    """Rows beside each other, logits everywhere; a batch of text alone runs a blank tile.

    No mask: padding follows the rows, and causal attention does not see it. A mask would make this way slower.
    """

    def loss(model: nn.Module, rows: Sequence[Encoded]) -> Tensor:
        device = next(model.parameters()).device
        batch = collate([[row] for row in rows], pixels, length=None, pad_id=0).to(device)
        inner: Any = plain(model)
        logits = inner(input_ids=batch.input_ids, pixel_values=batch.pixel_values, use_cache=False).logits
        targets = batch.labels[:, 1:].reshape(-1)
        summed = nn.functional.cross_entropy(
            logits[:, :-1].reshape(len(targets), -1).float(), targets, ignore_index=IGNORED, reduction="sum"
        )
        if batch.pixel_values is None:
            blank = torch.zeros(1, 3, side, side, device=device)
            summed = summed + 0.0 * inner.model.vision_tower(blank).last_hidden_state.float().sum()
        return summed

    return loss


def packed_loss(pixels: Callable[[TileKey], Tiles], layout: ImageLayout | None = None) -> Losses:
    """As the trainer does it."""

    def loss(model: nn.Module, rows: Sequence[Encoded]) -> Tensor:
        batch = collate([rows], pixels, length=None, pad_id=0, layout=layout, raw=True).to(next(model.parameters()).device)
        summed: Tensor = Loss(model)(**batch.loss_inputs())
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
    """A trained token of the first batch, before training."""
    steps: int


def measure(model: nn.Module, seconds: float, batches: Batches, losses: Losses, *, padded: bool, family: ModelFamily = INTERNVL) -> Found:
    """Optimizer steps of one batch each, over and over, for the time given; then, the steps undone."""
    device = next(model.parameters()).device
    began_with = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=4e-5, fused=True)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    counted = Operations.of(model, family)
    tokens, flops, began, seen, summed, labels = 0, 0.0, 0.0, 0, 0.0, 0
    # The same rows in each way: the batches of the warm-up are trained again at the end of a round.
    for number, batch in enumerate(_forever(batches)):
        if number == WARM_UP:
            began = _now(device)
            tokens, flops, seen = 0, 0.0, 0
        with _autocast(device):
            loss = losses(model, batch)
        count = sum(trained_tokens(r) for r in batch)
        if number == 0:
            summed, labels = loss.item(), count
        (loss / max(1, count)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        tokens += sum(len(r.input_ids) for r in batch)
        flops += sum(counted.useful(batch, ADAPTER).values())
        seen += 1
        if number > WARM_UP and _now(device) - began > seconds:
            break
    took = _now(device) - began
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.requires_grad:
                p.copy_(began_with[name])
    real = sum(len(r.input_ids) for batch in batches for r in batch)
    positions = sum(_positions(batch, padded=padded) for batch in batches)
    return Found(tokens / took, flops / took, memory_gib(), real / positions, summed / max(1, labels), seen)


def padded_inputs(
    rows: Sequence[Encoded], pixels: Callable[[TileKey], Tiles], family: ModelFamily, layout: ImageLayout, config: Any
) -> Inputs:
    """What transformers' own processors make of a padded batch, with labels."""
    batch = collate([[row] for row in rows], pixels, length=None, pad_id=0, layout=layout)
    lengths = torch.tensor([len(row.input_ids) for row in rows])
    mask = (torch.arange(batch.input_ids.shape[1])[None] < lengths[:, None]).long()
    found: Inputs = {"input_ids": batch.input_ids, "attention_mask": mask, "labels": batch.labels}
    images = {"pixel_values": batch.pixel_values, "image_grid_thw": batch.image_grid_thw}
    found |= {name: value for name, value in images.items() if value is not None}
    return found | family.token_types(config, batch.input_ids)


def measure_trl(
    model: Any,
    seconds: float,
    rows: list[Encoded],
    inputs: Callable[[Sequence[Encoded]], Inputs],
    *,
    family: ModelFamily = INTERNVL,
    order: str = "random",
) -> Found:
    """TRL's own trainer on the rows in its own order: padded batches, and its own loss and measurements.

    ``inputs``: :func:`padded_inputs`. ``order``: "random" or "group_by_length".
    """
    import datasets
    import trl
    from transformers import TrainerCallback

    device = next(model.parameters()).device
    gpu = device.type == "cuda"
    began_with = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    counted = Operations.of(model, family)
    seen: dict[str, Any] = {"tokens": 0, "flops": 0.0, "began": 0.0, "steps": 0, "batches": []}

    def collator(examples: list[dict[str, int]]) -> Inputs:
        members = [rows[example["row"]] for example in examples]
        seen["batches"].append(members)
        return inputs(members)

    class Clock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            del args, state, kwargs
            seen["steps"] += 1
            if seen["steps"] == WARM_UP:
                seen["began"] = _now(device)
            elif seen["steps"] > WARM_UP:
                members = seen["batches"][seen["steps"] - 1]
                seen["tokens"] += sum(len(r.input_ids) for r in members)
                seen["flops"] += sum(counted.useful(members, ADAPTER).values())
                if _now(device) - seen["began"] > seconds:
                    control.should_training_stop = True

    if gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as folder:
        args = trl.SFTConfig(  # type: ignore[attr-defined]
            output_dir=folder, per_device_train_batch_size=BATCH, max_steps=10_000, bf16=gpu, use_cpu=not gpu, gradient_checkpointing=False,
            report_to=[], save_strategy="no", learning_rate=4e-5, remove_unused_columns=False, max_length=None,
            dataset_kwargs={"skip_prepare_dataset": True}, dataloader_num_workers=0, logging_strategy="no", disable_tqdm=True,
            train_sampling_strategy=order,
        )  # fmt: skip
        data = datasets.Dataset.from_list([{"row": number, "length": len(row.input_ids)} for number, row in enumerate(rows)])
        trainer: Any = trl.SFTTrainer(  # type: ignore[attr-defined]
            model=model, args=args, train_dataset=data, data_collator=collator, processing_class=_words(), callbacks=[Clock()]
        )
        trainer.train()
    took = _now(device) - seen["began"]
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name in began_with:
                p.copy_(began_with[name])
    used = sum(len(r.input_ids) for m in seen["batches"] for r in m) / sum(_positions(m, padded=True) for m in seen["batches"])
    return Found(seen["tokens"] / took, seen["flops"] / took, memory_gib(), used, float("nan"), seen["steps"] - WARM_UP)


def _words() -> Any:
    """A tokenizer that TRL wants to see, although the rows are encoded already."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({"[UNK]": 0, "[EOS]": 1}, unk_token="[UNK]"))  # noqa: S106 - not a password
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        eos_token="[EOS]",  # noqa: S106
        pad_token="[UNK]",  # noqa: S106
    )


def main(arguments: Sequence[str] = ()) -> None:
    """Print the table.

    ``arguments``: names of sizes, or of families without a GPU; ``--seconds N`` for each way; ``--ways A,B``: parts of their names.
    """
    given = list(arguments)
    seconds = float(given.pop(given.index("--seconds") + 1)) if "--seconds" in given else None
    ways = given.pop(given.index("--ways") + 1).split(",") if "--ways" in given else []
    names = [name for name in given if not name.startswith("--")]
    if not torch.cuda.is_available():
        from bench.train_families import compare_families

        compare_families(names, seconds or 10.0, ways)
        return
    device = torch.device("cuda")
    heading("Training throughput")
    peak = matmul_peak(device)
    print(f"matmul peak, measured: {peak / 1e12:.3g} TFLOP/s ({torch.cuda.get_device_name()})\n", flush=True)
    columns = ["model", "way", "real tokens/s", "useful TFLOP/s", "share of peak", "peak GiB", "positions in use", "first loss", "steps"]
    told = []
    for size in (size for size in FULL if not names or size.name in names):
        told += compare(replace(size, seconds=seconds or size.seconds), device, peak, ways)
        gc.collect()
        torch.cuda.empty_cache()
    table(columns, told)


def compare(size: Size, device: torch.device, peak: float, wanted: Sequence[str] = ()) -> list[list[object]]:
    """A row for each way."""
    model = make_model(size, device)
    inner: Any = plain(model)
    a_tile = INTERNVL.tokens_per_tile(inner.config)
    rows = mixture(size, a_tile)
    side = size.config["vision_config"]["image_size"][0]
    noise = np.random.default_rng(1).integers(0, 255, size=(7, side, side, 3), dtype=np.uint8)

    def pixels(key: TileKey) -> Tiles:
        return noise[: key[1]]

    def ours(attention: Attention) -> Found:
        use_attention(inner, Recipe.model_construct(attention=attention, precision="bf16"))
        return measure(model, size.seconds, packed, packed_loss(pixels), padded=False)

    packed = [[rows[i] for i in line] for line in bins([len(r.input_ids) for r in rows], size.sequence, seed=0, epoch=0)]
    padded = padded_batches(rows, a_tile)
    inputs = partial(padded_inputs, pixels=pixels, family=INTERNVL, layout=Tiling(side), config=inner.config)
    ways: dict[str, Callable[[], Found]] = {
        "authors' loader: padded": lambda: measure(model, size.seconds, padded, padded_loss(pixels, side), padded=True),
        "TRL's trainer: padded": lambda: measure_trl(model, size.seconds, rows, inputs),
        "packed, sdpa": lambda: ours("sdpa"),
        "packed, varlen": lambda: ours("varlen"),
        "packed, flex_attention": lambda: ours("flex_attention"),
    }
    told = [_told(size, way, peak, run) for way, run in ways.items() if not wanted or any(word in way for word in wanted)]
    recipe = Recipe.model_construct(max_seq_length=size.sequence, micro_batch_size=1, precision="bf16")
    predicted = predict_memory(Loss(model), recipe, device)
    peaks = {n: round(predicted.peak(n) / 2**30, 1) for n in (0, predicted.layers)}
    print(f"predicted memory, GiB, by the number of layers that compute their activations again: {peaks}", flush=True)
    recompute(inner)
    told.append(_told(size, "packed, varlen, all recomputed", peak, lambda: ours("varlen")))
    recompute_only(model, 0)
    compile_layers(model)
    told.append(_told(size, "packed, varlen, compiled", peak, lambda: ours("varlen")))
    recompute_only(model, len(language_layers(model)))
    return [*told, _told(size, "packed, varlen, compiled, all recomputed", peak, lambda: ours("varlen"))]


def _told(size: Size, way: str, peak: float, run: Callable[[], Found]) -> list[object]:
    """A row of the table; printed at once, because a run on a lent machine can be cut off."""
    began = time.perf_counter()
    try:
        f = run()
    except Exception as error:  # noqa: BLE001 - a way that does not run here is told, and the others are measured
        row: list[object] = [size.name, way, *[f"{type(error).__name__}: {error}"[:300].replace("\n", " ")], *[""] * 6]
        print(row, flush=True)
        traceback.print_exc()
        return row
    row = [size.name, way, round(f.tokens_a_second), round(f.flops_a_second / 1e12, 4), f"{f.flops_a_second / peak:.1%}"]
    row += [round(f.gib, 1), f"{f.used:.1%}", f"{f.loss:.5f}", f.steps]
    print(row, f"{time.perf_counter() - began:.0f} s with warm-up", flush=True)
    return row


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
    main(sys.argv[1:])
