"""A model, a tokenizer and rows so small that a test can train on them."""
# ruff: noqa: S106 - its tokens are no passwords

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from chiron.phantom.tiny_model import SPECIAL_TOKENS
from chiron.providers.local.tiling import Tiling
from chiron.training.batches import PackedBatch
from chiron.training.encoding import RowEncoder

TILE = 32
PATCH = 8
TOKENS_PER_TILE = 4
KINDS = ("text", "one", "several")


def tiny_tokenizer() -> Any:
    """One token a byte, and the special tokens of InternVL3."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    bytes_ = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(bytes_)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        extra_special_tokens=dict(SPECIAL_TOKENS),
    )


def tiny_tiling() -> Tiling:
    return Tiling(tile=TILE, max_tiles=6)


def tiny_encoder(tokenizer: Any = None) -> RowEncoder:
    return RowEncoder(tokenizer or tiny_tokenizer(), tiling=tiny_tiling(), tokens_per_tile=TOKENS_PER_TILE)


def tiny_model(seed: int = 0, *, attention: str = "sdpa", hidden: int = 32, language: str = "Qwen2") -> Any:
    """A random InternVL of two and two layers in evaluation mode, for the tokens of :func:`tiny_tokenizer`.

    InternVL3 has the language model Qwen2, and InternVL3.5 has Qwen3.
    """
    import transformers
    from transformers import InternVLConfig, InternVLForConditionalGeneration, InternVLVisionConfig

    tokenizer = tiny_tokenizer()
    config = InternVLConfig(
        vision_config=InternVLVisionConfig(
            hidden_size=hidden,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=2 * hidden,
            image_size=(TILE, TILE),
            patch_size=(PATCH, PATCH),
            attention_bias=True,
            layer_scale_init_value=1.0,
            initializer_range=0.1,
        ),
        text_config=getattr(transformers, f"{language}Config")(
            vocab_size=len(tokenizer),
            hidden_size=hidden,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=2 * hidden,
            max_position_embeddings=2048,
            tie_word_embeddings=False,
            # Large enough that what a token sees shows in its logits.
            initializer_range=0.2,
            **({"head_dim": hidden // 2} if language == "Qwen3" else {}),  # wider than its share of the hidden size, as published
        ),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=TOKENS_PER_TILE,
        tie_word_embeddings=False,
    )
    config._attn_implementation = attention
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    model = InternVLForConditionalGeneration(config)
    torch.set_rng_state(state)
    return model.eval()  # type: ignore[no-untyped-call]


def model_inputs(batch: PackedBatch) -> dict[str, Any]:
    """Arguments of transformers' model for a packed batch, without labels: no mask and no cache."""
    tensors = {name: getattr(batch, name) for name in ("input_ids", "position_ids", "pixel_values", "image_grid_thw")}
    images = {name: value for name, value in tensors.items() if value is not None}
    return {**images, "attention_mask": None, "use_cache": False}


def write_rows(folder: Path, count: int, kinds: Sequence[str] = KINDS, *, seed: int = 0, name: str = "rows.jsonl") -> Path:
    """``count`` rows of the kinds in turn, as ``folder/name``, images in ``folder/images``; some have a system turn, some two rounds."""
    random = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        kind = kinds[number % len(kinds)]
        images = [f"{seed}-{number}/{i}.png" for i in range({"text": 0, "one": 1, "several": int(random.integers(2, 4))}[kind])]
        for image in images:
            write_image(folder / "images" / image, random)
        question = (
            "".join(f"Image {i}: <image>\n" for i in range(len(images))) + f"What is {number}?" + " Look." * int(random.integers(0, 6))
        )
        messages = [
            {"role": "user", "content": question},
            {"role": "assistant", "content": f"It is {number}" + " and more" * int(random.integers(0, 4)) + "."},
        ]
        if number % 4 == 1:
            messages.insert(0, {"role": "system", "content": "Be brief."})
        if number % 5 == 2:
            messages += [{"role": "user", "content": "Sure?"}, {"role": "assistant", "content": "Yes, é."}]
        rows.append({"id": f"r{seed}-{number}", "images": images, "messages": messages})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return folder / name


def write_image(path: Path, random: np.random.Generator) -> Path:
    width, height = (int(side) for side in random.integers(16, 100, size=2))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(random.integers(0, 255, size=(height, width, 3), dtype=np.uint8)).save(path)
    return path
