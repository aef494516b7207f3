"""Tokens a second and peak memory of a LoRA training of every family on a CPU: packed lines against TRL's padded batches.

Random weights, sized so that the language model carries the load; made-up rows, a third each of text, one image and several images. Each
way runs in a process of its own, so that its peak memory is its own.
"""

import json
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.table import heading, table

FAMILIES = ("internvl", "internvl3_5", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "gemma3", "idefics3", "smolvlm")
WAYS = ("TRL: padded", "TRL: padded, by length", "packed, sdpa", "packed, varlen")
HIDDEN, LAYERS, HEADS = 384, 6, 6
ROWS, SEQUENCE = 96, 1024


def write_base(folder: Path, kind: str) -> None:
    """A checkpoint of the tests with a larger language model."""
    import torch
    import transformers
    from transformers import AutoConfig

    from chiron.providers.local.loading import no_bars
    from tests.providers.local.checkpoints import write_family

    with no_bars():
        write_family(folder, kind)
    config = AutoConfig.from_pretrained(folder)
    text, vision = config.get_text_config(), config.vision_config
    text.update({"hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": 2})
    text.update({"intermediate_size": 3 * HIDDEN, "max_position_embeddings": 4 * SEQUENCE, "head_dim": HIDDEN // HEADS})
    if "mrope_section" in (rope := dict(text.rope_parameters or {})):
        text.rope_parameters = {**rope, "mrope_section": [8, 12, 12]}
    if kind == "gemma3":
        text.update({"layer_types": ["sliding_attention"] * (LAYERS - 1) + ["full_attention"], "sliding_window": SEQUENCE // 2})
    elif getattr(text, "layer_types", None) is not None:
        text.layer_types = ["full_attention"] * LAYERS
    if kind == "qwen2_vl":
        vision.hidden_size = HIDDEN  # of the tokens that the tower gives
    elif kind.startswith("qwen"):
        vision.out_hidden_size = HIDDEN
    torch.manual_seed(0)
    with no_bars():
        getattr(transformers, config.architectures[0])(config).save_pretrained(folder)


def write_mixture(folder: Path) -> None:
    """Rows with texts of log-normal length, most of which is the reply."""
    from tests.training.tiny import write_image

    random = np.random.default_rng(0)
    rows = []
    for number in range(ROWS):
        images = [f"{number}-{i}.png" for i in range((0, 1, 3)[number % 3])]
        for image in images:
            write_image(folder / "images" / image, random)
        size = int(min(600, max(20, 150 * np.exp(random.normal(0, 0.8)))))
        letters = "".join(random.choice(list("etaoin shrdlu"), size=size))
        asked = "<image>" * len(images) + letters[: size // 3]
        messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": letters[size // 3 :].strip() + "."}]
        rows.append(json.dumps({"id": str(number), "images": images, "messages": messages}) + "\n")
    (folder / "rows.jsonl").write_text("".join(rows))


def run_way(base: Path, data: Path, way: str, seconds: float, found: Any) -> None:
    """Put what a way did, and the load of the machine, into the queue ``found``."""
    from bench.train_throughput import measure, measure_trl, packed_loss, padded_inputs
    from chiron.errors import InputError
    from chiron.training.batches import Decoder
    from chiron.training.model import add_adapter, plain
    from chiron.training.packing import bins
    from chiron.training.recipe import Adapter, Recipe
    from chiron.training.session import prepare

    stage = {"name": "rows", "data": "rows.jsonl", "steps": 1, "batch": {"tokens": SEQUENCE}, "learning_rate": 4e-5}
    settings = {"name": "bench", "base": str(base), "max_seq_length": SEQUENCE, "precision": "fp32", "stages": [stage]}
    tiled = {"images": {"tile": 32}} if base.name.startswith("internvl") else {}
    try:
        recipe = Recipe.model_validate({**settings, **tiled, "attention": way.partition(", ")[2] if way.startswith("packed") else "sdpa"})
        prepared = prepare(recipe, data)
    except InputError as error:
        found.put(str(error))
        return
    rows, layout, family = prepared.data["rows"], prepared.base.layout, prepared.base.family
    with Decoder(prepared.folder, layout, 1) as decoder:  # decoding is not measured
        pixels = {key: value for _, tiles in decoder.ahead([[[row]] for row in rows]) for key, value in tiles.items()}
    model = add_adapter(prepared.base.model, Adapter(dropout=0.0)).train()
    look: Callable[[Any], Any] = pixels.__getitem__
    if way.startswith("TRL"):
        inputs = partial(padded_inputs, pixels=look, family=family, layout=layout, config=plain(model).config)
        order = "group_by_length" if "by length" in way else "random"
        one = measure_trl(model, seconds, rows, inputs, family=family, order=order)
    else:
        lines = [[rows[i] for i in line] for line in bins([len(r.input_ids) for r in rows], SEQUENCE, seed=0, epoch=0)]
        one = measure(model, seconds, lines, packed_loss(look, layout), padded=False, family=family)
    found.put([round(one.tokens_a_second), f"{one.gib:.2f}", f"{one.used:.0%}", one.steps, f"{os.getloadavg()[0]:.1f}"])


def compare_families(names: Sequence[str], seconds: float, wanted: Sequence[str]) -> None:
    """Print one table. ``names`` and ``wanted``: families and parts of the ways' names; all if empty."""
    heading("Training throughput on a CPU")
    server = multiprocessing.get_context("forkserver")  # it has the libraries loaded, and no threads yet
    server.set_forkserver_preload(["chiron.training.session", "trl", "tests.providers.local.checkpoints"])
    told: list[list[object]] = []
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        write_mixture(data)
        for kind in names or FAMILIES:
            write_base(Path(folder) / kind, kind)
            for way in WAYS:
                if wanted and not any(word in way for word in wanted):
                    continue
                found = server.Queue()
                process = server.Process(target=run_way, args=(Path(folder) / kind, data, way, seconds, found))
                process.start()
                process.join()
                result = found.get() if process.exitcode == 0 else f"ended with {process.exitcode}"
                told.append([kind, way, *(result if isinstance(result, list) else [result, *[""] * 4])])
                print(told[-1], flush=True)
    table(["family", "way", "real tokens/s", "peak GiB", "positions in use", "steps", "load average"], told)
