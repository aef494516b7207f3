"""Tiny random checkpoints on disk, calls to put to them, and what transformers itself says to these."""

import asyncio
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from chiron.cases.images import ImageFolder
from chiron.client.call import Call, ImagePart, Message, Reply, TextPart
from chiron.client.config import LocalModel
from chiron.client.images import PictureStore
from chiron.providers.local.backend import VLMBackend
from chiron.providers.local.generation import Completion, Generation, PrefixCache, Request
from chiron.providers.local.provider import Local
from tests.training.tiny import tiny_model, tiny_tokenizer, write_image

SIDE = 64


def write_internvl(folder: Path, seed: int = 0, language: str = "Qwen2") -> Path:
    tiny_model(seed, language=language).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def qwen_tokenizer() -> Any:
    """One token a byte, and the special tokens of Qwen2-VL."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<|endoftext|>", eos_token="<|im_end|>")  # type: ignore[no-untyped-call]  # noqa: S106
    tokenizer.add_special_tokens(
        {"additional_special_tokens": ["<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]}
    )
    return tokenizer


def write_qwen(folder: Path, kind: str) -> Path:
    """A Qwen2-VL (``qwen2_vl``), Qwen2.5-VL (``qwen2_5_vl``) or Qwen3-VL (``qwen3_vl``) of two and two layers."""
    import transformers
    from transformers import Qwen2VLImageProcessorPil

    tokenizer = qwen_tokenizer()
    token = tokenizer.convert_tokens_to_ids
    text: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 2048,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]},
        "initializer_range": 0.2,
    }
    vision: dict[str, Any] = {"depth": 2, "num_heads": 2, "patch_size": 4, "initializer_range": 0.2}
    if kind == "qwen2_vl":
        vision |= {"embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2}
    elif kind == "qwen3_vl":
        vision |= {"hidden_size": 32, "out_hidden_size": 32, "intermediate_size": 64, "num_position_embeddings": 64}
        vision["deepstack_visual_indexes"] = [0, 1]
        text |= {"head_dim": 16, "rope_parameters": {**text["rope_parameters"], "mrope_section": [4, 2, 2]}}
    else:
        # A window of 16 pixels: of two by two merged tokens.
        vision |= {"hidden_size": 32, "out_hidden_size": 32, "intermediate_size": 64, "window_size": 16, "fullatt_block_indexes": [1]}
    names = {"qwen2_vl": "Qwen2VL", "qwen2_5_vl": "Qwen2_5_VL", "qwen3_vl": "Qwen3VL"}
    config = getattr(transformers, f"{names[kind]}Config")(
        text_config=text,
        vision_config=vision,
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
    )
    state = torch.get_rng_state()
    torch.manual_seed(3)
    getattr(transformers, f"{names[kind]}ForConditionalGeneration")(config).save_pretrained(folder)
    torch.set_rng_state(state)
    tokenizer.save_pretrained(folder)
    Qwen2VLImageProcessorPil(patch_size=4, merge_size=2, size={"shortest_edge": 64, "longest_edge": 2048}).save_pretrained(folder)
    return folder


def tiny_language(tokenizer: Any) -> dict[str, Any]:
    """Sizes of a language model of two layers."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 2048,
        "initializer_range": 0.2,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
    }


def byte_tokenizer(end: str, *specials: str, **named: str) -> Any:
    """One token a byte, one for two line breaks, and these special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "\u010a\u010a"]
    backend = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[("\u010a", "\u010a")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token=end, extra_special_tokens=named)  # type: ignore[no-untyped-call]  # noqa: S106
    tokenizer.add_special_tokens({"additional_special_tokens": list(specials)})
    return tokenizer


def smolvlm_tokenizer() -> Any:
    places = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    return byte_tokenizer("<end_of_utterance>", "<|im_start|>", "<fake_token_around_image>", "<image>", "<global-img>", *places)


def gemma_tokenizer() -> Any:
    named = {"boi_token": "<start_of_image>", "image_token": "<image_soft_token>", "eoi_token": "<end_of_image>"}
    return byte_tokenizer("<end_of_turn>", "<bos>", "<start_of_turn>", **named)


def write_smolvlm(folder: Path, kind: str) -> Path:
    """SmolVLM (``idefics3``) or SmolVLM2 (``smolvlm``) of two and two layers: tiles of 32 pixels and 4 tokens, up to 3 by 3."""
    import transformers

    name = "Idefics3" if kind == "idefics3" else "SmolVLM"
    tokenizer = smolvlm_tokenizer()
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }
    config = getattr(transformers, f"{name}Config")(
        text_config={"model_type": "llama", **tiny_language(tokenizer)},
        vision_config={**vision, "initializer_range": 0.2},
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=tokenizer.pad_token_id,
    )
    processor = getattr(transformers, f"{name}ImageProcessorPil")(size={"longest_edge": 96}, max_image_size={"longest_edge": 32})
    return _write(folder, getattr(transformers, f"{name}ForConditionalGeneration"), config, tokenizer, processor)


def write_gemma(folder: Path) -> Path:
    """Gemma 3 of three and two layers, with a window of 12 tokens; images of 32 pixels take 16 tokens, so that they exceed the window."""
    import transformers

    tokenizer = gemma_tokenizer()
    token = tokenizer.convert_tokens_to_ids
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 4,
    }
    text = {**tiny_language(tokenizer), "num_hidden_layers": 3, "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 12}
    config = transformers.Gemma3Config(
        text_config={**text, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
        vision_config={"model_type": "siglip_vision_model", **vision, "vision_use_head": False},
        mm_tokens_per_image=16,
        image_token_index=token("<image_soft_token>"),
        boi_token_index=token("<start_of_image>"),
        eoi_token_index=token("<end_of_image>"),
    )
    return _write(
        folder,
        transformers.Gemma3ForConditionalGeneration,
        config,
        tokenizer,
        transformers.Gemma3ImageProcessorPil(size={"height": 32, "width": 32}),
    )


def _write(folder: Path, architecture: Any, config: Any, tokenizer: Any, processor: Any) -> Path:
    state = torch.get_rng_state()
    torch.manual_seed(3)
    model = architecture(config)
    for name, weight in model.named_parameters():
        if "mm_input_projection_weight" in name:  # it would be zeros
            torch.nn.init.normal_(weight, std=0.2)
    torch.set_rng_state(state)
    for saved in (model, tokenizer, processor):
        saved.save_pretrained(folder)
    return folder


def write_family(folder: Path, kind: str) -> Path:
    """A tiny random checkpoint of a ``model_type``, or ``internvl3_5``: InternVL with the language model Qwen3."""
    if kind in {"idefics3", "smolvlm"}:
        return write_smolvlm(folder, kind)
    if kind == "gemma3":
        return write_gemma(folder)
    if kind.startswith("internvl"):
        return write_internvl(folder, language="Qwen3" if kind == "internvl3_5" else "Qwen2")
    return write_qwen(folder, kind)


def config_of(folder: Path, **changes: Any) -> LocalModel:
    return LocalModel.model_validate({"provider": "local", "path": str(folder), "device": "cpu", **changes})


def write_pictures(folder: Path, count: int) -> tuple[PictureStore, list[ImagePart]]:
    random = np.random.default_rng(7)
    store, pictures = PictureStore(), []
    for number in range(count):
        write_image(folder / f"{number}.png", random)
        checked = ImageFolder(folder).check(f"{number}.png")
        store.add(checked.sha256, checked.path)
        pictures.append(ImagePart(checked.sha256, SIDE))
    return store, pictures


def a_call(
    *parts: str | ImagePart, temperature: float = 0.0, max_tokens: int = 12, draw: int = 0, system: str | None = "Be brief."
) -> Call:
    messages = [Message("user", tuple(TextPart(part) if isinstance(part, str) else part for part in parts))]
    if system is not None:
        messages.insert(0, Message("system", (TextPart(system),)))
    return Call("intern", "m", "local:test", tuple(messages), temperature, max_tokens, draw)


def ask(provider: Local, *calls: Call) -> list[Reply]:
    async def together() -> list[Reply]:
        try:
            return await asyncio.gather(*(provider.complete(call) for call in calls))
        finally:
            await provider.close()

    return asyncio.run(together())


def as_processed(folder: Path, images: Sequence[Any]) -> dict[str, torch.Tensor]:
    """The image inputs that transformers' own image processor makes, with the settings of a checkpoint."""
    import json

    import transformers

    kind = json.loads((folder / "preprocessor_config.json").read_text())["image_processor_type"].removesuffix("Pil")
    processor = getattr(transformers, f"{kind}Pil").from_pretrained(folder)
    found = dict(processor(images=[image.convert("RGB") for image in images], return_tensors="pt"))
    return {name: value for name, value in found.items() if name not in {"num_crops", "pixel_attention_mask"}}


def generated(model: Any, ids: Sequence[int], max_tokens: int, stop: Sequence[int], **inputs: Any) -> list[int]:
    """What ``model.generate`` says, greedily, without the token that ends it."""
    prompt = torch.tensor([list(ids)])
    with torch.inference_mode():
        out = model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=max_tokens,
            do_sample=False,
            eos_token_id=list(stop),
            pad_token_id=0,
            **inputs,
        )
    said: list[int] = out[0, len(ids) :].tolist()
    return said[:-1] if said[-1] in stop else said


def generate(backend: VLMBackend, requests: Iterable[Request], prefixes: PrefixCache) -> list[Completion]:
    """Generate the replies to all requests together, in their order."""
    generation = Generation(backend, prefixes)
    ordered = list(requests)
    answered = {id(request): completion for request, completion in generation.admit(ordered)}
    while generation.pending:
        answered.update((id(request), completion) for request, completion in generation.step())
    return [answered[id(request)] for request in ordered]
